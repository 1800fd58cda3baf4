//! Programs that the host must have. Root gets them installed; anybody else is told the one command to run.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use super::apt::Apt;
use crate::command;
use crate::error::{Error, Result};
use crate::progress;

/// QEMU before this delivers no debug-register stops to a nested guest.
const QEMU_MAJOR: u32 = 10;
const QEMU: &str = "qemu-system-x86_64";
/// Together, always: a newer qemu-utils from elsewhere would be removed as a conflict otherwise.
const QEMU_PACKAGES: [&str; 2] = ["qemu-system-x86", "qemu-utils"];

/// The firmware of Bochs's machine.
pub const BOCHS_BIOS: &str = "/usr/share/bochs/BIOS-bochs-latest";
/// The firmware of its display.
pub const BOCHS_VGA_BIOS: &str = "/usr/share/bochs/VGABIOS-lgpl-latest";
/// What must be there besides: GRUB for the CD.
const GRUB_MODULES: &str = "/usr/lib/grub/i386-pc/linux.mod";
/// Where Debian keeps a list of files for each installed package.
const DPKG_INFO: &str = "/var/lib/dpkg/info";
const BOCHS_PROGRAMS: [&str; 4] = ["bochs", "grub-mkrescue", "xorriso", "mformat"];
const BOCHS_PACKAGES: [&str; 8] =
    ["bochs", "bochs-term", "bochsbios", "vgabios", "grub-common", "grub-pc-bin", "xorriso", "mtools"];

/// Two threads of a process must not both start an installation.
static INSTALLING: Mutex<()> = Mutex::new(());

/// A program from a package of the host's own release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// Makes ext4 images.
    Mke2fs,
    /// Reads ext4 images.
    Debugfs,
    /// Checks ext4 images.
    E2fsck,
    /// Makes ext4 images larger.
    Resize2fs,
    /// Unpacks kernels and modules.
    Xz,
    /// Unpacks kernels and modules.
    Zstd,
    /// Unpacks kernels.
    Lz4,
    /// Writes down a program's system calls.
    Strace,
    /// Loads disks and measures them.
    Fio,
    /// Serves disks over NBD, with plugins.
    Nbdkit,
    /// Serves QEMU's formats over NBD.
    QemuNbd,
    /// Makes images of QEMU's formats.
    QemuImg,
    /// Makes block devices of files.
    Losetup,
}

impl Tool {
    /// The program's name.
    pub fn program(self) -> &'static str {
        match self {
            Tool::Mke2fs => "mke2fs",
            Tool::Debugfs => "debugfs",
            Tool::E2fsck => "e2fsck",
            Tool::Resize2fs => "resize2fs",
            Tool::Xz => "xz",
            Tool::Zstd => "zstd",
            Tool::Lz4 => "lz4",
            Tool::Strace => "strace",
            Tool::Fio => "fio",
            Tool::Nbdkit => "nbdkit",
            Tool::QemuNbd => "qemu-nbd",
            Tool::QemuImg => "qemu-img",
            Tool::Losetup => "losetup",
        }
    }

    fn package(self) -> &'static str {
        match self {
            Tool::Mke2fs | Tool::Debugfs | Tool::E2fsck | Tool::Resize2fs => "e2fsprogs",
            Tool::Xz => "xz-utils",
            Tool::Zstd => "zstd",
            Tool::Lz4 => "lz4",
            Tool::Strace => "strace",
            Tool::Fio => "fio",
            Tool::Nbdkit => "nbdkit",
            Tool::QemuNbd | Tool::QemuImg => "qemu-utils",
            Tool::Losetup => "mount",
        }
    }
}

/// A command that runs `tool`, installed first if it is missing.
pub fn ensure(tool: Tool) -> Result<Command> {
    let _one_at_a_time = INSTALLING.lock();
    if command::find(tool.program()).is_none() {
        install(None, &[tool.package()], &format!("{} is missing", tool.program()))?;
    }
    match command::find(tool.program()) {
        Some(path) => Ok(Command::new(path)),
        None => Err(Error::Missing(format!("{} is not in the package {}", tool.program(), tool.package()))),
    }
}

/// The path of a QEMU that is new enough, installed first if there is none.
pub fn qemu() -> Result<PathBuf> {
    let _one_at_a_time = INSTALLING.lock();
    let found = match version()? {
        Some(major) if major >= QEMU_MAJOR => None,
        Some(major) => Some(format!("QEMU {major} is too old for the lab, which needs {QEMU_MAJOR}")),
        None => Some(format!("{QEMU} is missing")),
    };
    if let Some(problem) = found {
        let codename = codename();
        let suite = (codename == "bookworm").then_some("bookworm-backports");
        install(suite, &QEMU_PACKAGES, &problem)?;
        if version()?.is_none_or(|major| major < QEMU_MAJOR) {
            return Err(Error::Missing(format!("{problem}, and {codename} has no newer one")));
        }
    }
    command::find(QEMU).ok_or_else(|| Error::Missing(format!("{QEMU} is missing")))
}

/// The programs that the machine in Bochs is made and run with.
#[derive(Clone, Debug)]
pub struct Bochs {
    /// The emulator.
    pub bochs: PathBuf,
    /// Makes a CD that boots.
    pub mkrescue: PathBuf,
}

/// Bochs and what its CD is made with, installed first if something is missing.
pub fn bochs() -> Result<Bochs> {
    let _one_at_a_time = INSTALLING.lock();
    if let Some(problem) = bochs_lacks() {
        install(None, &BOCHS_PACKAGES, &problem)?;
        if let Some(problem) = bochs_lacks() {
            return Err(Error::Missing(format!("{problem}, and {} has it elsewhere", codename())));
        }
    }
    let path = |name: &str| command::find(name).ok_or_else(|| Error::Missing(format!("{name} is missing")));
    Ok(Bochs { bochs: path("bochs")?, mkrescue: path("grub-mkrescue")? })
}

fn bochs_lacks() -> Option<String> {
    let files = [BOCHS_BIOS, BOCHS_VGA_BIOS, GRUB_MODULES];
    let program = BOCHS_PROGRAMS.iter().find(|name| command::find(name).is_none());
    // What draws on a terminal is a plugin that lies elsewhere in every release, but is a package of its own.
    let [bochs, plugin] =
        ["bochs", "bochs-term"].map(|name| Path::new(DPKG_INFO).join(format!("{name}.list")).exists());
    let plugin = (bochs && !plugin).then_some(&"the package bochs-term");
    let missing = program.or_else(|| files.iter().find(|file| !Path::new(file).exists())).or(plugin)?;
    Some(format!("{missing} is missing"))
}

fn version() -> Result<Option<u32>> {
    let Some(path) = command::find(QEMU) else { return Ok(None) };
    let text = command::run(Command::new(path).arg("--version"))?;
    Ok(major_version(&String::from_utf8_lossy(&text)))
}

/// `QEMU emulator version 10.0.2 (Debian ...)` gives 10.
fn major_version(text: &str) -> Option<u32> {
    let digits = text.split_once("version ")?.1;
    digits.split('.').next()?.parse().ok()
}

fn install(suite: Option<&str>, packages: &[&str], problem: &str) -> Result<()> {
    let codename = codename();
    let list = packages.join(" ");
    // SAFETY: geteuid has no preconditions and cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    if !["bookworm", "trixie"].contains(&codename.as_str()) {
        return Err(Error::Missing(format!(
            "{problem}; install Debian's {list} or their like on this system"
        )));
    }
    if !root {
        return Err(Error::Missing(format!("{problem}; run this once:\n  {}", advice(suite, &list))));
    }
    progress::note(&format!("{problem}: installing {list}"));
    Apt::open(&codename)?.install(suite, packages)
}

/// What a user who is not root has to run.
fn advice(suite: Option<&str>, packages: &str) -> String {
    match suite {
        None => format!("sudo apt-get install -y {packages}"),
        Some(suite) => format!(
            "sudo sh -c 'echo deb http://deb.debian.org/debian {suite} main > /etc/apt/sources.list.d/{suite}.list \
             && apt-get update && apt-get install -y -t {suite} {packages}'"
        ),
    }
}

fn codename() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).unwrap_or("unknown");
    name.trim_matches('"').to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(major_version("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright"), Some(10));
        assert_eq!(major_version("QEMU emulator version 7.2.19"), Some(7));
        assert_eq!(major_version("something else"), None);
    }

    #[test]
    fn the_advice_is_one_command() {
        let text = advice(Some("bookworm-backports"), "qemu-system-x86 qemu-utils");
        assert_eq!(text.lines().count(), 1);
        assert!(text.ends_with("-t bookworm-backports qemu-system-x86 qemu-utils'"), "{text}");
    }
}
