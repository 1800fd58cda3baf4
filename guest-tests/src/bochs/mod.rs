//! A machine with an Intel processor: Bochs emulates one with VMX, and an unmodified kvm_intel runs on it.
//!
//! ```text
//!   run ── program     which executable the command is, and whether it can run there
//!       ── image       a CD: GRUB, Debian's cloud kernel, an initramfs with the command in it
//!       ── machine     Bochs: its configuration, its terminal, its end
//!       ── console     what the three serial ports bring back: messages, standard output, standard error
//! ```
//!
//! QEMU's software emulation knows AMD's SVM only, so this is where the Intel half of KVM can be tried without
//! hardware. It is slower than [`lab`](crate::lab) and poorer: one processor, no files of the host, one command for
//! each start of the machine.

mod console;
mod image;
mod machine;
mod program;

use std::ffi::OsString;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::cache::FileLock;
use crate::error::{Error, Result, last_lines};
use crate::lab::Stream;
use crate::progress::{Wait, note};
use crate::{paths, place};

use console::{Console, Event, Tail};
use machine::Machine;
use program::Program;

/// What runs when no command is given: the trap self-test.
pub const DEFAULT_COMMAND: [&str; 2] = ["sky-vmm", "check"];
/// From the start of Bochs to the end of the command.
const LIMIT: Duration = Duration::from_secs(20 * 60);
/// How long the machine may take to switch itself off behind the command.
const SWITCHING_OFF: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(100);
const CONSOLE_LINES: usize = 20;
const TERMINAL_LINES: usize = 5;

/// Boots the machine, runs a command on it and switches it off; `output` gets what the command prints as it comes.
///
/// The command's first word is `sky-vmm`, a guest program of ours, a name that busybox knows, or the path of a
/// statically linked executable of the host. It reads nothing on its standard input. The status is what a shell would
/// say: that of the command, or 128 and the number of the signal that ended it.
///
/// # Errors
/// The command cannot run there, something is missing on this host, or the machine did not live long enough. The
/// message of the last kind shows the end of the machine's console.
pub fn run(command: &[OsString], output: impl FnMut(Stream, &[u8])) -> Result<u8> {
    if place::inside_lab() {
        return Err(Error::lab("has no Bochs in it; run this on the host"));
    }
    let default: Vec<OsString> = DEFAULT_COMMAND.iter().map(OsString::from).collect();
    let command = if command.is_empty() { &default } else { command };
    let program = Program::find(command)?;
    let dir = paths::lab().join("bochs");
    // The directory is used again each time, so that an interrupted run leaves no more than one.
    let _one_at_a_time = turn(&dir.with_extension("lock"))?;
    image::write(&dir, &program)?;
    let machine = Machine::start(&dir)?;
    let wait = Wait::start("booting an Intel machine in Bochs, which takes a minute or more");
    let session = Session::new(machine, LIMIT, output);
    Session { wait: Some(wait), ..session }.follow(&dir)
}

fn turn(path: &Path) -> Result<FileLock> {
    match FileLock::try_take(path)? {
        Some(lock) => Ok(lock),
        None => {
            note("waiting for another command in Bochs to end");
            FileLock::wait(path)
        }
    }
}

/// A machine that runs, and what is known of it.
struct Session<F> {
    machine: Machine,
    console: Console,
    /// Until the command starts.
    wait: Option<Wait>,
    /// The command's, when it has ended.
    status: Option<u8>,
    limit: Duration,
    output: F,
}

impl<F: FnMut(Stream, &[u8])> Session<F> {
    fn new(machine: Machine, limit: Duration, output: F) -> Session<F> {
        Session { machine, console: Console::default(), wait: None, status: None, limit, output }
    }

    /// Passes output on until the machine has ended, and says how the command did.
    fn follow(mut self, dir: &Path) -> Result<u8> {
        let [mut messages, mut stdout, mut stderr] = machine::PORTS.map(|name| Tail::new(dir.join(name)));
        let mut deadline = Instant::now() + self.limit;
        loop {
            // Asked first: what it wrote before its end is read below.
            let ended = self.machine.has_ended()?;
            let events = self.console.push(&messages.read()?);
            for (stream, tail) in [(Stream::Stdout, &mut stdout), (Stream::Stderr, &mut stderr)] {
                let bytes = tail.read()?;
                if !bytes.is_empty() {
                    (self.output)(stream, &bytes);
                }
            }
            for event in events {
                match event {
                    Event::Started => self.started(),
                    Event::Exit(status) => {
                        self.status = Some(status);
                        deadline = Instant::now() + SWITCHING_OFF;
                    }
                    Event::Failed(problem) => return Err(self.died(dir, &format!("in Bochs {problem}"))),
                }
            }
            match self.status {
                // Its output is complete: the machine switches off behind it. If it cannot, that is no news.
                Some(status) if ended || Instant::now() > deadline => return Ok(status),
                None if ended => return Err(self.died(dir, "in Bochs ended before the command did")),
                None if Instant::now() > deadline => {
                    let problem = format!("in Bochs was stopped: it took longer than {:?}", self.limit);
                    return Err(self.died(dir, &problem));
                }
                _ => thread::sleep(TICK),
            }
        }
    }

    fn started(&mut self) {
        if let Some(wait) = self.wait.take() {
            wait.done("the command starts");
        }
    }

    /// Ends the machine, and explains.
    fn died(mut self, dir: &Path, problem: &str) -> Error {
        if let Some(wait) = self.wait.take() {
            wait.done("it failed");
        }
        let terminal = self.machine.stop();
        let mut console = last_lines(self.console.text(), CONSOLE_LINES);
        if console.is_empty() {
            // It did not even begin, and there it says why.
            console = last_lines(&terminal, TERMINAL_LINES);
        }
        for line in machine::panics(dir) {
            if !console.is_empty() {
                console.push('\n');
            }
            console.push_str(&line);
        }
        Error::Lab { problem: problem.to_string(), console }
    }
}

#[cfg(test)]
mod tests;
