//! A machine with a working `/dev/kvm`, for hosts that have none: QEMU emulates an AMD processor with SVM, an
//! unmodified Debian kernel runs on it, and commands run there with the host's own files and programs.
//!
//! ```text
//!   test process ──┐                        ┌─ command (chroot to the host's files)
//!   test process ──┼─ unix socket per slot ─┼─ command          agent = process 1
//!   cargo lab ─────┘   (virtio serial port) └─ command
//! ```
//!
//! One machine is shared by everybody: the first user starts it, the others attach, and it switches itself off when
//! nobody has used it for two minutes. Paths mean the same inside and outside, with three exceptions: the host's
//! files are read-only but for the target directory, and `/tmp` and `/run` are the lab's own.

mod client;
mod machine;
mod state;

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::{paths, place};

pub use client::Stream;
pub use guest_programs::protocol::Exit;

use client::Failure;
use guest_programs::protocol::Request;
use machine::Timing;
use state::State;

/// A machine may switch itself off between our finding it and our talking to it.
const ATTEMPTS: usize = 3;

/// The lab, running or about to.
#[derive(Debug)]
pub struct Lab {
    state: State,
}

/// What a finished command left.
#[derive(Clone, Debug)]
pub struct Output {
    /// How it ended.
    pub exit: Exit,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Whether the command ended with status 0.
    pub fn success(&self) -> bool {
        self.exit == Exit::Code(0)
    }
}

impl Lab {
    /// The shared lab, started unless it is running.
    pub fn connect_or_start() -> Result<Lab> {
        let lab = Lab::shared()?;
        lab.state.ensure_running()?;
        Ok(lab)
    }

    /// A lab of our own whose clock counts instructions, with one CPU; it ends when dropped.
    pub fn start_icount() -> Result<Lab> {
        let dir = paths::lab().join("icount");
        std::fs::create_dir_all(&dir).map_err(Error::file("create", &dir))?;
        let dir = tempfile::tempdir_in(&dir).map_err(Error::file("create a directory in", &dir))?;
        let lab = Lab { state: State::private(dir, Timing::CountInstructions) };
        lab.state.ensure_running()?;
        Ok(lab)
    }

    /// Whether the shared lab is running, and how many commands it runs.
    pub fn status() -> Result<Option<usize>> {
        Lab::shared()?.state.status()
    }

    /// Switches the shared lab off; false if it was not running.
    pub fn stop() -> Result<bool> {
        Lab::shared()?.state.stop()
    }

    fn shared() -> Result<Lab> {
        if place::inside_lab() {
            return Err(Error::lab("is where this runs already"));
        }
        Ok(Lab { state: State::shared(paths::lab().join("run"), Timing::Fast) })
    }
}

/// A command for the lab, built like `std::process::Command`.
pub struct LabCommand {
    argv: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    cwd: PathBuf,
    stdin: Option<Box<dyn Read + Send>>,
    limit: Option<Duration>,
}

impl LabCommand {
    /// The program is looked for with the lab's `PATH`, which is the host's. The environment and the current
    /// directory are the caller's.
    pub fn new(program: impl AsRef<OsStr>) -> LabCommand {
        // The host's directory for temporary files need not exist in the lab.
        let env = std::env::vars_os().filter(|(name, _)| name != "TMPDIR").collect();
        let cwd = std::env::current_dir().unwrap_or_else(|_| "/".into());
        LabCommand { argv: vec![program.as_ref().into()], env, cwd, stdin: None, limit: None }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> LabCommand {
        self.argv.push(arg.as_ref().into());
        self
    }

    /// Adds arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> LabCommand {
        self.argv.extend(args.into_iter().map(|arg| arg.as_ref().into()));
        self
    }

    /// Sets a variable.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> LabCommand {
        self.env.retain(|(known, _)| known != name.as_ref());
        self.env.push((name.as_ref().into(), value.as_ref().into()));
        self
    }

    /// Sets the directory to run in.
    pub fn current_dir(mut self, dir: impl AsRef<Path>) -> LabCommand {
        self.cwd = dir.as_ref().into();
        self
    }

    /// Gives it an input; without, it reads nothing.
    pub fn stdin(mut self, stdin: impl Read + Send + 'static) -> LabCommand {
        self.stdin = Some(Box::new(stdin));
        self
    }

    /// Kills it when it takes longer.
    pub fn timeout(mut self, limit: Duration) -> LabCommand {
        self.limit = Some(limit);
        self
    }

    /// Runs it; `output` gets what it prints as it prints it.
    pub fn stream(mut self, lab: &Lab, mut output: impl FnMut(Stream, &[u8])) -> Result<Exit> {
        let request = self.request();
        let mut attempt = 1;
        let (slot, client) = loop {
            lab.state.ensure_running()?;
            match lab.state.attach() {
                Ok(pair) => break pair,
                Err(Failure::Gone(_)) if attempt < ATTEMPTS => attempt += 1,
                Err(failure) => return Err(lab.state.explain(failure)),
            }
        };
        // From here on nothing is tried again: the command may have done something.
        let result = client.run(request, self.stdin.take(), self.limit, &mut output);
        drop(slot);
        result.map_err(|failure| lab.state.explain(failure))
    }

    /// Runs it and collects what it prints.
    pub fn output(self, lab: &Lab) -> Result<Output> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let exit = self.stream(lab, |stream, bytes| match stream {
            Stream::Stdout => stdout.extend_from_slice(bytes),
            Stream::Stderr => stderr.extend_from_slice(bytes),
        })?;
        Ok(Output { exit, stdout, stderr })
    }

    fn request(&self) -> Request {
        let mut env: Vec<Vec<u8>> = Vec::new();
        let mark = (OsString::from(place::IN_LAB), OsString::from("1"));
        for (name, value) in self.env.iter().chain([&mark]) {
            env.push([name.as_bytes(), b"=", value.as_bytes()].concat());
        }
        Request {
            argv: self.argv.iter().map(|arg| arg.as_bytes().to_vec()).collect(),
            env,
            cwd: self.cwd.as_os_str().as_bytes().to_vec(),
            stdin: self.stdin.is_some(),
        }
    }
}
