//! Makes the machine: modules, file systems, the host's files under the names that they have on the host.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use crate::sys;

/// Where the host's files appear and commands have their root.
pub(crate) const HOST: &str = "/host";
/// The same files with nothing mounted over them.
const PLAIN: &str = "/plain";
/// Every command runs in a control group of its own below this, to be killed with all that it started.
pub(crate) const GROUPS: &str = "/groups";
/// Unpacked kernels, below the target directory.
const KERNELS: &str = "lab/kernels";
const CONFIGURATION: &str = "/lab.conf";

/// The largest message that QEMU's 9p server takes.
const MSIZE: &str = "trans=virtio,version=9p2000.L,msize=512000";

/// The `NAME=VALUE` lines that the host put into the image.
pub(crate) fn configuration() -> io::Result<HashMap<String, String>> {
    let text = fs::read_to_string(CONFIGURATION)?;
    Ok(text.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect())
}

/// A setting that must be there.
pub(crate) fn setting<'a>(settings: &'a HashMap<String, String>, name: &str) -> io::Result<&'a str> {
    settings
        .get(name)
        .map(String::as_str)
        .ok_or_else(|| io::Error::other(format!("no {name} in {CONFIGURATION}")))
}

pub(crate) fn machine() -> io::Result<()> {
    // Where guests must not run: see the number of processors in guest-tests/src/lab/machine.rs.
    sys::leave_first_processor()?;
    mount("devtmpfs", "/dev", "devtmpfs", 0, "")?;
    mount("proc", "/proc", "proc", 0, "")?;
    mount("sysfs", "/sys", "sysfs", 0, "")?;
    mount("cgroup2", GROUPS, "cgroup2", 0, "")?;
    load_modules()?;
    let settings = configuration()?;
    host_files(setting(&settings, "workspace")?, setting(&settings, "target")?)?;
    sys::loopback_up()
}

fn load_modules() -> io::Result<()> {
    let mut files: Vec<_> = fs::read_dir("/modules")?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    // Their names begin with a number that says the order.
    files.sort();
    for path in files {
        sys::load_module(&File::open(&path)?)
            .map_err(|error| about(&format!("module {}", path.display()), &error))?;
    }
    Ok(())
}

fn host_files(workspace: &str, target: &str) -> io::Result<()> {
    // The host's files do not change under us, but for the target directory, which must never be stale.
    mount("hostroot", PLAIN, "9p", libc::MS_RDONLY, &format!("{MSIZE},cache=loose"))?;
    mount(PLAIN, HOST, "", libc::MS_BIND, "")?;
    for (kind, dir, data) in [
        ("proc", "proc", ""),
        ("sysfs", "sys", ""),
        ("debugfs", "sys/kernel/debug", ""),
        ("devtmpfs", "dev", ""),
        ("devpts", "dev/pts", "mode=0620,ptmxmode=0666"),
        ("tmpfs", "dev/shm", "mode=1777"),
        ("tmpfs", "tmp", "mode=1777,size=75%"),
        ("tmpfs", "run", "mode=0755"),
    ] {
        mount(kind, &format!("{HOST}/{dir}"), kind, 0, data)?;
    }
    // A workspace below /tmp has just been covered.
    if !Path::new(&format!("{HOST}{workspace}")).is_dir() {
        mount(&format!("{PLAIN}{workspace}"), &format!("{HOST}{workspace}"), "", libc::MS_BIND, "")?;
    }
    mount("target", &format!("{HOST}{target}"), "9p", 0, &format!("{MSIZE},cache=none"))?;
    // But its kernels never change once they are there: guests start much faster when they are cached.
    let kernels = format!("{target}/{KERNELS}");
    if Path::new(&format!("{HOST}{kernels}")).is_dir() {
        mount(&format!("{PLAIN}{kernels}"), &format!("{HOST}{kernels}"), "", libc::MS_BIND, "")?;
    }
    Ok(())
}

fn mount(source: &str, target: &str, kind: &str, flags: libc::c_ulong, data: &str) -> io::Result<()> {
    sys::mount(source, target, kind, flags, data)
        .map_err(|error| about(&format!("mount {source} on {target}"), &error))
}

fn about(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
