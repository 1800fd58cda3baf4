//! Guests for tests: an initramfs with busybox, drivers and our programs, and a run of `sky-vmm` with it.
//!
//! The test says in shell what the guest is to do. Lines of the form `KEY=VALUE` that the guest prints are its
//! answers.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::hash::{Hash, Hasher};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::command;
use crate::disk::Disk;
use crate::error::{Error, Result, last_lines};
use crate::initramfs::Initramfs;
use crate::packages::{self, Kernel};
use crate::programs::{self, Program};
use crate::{cache, modules, paths, place};

mod running;
mod turn;

pub use running::Running;
pub use turn::Turn;

/// Drivers for disks and ext4, and for reading MSRs; needs follow by themselves, and crc32c is only named when it is used.
const MODULES: [&str; 5] = ["virtio_mmio", "virtio_blk", "ext4", "crc32c_generic", "msr"];
/// The kernel's command line unless a test wants another.
pub const CMDLINE: &str = "console=ttyS0 reboot=k panic=-1 quiet";
/// Printed first by every init.
pub const INIT_MARKER: &str = "GUEST_INIT=reached";
/// After which a guest hangs. One in an emulated machine takes less than a minute, and ten when the host is very busy.
pub const LIMIT: Duration = Duration::from_secs(1200);
/// After which one that has not come to its init hangs: it never will (docs/lab.md).
pub const BOOT_LIMIT: Duration = Duration::from_secs(300);
/// What is said of one that does not.
pub(crate) const STUCK: &str = "the guest stopped on its way to its init";
const OUTPUT_LINES: usize = 40;

/// Mounts [`packages::rootfs`] from a disk, which init names in `$ROOTFS`, on `/root-fs`, with a writable `/tmp` and
/// `/root`; `inside COMMAND` runs a command in it.
pub const MOUNT_ROOTFS: &str = "
mkdir -p /root-fs && mount -t ext4 -o ro $ROOTFS /root-fs
for each in proc sys dev; do mount -o bind /$each /root-fs/$each; done
for each in tmp root; do mount -t tmpfs tmpfs /root-fs/$each; done
inside() {
    env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C chroot /root-fs \"$@\"
}
";

/// Drivers for file systems other than ext4.
const FILE_SYSTEMS: [&str; 2] = ["xfs", "btrfs"];

/// What every init does before the test's own commands.
const PROLOGUE: &str = "#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
echo GUEST_INIT=reached
read uptime idle < /proc/uptime; echo GUEST_UPTIME=$uptime
for module in /modules/*.ko; do insmod $module; done
";

/// Writes a guest's initramfs to `path`. `script` is what init does before it switches the machine off. Programs of ours
/// are there if it names them: what is not there need not be unpacked at each boot.
pub fn initramfs(kernel: &Kernel, script: &str, path: &Path) -> Result<()> {
    initramfs_from(&[base(kernel)?], script, path)
}

fn initramfs_from(parts: &[PathBuf], script: &str, path: &Path) -> Result<()> {
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend(fs::read(part).map_err(Error::file("read", part))?);
    }
    let mut image = Initramfs::new();
    for program in Program::GUEST {
        if !script.contains(program.name()) {
            continue;
        }
        image.copy(&format!("bin/{}", program.name()), &program.path()?)?;
    }
    let init = format!("{PROLOGUE}{script}\nsync\npoweroff -f\n");
    image.file("init", init.as_bytes());
    // The kernel unpacks several archives, one behind the other.
    bytes.extend(image.finish());
    fs::write(path, bytes).map_err(Error::file("write", path))
}

/// The part that is the same for all guests of a kernel, made once: in the lab, looking for modules is slow.
fn base(kernel: &Kernel) -> Result<PathBuf> {
    let mut hash = std::hash::DefaultHasher::new();
    MODULES.hash(&mut hash);
    let name = format!("guest-base-{}-{:016x}.cpio", kernel.release(), hash.finish());
    cache::once(&paths::lab().join("kernels").join(name), |partial| {
        let mut image = Initramfs::new();
        image.copy("bin/busybox", &packages::busybox()?)?;
        for applet in applets()? {
            image.symlink(&format!("bin/{applet}"), "busybox");
        }
        modules::add(&mut image, kernel, &MODULES)?;
        for dir in ["proc", "sys", "dev", "tmp", "mnt"] {
            image.directory(dir);
        }
        fs::write(partial, image.finish()).map_err(Error::file("write", partial))
    })
}

/// Drivers for XFS and btrfs, as a part of an initramfs, made once.
pub fn file_systems(kernel: &Kernel) -> Result<PathBuf> {
    let name = format!("guest-file-systems-{}.cpio", kernel.release());
    cache::once(&paths::lab().join("kernels").join(name), |partial| {
        let mut image = Initramfs::new();
        modules::add(&mut image, kernel, &FILE_SYSTEMS)?;
        fs::write(partial, image.finish()).map_err(Error::file("write", partial))
    })
}

/// The names under which busybox can be called.
fn applets() -> Result<Vec<String>> {
    let list = command::run(Command::new(packages::busybox()?).arg("--list"))?;
    Ok(String::from_utf8_lossy(&list).lines().filter(|name| *name != "busybox").map(str::to_string).collect())
}

/// Fetches and builds all that guests need. Done before the lab is entered, which has neither network nor cargo.
pub fn prepare() -> Result<()> {
    if place::inside_lab() {
        return Ok(());
    }
    packages::busybox()?;
    for flavour in packages::Flavour::GUESTS {
        let kernel = Kernel::get(flavour)?;
        kernel.vmlinux()?;
        base(&kernel)?;
    }
    packages::rootfs()?;
    programs::sky_vmm()?;
    programs::insight_probe()?;
    programs::hints()?;
    Program::GUEST.iter().try_for_each(|program| program.path().map(drop))
}

/// A run of `sky-vmm run`.
#[derive(Debug)]
pub struct GuestRun {
    args: Vec<OsString>,
    vmm: Option<PathBuf>,
    env: Vec<(String, String)>,
    limit: Duration,
    cpus: u32,
    waits: bool,
}

impl GuestRun {
    /// Boots an image with an initramfs, with 512 MiB of memory.
    pub fn new(image: &Path, initramfs: &Path) -> GuestRun {
        GuestRun::bare()
            .option("--kernel", image)
            .option("--initrd", initramfs)
            .option("--cmdline", CMDLINE)
            .option("--memory", "512M")
    }

    /// `sky-vmm run` without any option.
    pub fn bare() -> GuestRun {
        GuestRun { args: vec!["run".into()], vmm: None, env: vec![], limit: LIMIT, cpus: 1, waits: true }
    }

    /// Adds an option with its value.
    pub fn option(mut self, name: &str, value: impl AsRef<OsStr>) -> GuestRun {
        self.args.extend([name.into(), value.as_ref().into()]);
        self
    }

    /// The number of virtual CPUs.
    pub fn cpus(mut self, count: u32) -> GuestRun {
        self.cpus = count;
        self.option("--cpus", count.to_string())
    }

    /// Adds a raw disk.
    pub fn disk(self, disk: &Disk) -> GuestRun {
        let path = disk.path().display().to_string().replace(',', ",,");
        self.option("--disk", format!("path={path},format=raw"))
    }

    /// Adds a disk with [`packages::rootfs`] that the guest cannot write.
    pub fn rootfs(self) -> Result<GuestRun> {
        let path = packages::rootfs()?.display().to_string().replace(',', ",,");
        Ok(self.option("--disk", format!("path={path},format=raw,readonly=on")))
    }

    /// Says what to monitor.
    pub fn monitor(self, file: &Path) -> GuestRun {
        self.option("--monitor", file)
    }

    /// Takes another program than `sky-vmm`, one with the same options.
    pub fn vmm(mut self, program: PathBuf) -> GuestRun {
        self.vmm = Some(program);
        self
    }

    /// Sets a variable of the program's environment.
    pub fn env(mut self, name: &str, value: &str) -> GuestRun {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Does not wait for its [`Turn`]: for a run that is to meet another.
    pub fn beside_another(mut self) -> GuestRun {
        self.waits = false;
        self
    }

    /// Kills it when it takes longer.
    pub fn timeout(mut self, limit: Duration) -> GuestRun {
        self.limit = limit;
        self
    }

    fn command(&self) -> Result<Command> {
        let vmm = match &self.vmm {
            Some(program) => program.clone(),
            None => programs::sky_vmm()?,
        };
        let mut command = Command::new(vmm);
        command.args(&self.args).envs(self.env.iter().cloned());
        Ok(command)
    }

    fn turn(&self) -> Result<Option<Turn>> {
        if self.waits { Turn::wait(self.cpus) } else { Ok(None) }
    }

    /// Starts it, and comes back while it runs.
    pub fn spawn(self) -> Result<Running> {
        let turn = self.turn()?;
        Running::start(self.command()?.stdin(Stdio::piped()), self.limit, turn)
    }

    /// Runs to the end. That the guest, or sky-vmm, was not content is no error here.
    pub fn run(self) -> Result<Finished> {
        let turn = self.turn()?;
        Running::start(self.command()?.stdin(Stdio::null()), self.limit, turn)?.finish()
    }
}

/// What a run left.
#[derive(Clone, Debug)]
pub struct Finished {
    /// How sky-vmm ended.
    pub status: ExitStatus,
    /// What the guest printed.
    pub serial: String,
    /// What sky-vmm printed on standard error.
    pub messages: String,
    /// How long the guest took to its init, from the start of sky-vmm.
    pub init_after: Option<Duration>,
}

impl Finished {
    /// The guest's answers; of several with the same key, the last.
    pub fn markers(&self) -> HashMap<&str, &str> {
        markers(&self.serial)
    }

    /// One answer, or an error that shows what the guest printed.
    pub fn marker(&self, key: &str) -> Result<&str> {
        self.markers().get(key).copied().ok_or_else(|| self.error(format!("did not say {key}")))
    }

    /// Fails unless the guest reached init, was switched off by itself and sky-vmm ended with status 0.
    pub fn ok(self) -> Result<Finished> {
        if !self.status.success() {
            let how = match self.status.signal() {
                Some(signal) => format!("sky-vmm was killed by signal {signal}"),
                None => format!("sky-vmm ended with {}", self.status),
            };
            return Err(self.error(how));
        }
        if !self.serial.contains(INIT_MARKER) {
            return Err(self.error("never reached its init".into()));
        }
        Ok(self)
    }

    fn error(&self, problem: String) -> Error {
        let output = last_lines(format!("{}\n{}", self.serial, self.messages).as_bytes(), OUTPUT_LINES);
        Error::Guest { problem, output }
    }
}

/// Finds the lines `KEY=VALUE`, where a key is of capital letters, digits and underscores.
fn markers(serial: &str) -> HashMap<&str, &str> {
    let is_key = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_uppercase())
            && text.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
    };
    serial.lines().filter_map(|line| line.trim().split_once('=')).filter(|(key, _)| is_key(key)).collect()
}

/// A directory for a test's files, with the paths that tests need most.
#[derive(Debug)]
pub struct Scratch {
    dir: tempfile::TempDir,
}

impl Scratch {
    /// An empty directory, removed when dropped.
    pub fn new() -> Result<Scratch> {
        let dir = tempfile::tempdir().map_err(Error::file("create a directory in", std::env::temp_dir()))?;
        Ok(Scratch { dir })
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An initramfs in it whose init runs `script`.
    pub fn initramfs(&self, kernel: &Kernel, script: &str) -> Result<PathBuf> {
        let path = self.path(&format!("initramfs-{}", kernel.release()));
        initramfs(kernel, script, &path)?;
        Ok(path)
    }

    /// The same with drivers for [`file_systems`].
    pub fn initramfs_for_file_systems(&self, kernel: &Kernel, script: &str) -> Result<PathBuf> {
        let path = self.path(&format!("initramfs-{}", kernel.release()));
        initramfs_from(&[base(kernel)?, file_systems(kernel)?], script, &path)?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_from_other_lines() {
        let serial =
            "[ 0.1] Command line: console=ttyS0\r\nGUEST_INIT=reached\r\nNPROC=2\r\nname=x\nNPROC=4\n=\n";
        let found = markers(serial);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found["NPROC"], "4");
        assert_eq!(found["GUEST_INIT"], "reached");
    }

    #[test]
    fn the_marker_is_what_the_prologue_prints() {
        assert!(PROLOGUE.contains(&format!("echo {INIT_MARKER}\n")));
    }
}
