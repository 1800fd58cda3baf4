//! Builds what runs elsewhere: static programs for guests and the lab, and the VMM itself.
//!
//! Inside the lab there is no cargo. Whoever enters it builds first; inside, only the paths are given.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::error::{Error, Result};
use crate::place;
use crate::{paths, progress};

/// There is no musl target to count on: the GNU one links statically too.
const STATIC_TARGET: &str = "x86_64-unknown-linux-gnu";
const STATIC_FLAGS: &str = "-C target-feature=+crt-static";
/// How programs are built, and the directory that Cargo puts them into: as this one was. What tests run is built
/// quickly and checks its arithmetic; what is shown and measured is fast.
const PROFILE: (&str, &str) = if cfg!(debug_assertions) { ("dev", "debug") } else { ("release", "release") };

/// A program of `guest-programs` that runs in guests or as the lab's init.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The lab's process 1.
    LabAgent,
    /// Writes files with known contents.
    Writer,
    /// Writes files and makes system calls, unmonitored.
    Bystander,
    /// Says where on the disk files lie.
    Extents,
    /// Makes many `getpid` calls and times them.
    GetpidLoop,
    /// Executes an undefined instruction and expects the signal.
    Ud2,
    /// Is made to call the kernel for somebody else, and must not notice.
    InsightTarget,
    /// Makes system calls of every kind at once, checks and counts them.
    Torture,
    /// Makes calls as 32-bit code does.
    Compat,
}

impl Program {
    /// Those that guests run.
    pub const GUEST: [Program; 8] = [
        Program::Writer,
        Program::Bystander,
        Program::Extents,
        Program::GetpidLoop,
        Program::Ud2,
        Program::InsightTarget,
        Program::Torture,
        Program::Compat,
    ];

    /// The program's file name.
    pub fn name(self) -> &'static str {
        match self {
            Program::LabAgent => "lab-agent",
            Program::Writer => "writer",
            Program::Bystander => "bystander",
            Program::Extents => "extents",
            Program::GetpidLoop => "getpid-loop",
            Program::Ud2 => "ud2",
            Program::InsightTarget => "insight-target",
            Program::Torture => "torture",
            Program::Compat => "compat",
        }
    }

    /// The path of the static program, built now unless we are in the lab.
    pub fn path(self) -> Result<PathBuf> {
        static BUILT: OnceLock<std::result::Result<(), String>> = OnceLock::new();
        once(&BUILT, build_static)?;
        existing(static_dir().join(STATIC_TARGET).join(PROFILE.1).join(self.name()))
    }
}

/// The path of `sky-vmm`, built now unless we are in the lab.
pub fn sky_vmm() -> Result<PathBuf> {
    static BUILT: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    once(&BUILT, || cargo(&["--package", "sky-vmm"], &paths::target(), None))?;
    existing(built().join("sky-vmm"))
}

/// The path of a `sky-vmm` that needs no shared libraries, without debug information, built now unless we are in the
/// lab.
pub fn sky_vmm_static() -> Result<PathBuf> {
    static BUILT: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    let strip = without_symbols();
    let args = ["--package", "sky-vmm", "--target", STATIC_TARGET, "--config", &strip];
    once(&BUILT, || cargo(&args, &static_dir(), Some(STATIC_FLAGS)))?;
    existing(static_dir().join(STATIC_TARGET).join(PROFILE.1).join("sky-vmm"))
}

/// The example of an observer that asks, built now unless we are in the lab. It takes the options
/// of `sky-vmm run`.
pub fn insight_probe() -> Result<PathBuf> {
    static BUILT: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    once(&BUILT, || cargo(&["--package", "sky-vmm", "--example", "insight_probe"], &paths::target(), None))?;
    existing(built().join("examples/insight_probe"))
}

/// `sky-img` and the plugin for nbdkit, built now.
pub fn image_tools() -> Result<[PathBuf; 2]> {
    static BUILT: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    let args = ["--package", "sky-devices", "--package", "sky-nbdkit-plugin", "--bin", "sky-img", "--lib"];
    once(&BUILT, || cargo(&args, &paths::target(), None))?;
    Ok([existing(built().join("sky-img"))?, existing(built().join("libnbdkit_sky_plugin.so"))?])
}

/// `libiwrite.so` and the program that makes every hinted call once, built now unless we are in the lab.
pub fn hints() -> Result<[PathBuf; 2]> {
    static BUILT: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    let args = ["--package", "iwrite-preload", "--lib", "--example", "every_call"];
    once(&BUILT, || cargo(&args, &paths::target(), None))?;
    Ok([existing(built().join("libiwrite.so"))?, existing(built().join("examples/every_call"))?])
}

/// Cargo's setting for it.
fn without_symbols() -> String {
    format!(r#"profile.{}.strip="symbols""#, PROFILE.0)
}

fn built() -> PathBuf {
    paths::target().join(PROFILE.1)
}

fn static_dir() -> PathBuf {
    paths::target().join("static")
}

/// Without symbols, which are five sixths of a program, and would be unpacked at each boot of a guest.
fn build_static() -> Result<()> {
    let strip = without_symbols();
    let mut args = vec!["--package", "guest-programs", "--target", STATIC_TARGET, "--config", &strip];
    args.extend(["--bin", Program::LabAgent.name()]);
    args.extend(Program::GUEST.iter().flat_map(|program| ["--bin", program.name()]));
    cargo(&args, &static_dir(), Some(STATIC_FLAGS))
}

/// An error cannot be cloned for the second asker; its text can.
fn once(cell: &OnceLock<std::result::Result<(), String>>, build: impl FnOnce() -> Result<()>) -> Result<()> {
    if place::inside_lab() {
        return Ok(());
    }
    cell.get_or_init(|| build().map_err(|error| error.to_string())).clone().map_err(Error::Missing)
}

fn existing(path: PathBuf) -> Result<PathBuf> {
    if path.is_file() {
        Ok(path)
    } else {
        Err(Error::Missing(format!("{} has not been built", path.display())))
    }
}

fn cargo(args: &[&str], target: &Path, flags: Option<&str>) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(paths::workspace()).args(["build", "--profile", PROFILE.0, "--quiet"]).args(args);
    command.arg("--target-dir").arg(target);
    if let Some(flags) = flags {
        command.env("RUSTFLAGS", flags).env_remove("CARGO_ENCODED_RUSTFLAGS");
    }
    // What the compiler has to say is for the user to see at once; standard output may be somebody's data.
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let built_before = target.join("CACHEDIR.TAG").exists();
    if !built_before {
        progress::note(&format!("building {}", args[1]));
    }
    let status = command.status().map_err(|source| Error::Spawn { program: "cargo".into(), source })?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Failed { program: format!("cargo build {}", args.join(" ")), status, output: String::new() })
}
