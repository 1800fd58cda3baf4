//! The host's end of a slot: one conversation with the agent, one command.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::error::Error;
use guest_programs::protocol::{Decoder, Exit, Frame, PIECE, Request, VERSION};

/// The agent sends a sign of life every second of its own, which lasts twenty here when instructions are counted, and
/// longer on a host that is very busy.
const SILENCE: Duration = Duration::from_secs(120);
/// A greeting may be swallowed by the remains of an earlier conversation, so it is repeated.
const GREET_AGAIN: Duration = Duration::from_secs(6);
/// The granularity at which a reader looks at its deadlines.
const TICK: Duration = Duration::from_millis(200);

/// Which stream a piece of output belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Why a conversation failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The machine has gone or does not answer; it may be worth starting another.
    Gone(String),
    /// The command itself could not be run, or ran too long.
    Command(Error),
}

/// An open conversation.
pub(super) struct Client {
    socket: UnixStream,
    decoder: Decoder,
}

impl Client {
    /// Connects to a slot's socket in `dir` and waits until the agent answers. `keep_waiting` is asked now and then
    /// whether that may still happen.
    pub(super) fn connect(
        dir: &Path,
        slot: usize,
        mut keep_waiting: impl FnMut() -> std::result::Result<(), String>,
    ) -> std::result::Result<Client, Failure> {
        let gone = |what: &str, error: &io::Error| Failure::Gone(format!("{what}: {error}"));
        let socket = loop {
            match connect(dir, &format!("slot{slot}.sock")) {
                Ok(socket) => break socket,
                // QEMU makes its sockets a moment after it has started.
                Err(_) => keep_waiting().map_err(Failure::Gone)?,
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        socket.set_read_timeout(Some(TICK)).map_err(|error| gone("cannot be reached", &error))?;
        let mut client = Client { socket, decoder: Decoder::default() };
        let nonce = fresh_nonce();
        let mut greeted: Option<Instant> = None;
        loop {
            if greeted.is_none_or(|at| at.elapsed() > GREET_AGAIN) {
                client.send(&Frame::Hello(nonce)).map_err(|error| gone("does not listen", &error))?;
                greeted = Some(Instant::now());
            }
            client.receive().map_err(|error| gone("hung up", &error))?;
            match client.decoder.skip_to_ready(nonce) {
                Some(VERSION) => return Ok(client),
                Some(other) => {
                    let problem =
                        format!("speaks version {other} of the protocol, not {VERSION}; stop it first");
                    return Err(Failure::Command(Error::lab(problem)));
                }
                None => keep_waiting().map_err(Failure::Gone)?,
            }
        }
    }

    /// Runs a command to its end. The agent kills it when we disconnect, which dropping `self` does.
    pub(super) fn run(
        mut self,
        request: Request,
        stdin: Option<Box<dyn Read + Send>>,
        limit: Option<Duration>,
        mut output: impl FnMut(Stream, &[u8]),
    ) -> std::result::Result<Exit, Failure> {
        let gone = |error: &io::Error| Failure::Gone(format!("hung up: {error}"));
        let program = request.argv.first().map(|name| String::from_utf8_lossy(name).into_owned());
        self.send(&Frame::Run(request)).map_err(|error| gone(&error))?;
        if let Some(stdin) = stdin {
            let socket = self.socket.try_clone().map_err(|error| gone(&error))?;
            // Not joined: it may wait for a terminal for ever, and must not keep a finished command from returning.
            std::thread::spawn(move || feed(stdin, &socket));
        }
        let deadline = limit.map(|limit| Instant::now() + limit);
        let mut last_word = Instant::now();
        loop {
            let frame = self.decoder.pop().map_err(|error| Failure::Gone(error.to_string()))?;
            if frame.is_some() {
                last_word = Instant::now();
            }
            match frame {
                Some(Frame::Stdout(bytes)) => output(Stream::Stdout, &bytes),
                Some(Frame::Stderr(bytes)) => output(Stream::Stderr, &bytes),
                Some(Frame::Exit(exit)) => return Ok(exit),
                Some(Frame::Failed(why)) => return Err(Failure::Command(Error::lab(why))),
                // A repeated greeting is answered again.
                Some(Frame::Alive | Frame::Ready(..)) => {}
                Some(_) => return Err(Failure::Gone("sent what only a host sends".into())),
                None => self.receive().map_err(|error| gone(&error))?,
            }
            if deadline.is_some_and(|deadline| Instant::now() > deadline) {
                let what = program.as_deref().unwrap_or("the command");
                let problem =
                    format!("stopped {what}, which took longer than {:?}", limit.unwrap_or_default());
                return Err(Failure::Command(Error::lab(problem)));
            }
            if last_word.elapsed() > SILENCE {
                return Err(Failure::Gone(format!("has been silent for {} s", SILENCE.as_secs())));
            }
        }
    }

    /// Switches the machine off.
    pub(super) fn power_off(mut self) -> std::result::Result<(), Failure> {
        self.send(&Frame::PowerOff).map_err(|error| Failure::Gone(error.to_string()))
    }

    fn send(&mut self, frame: &Frame) -> io::Result<()> {
        self.socket.write_all(&frame.encode())
    }

    /// Reads something, or nothing for a tick.
    fn receive(&mut self) -> io::Result<()> {
        let mut bytes = [0; PIECE];
        match self.socket.read(&mut bytes) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.decoder.push(&bytes[..count]);
                Ok(())
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// A socket's path must be short; that of the directory need not be, so it is reached through a descriptor.
fn connect(dir: &Path, name: &str) -> io::Result<UnixStream> {
    let dir = File::open(dir)?;
    UnixStream::connect(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))
}

fn feed(mut stdin: Box<dyn Read + Send>, mut socket: &UnixStream) {
    let mut bytes = vec![0; PIECE];
    loop {
        let count = stdin.read(&mut bytes).unwrap_or(0);
        // The command may have ended without reading its input; then nobody misses it.
        if socket.write_all(&Frame::Stdin(bytes[..count].to_vec()).encode()).is_err() || count == 0 {
            return;
        }
    }
}

/// A number that no earlier conversation has used.
fn fresh_nonce() -> u64 {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let time = now.as_secs().rotate_left(32) ^ u64::from(now.subsec_nanos());
    time ^ u64::from(std::process::id()).rotate_left(20)
        ^ COUNT.fetch_add(1, Ordering::Relaxed).rotate_left(56)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_in_a_very_deep_directory_can_be_reached() {
        let top = tempfile::tempdir().unwrap();
        let deep = top.path().join("d".repeat(150));
        std::fs::create_dir(&deep).unwrap();
        let through = File::open(&deep).unwrap();
        let path = format!("/proc/self/fd/{}/s", through.as_raw_fd());
        let _listener = std::os::unix::net::UnixListener::bind(path).unwrap();
        connect(&deep, "s").unwrap();
        assert!(connect(&deep, "other").is_err());
    }

    #[test]
    fn nonces_differ() {
        assert_ne!(fresh_nonce(), fresh_nonce());
    }
}
