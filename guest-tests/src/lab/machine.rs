//! The lab's machine: QEMU's software emulation of an AMD processor with SVM, with Debian's kernel in it.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Stdio};

use crate::error::{Error, Result};
use crate::initramfs::Initramfs;
use crate::packages::{Flavour, Kernel, Qemu};
use crate::programs::Program;
use crate::{modules, paths};

/// Modules for the agent's ports, the host's files, KVM, and a watchdog against a kernel that hangs.
const MODULES: [&str; 7] =
    ["virtio_pci", "virtio_console", "9pnet_virtio", "9p", "i6300esb", "kvm", "kvm-amd"];
const MEMORY_MIB: u32 = 4096;
/// Without five-level paging: with it, the emulation of a guest's exit was seen to leave the processor in the wrong
/// mode, and the lab's kernel in a recursion of page faults. Without the fast string instructions: QEMU takes them byte by
/// byte, and kernels that see them use them to clear and to copy every page.
const CPU: &str = "max,+svm,la57=off,erms=off,fsrm=off";
/// Where QEMU notes resets of the emulated processors, in the machine's directory.
pub(super) const RESET_LOG: &str = "resets.log";
const IDLE_SECONDS: u32 = 120;

/// Which machine to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timing {
    /// As fast as the host allows.
    Fast,
    /// One CPU whose clock counts instructions: the same run gives the same figures on a busy host.
    CountInstructions,
}

impl Timing {
    /// How many commands can run at once.
    pub(super) fn slots(self) -> usize {
        match self {
            Timing::Fast => 4,
            Timing::CountInstructions => 1,
        }
    }

    /// The first processor runs no guests, the agent sees to that. When any other restores floating-point registers, QEMU
    /// clears a bit of the *first* one's `hflags2` without a lock (`cpu_clear_ignne` in
    /// target/i386/tcg/system/fpu_helper.c), and may undo what `VMRUN` or an exit just changed there: whether nested
    /// paging is on, whether interrupts are let through. Guests triple-faulted of it or waited for ever, and the lab's
    /// kernel ran into a recursion of page faults.
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Timing::Fast => &["-accel", "tcg,thread=multi", "-smp", "3"],
            Timing::CountInstructions => &["-accel", "tcg,thread=single", "-smp", "1", "-icount", "shift=0"],
        }
    }
}

/// All that a machine is started from.
pub(super) struct Machine {
    qemu: Qemu,
    kernel: Kernel,
    agent: std::path::PathBuf,
    timing: Timing,
}

impl Machine {
    /// Gets everything that is needed: QEMU, the kernel, the agent.
    pub(super) fn prepare(timing: Timing) -> Result<Machine> {
        Ok(Machine {
            qemu: Qemu::get()?,
            kernel: Kernel::get(Flavour::Lab)?,
            agent: Program::LabAgent.path()?,
            timing,
        })
    }

    /// Changes when a running machine is no longer what would be started now.
    pub(super) fn stamp(&self) -> Result<String> {
        let agent = std::fs::read(&self.agent).map_err(Error::file("read", &self.agent))?;
        let mut hash = std::hash::DefaultHasher::new();
        std::hash::Hash::hash_slice(&agent, &mut hash);
        let hash = std::hash::Hasher::finish(&hash);
        let (qemu, kernel) = (self.qemu.version(), self.kernel.release());
        Ok(format!("{qemu} {kernel} {CPU} {hash:016x} {}", paths::target().display()))
    }

    /// Starts QEMU in `dir`, where its sockets and its console's log appear. It holds `alive` for as long as it runs.
    pub(super) fn start(&self, dir: &Path, alive: File) -> Result<Child> {
        self.image(dir)?;
        let log = dir.join("qemu.log");
        let errors = File::create(&log).map_err(Error::file("create", &log))?;
        let mut qemu = self.qemu.command();
        // Relative names keep the sockets' paths short: the system allows 107 bytes.
        qemu.current_dir(dir);
        qemu.args(["-nodefaults", "-no-reboot", "-display", "none", "-monitor", "none", "-cpu", CPU]);
        qemu.args(self.timing.arguments()).args(["-m", &MEMORY_MIB.to_string()]);
        qemu.args(["-serial", "file:console.log", "-device", "i6300esb", "-action", "watchdog=poweroff"]);
        // Tells a machine that switched itself off from one whose processor gave up; see `State::explain`.
        qemu.args(["-d", "cpu_reset", "-D", RESET_LOG]);
        qemu.arg("-kernel").arg(self.kernel.bzimage()).args(["-initrd", "initrd"]);
        qemu.args(["-append", "console=ttyS0 panic=1 quiet"]);
        let target = paths::target();
        qemu.args(["-virtfs", &share(Path::new("/"), "hostroot", ",readonly=on,multidevs=remap")]);
        qemu.args(["-virtfs", &share(&target, "target", "")]);
        qemu.args(["-device", "virtio-serial-pci"]);
        for slot in 0..self.timing.slots() {
            qemu.args(["-chardev", &format!("socket,id=slot{slot},path=slot{slot}.sock,server=on,wait=off")]);
            qemu.args(["-device", &format!("virtserialport,chardev=slot{slot},name=sky.slot{slot}")]);
        }
        // Its own process group: Ctrl-C in somebody's terminal must not take the shared lab away from the others.
        qemu.process_group(0).stdin(alive).stdout(Stdio::null()).stderr(errors);
        qemu.spawn().map_err(|source| Error::Spawn { program: "QEMU".into(), source })
    }

    fn image(&self, dir: &Path) -> Result<()> {
        let mut image = Initramfs::new();
        image.copy("init", &self.agent)?;
        modules::add(&mut image, &self.kernel, &MODULES)?;
        let settings = format!(
            "workspace={}\ntarget={}\nslots={}\nidle={IDLE_SECONDS}\n",
            paths::workspace().display(),
            paths::target().display(),
            self.timing.slots()
        );
        image.file("lab.conf", settings.as_bytes());
        let path = dir.join("initrd");
        std::fs::write(&path, image.finish()).map_err(Error::file("write", &path))
    }
}

/// QEMU's options separate by commas; one that belongs to a path is doubled.
fn share(path: &Path, tag: &str, more: &str) -> String {
    let path = path.display().to_string().replace(',', ",,");
    format!("local,path={path},mount_tag={tag},security_model=none{more}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_in_a_path_is_no_separator() {
        let option = share(Path::new("/a,b"), "tag", ",readonly=on");
        assert_eq!(option, "local,path=/a,,b,mount_tag=tag,security_model=none,readonly=on");
    }
}
