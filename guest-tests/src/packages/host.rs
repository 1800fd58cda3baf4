//! Programs that the host must have. Root gets them installed; anybody else is told the one command to run.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use super::apt::Apt;
use crate::command;
use crate::error::{Error, Result};
use crate::progress;

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
    /// Tells the free blocks of ext4 images.
    Dumpe2fs,
    /// Makes XFS images.
    MkfsXfs,
    /// Reads XFS images.
    XfsDb,
    /// Makes btrfs images.
    MkfsBtrfs,
    /// Reads btrfs images.
    Btrfs,
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
    /// Works on many small files as a mail server does.
    Postmark,
    /// Keeps tables in a file.
    Sqlite,
}

impl Tool {
    /// The program's name.
    pub fn program(self) -> &'static str {
        match self {
            Tool::Mke2fs => "mke2fs",
            Tool::Debugfs => "debugfs",
            Tool::E2fsck => "e2fsck",
            Tool::Resize2fs => "resize2fs",
            Tool::Dumpe2fs => "dumpe2fs",
            Tool::MkfsXfs => "mkfs.xfs",
            Tool::XfsDb => "xfs_db",
            Tool::MkfsBtrfs => "mkfs.btrfs",
            Tool::Btrfs => "btrfs",
            Tool::Xz => "xz",
            Tool::Zstd => "zstd",
            Tool::Lz4 => "lz4",
            Tool::Strace => "strace",
            Tool::Fio => "fio",
            Tool::Nbdkit => "nbdkit",
            Tool::QemuNbd => "qemu-nbd",
            Tool::QemuImg => "qemu-img",
            Tool::Losetup => "losetup",
            Tool::Postmark => "postmark",
            Tool::Sqlite => "sqlite3",
        }
    }

    fn package(self) -> &'static str {
        match self {
            Tool::Mke2fs | Tool::Debugfs | Tool::E2fsck | Tool::Resize2fs | Tool::Dumpe2fs => "e2fsprogs",
            Tool::MkfsXfs | Tool::XfsDb => "xfsprogs",
            Tool::MkfsBtrfs | Tool::Btrfs => "btrfs-progs",
            Tool::Xz => "xz-utils",
            Tool::Zstd => "zstd",
            Tool::Lz4 => "lz4",
            Tool::Strace => "strace",
            Tool::Fio => "fio",
            Tool::Nbdkit => "nbdkit",
            Tool::QemuNbd | Tool::QemuImg => "qemu-utils",
            Tool::Losetup => "mount",
            Tool::Postmark => "postmark",
            Tool::Sqlite => "sqlite3",
        }
    }
}

/// A command that runs `tool`, installed first if it is missing.
pub fn ensure(tool: Tool) -> Result<Command> {
    let _one_at_a_time = INSTALLING.lock();
    if command::find(tool.program()).is_none() {
        install(&[tool.package()], &format!("{} is missing", tool.program()))?;
    }
    match command::find(tool.program()) {
        Some(path) => Ok(Command::new(path)),
        None => Err(Error::Missing(format!("{} is not in the package {}", tool.program(), tool.package()))),
    }
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
        install(&BOCHS_PACKAGES, &problem)?;
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

fn install(packages: &[&str], problem: &str) -> Result<()> {
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
        return Err(Error::Missing(format!("{problem}; run this once:\n  sudo apt-get install -y {list}")));
    }
    progress::note(&format!("{problem}: installing {list}"));
    Apt::open(&codename)?.install(packages)
}

/// What a user who is not root has to run.
fn codename() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).unwrap_or("unknown");
    name.trim_matches('"').to_string()
}
