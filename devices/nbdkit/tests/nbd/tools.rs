//! Programs of other people: installed once if they are missing, and run.

use std::fs::OpenOptions;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

/// What the tests run, and the Debian package that has it.
const PROGRAMS: [(&str, &str); 5] = [
    ("nbdkit", "nbdkit"),
    ("fio", "fio"),
    ("nbdinfo", "libnbd-bin"),
    ("nbdcopy", "libnbd-bin"),
    ("qemu-img", "qemu-utils"),
];

fn missing() -> Vec<&'static str> {
    let there = |program: &str| {
        let mut command = Command::new(program);
        command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let mut packages: Vec<_> =
        PROGRAMS.iter().filter(|(program, _)| !there(program)).map(|&(_, package)| package).collect();
    packages.dedup();
    packages
}

/// Installs what is missing. Test binaries that run side by side wait for each other.
fn install() {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        let path = std::env::temp_dir().join("sky-tests-apt.lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path).unwrap();
        lock.lock().unwrap();
        let packages = missing();
        if packages.is_empty() {
            return;
        }
        let apt = |arguments: &[&str]| {
            let mut command = Command::new("apt-get");
            command.env("DEBIAN_FRONTEND", "noninteractive").args(["-o", "DPkg::Lock::Timeout=300"]);
            command.args(arguments).stdout(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        let install = [&["install", "-y", "--no-install-recommends"], packages.as_slice()].concat();
        // Lists may be missing or old.
        let installed = apt(&install) || (apt(&["update"]) && apt(&install));
        let packages = packages.join(" ");
        assert!(installed && missing().is_empty(), "these tests need: apt-get install {packages}");
    });
}

/// A program of other people, which is there.
pub(crate) fn program(name: &str) -> Command {
    install();
    let mut command = Command::new(name);
    command.stdin(Stdio::null());
    command
}

/// Held while a process is being made. Until it runs its program it has a copy of every descriptor here, and with one
/// of an image that is open the image's lock.
static FORKING: Mutex<()> = Mutex::new(());

/// Does something with an image in this process, which no other process gets to hold meanwhile.
pub(crate) fn alone<T>(action: impl FnOnce() -> T) -> T {
    let _alone = FORKING.lock().unwrap_or_else(PoisonError::into_inner);
    action()
}

/// Starts a program.
pub(crate) fn spawn(command: &mut Command) -> Child {
    let _alone = FORKING.lock().unwrap_or_else(PoisonError::into_inner);
    command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Runs a program and returns what it printed.
pub(crate) fn output(command: &mut Command) -> Output {
    spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped())).wait_with_output().unwrap()
}

/// Runs a program that must go well, and returns what it printed.
pub(crate) fn run(command: &mut Command) -> String {
    let output = output(command);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}\n{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}
