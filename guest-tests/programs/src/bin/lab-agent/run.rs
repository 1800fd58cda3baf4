//! Runs one command with the host's files as its root, streams what it prints and leaves nothing of it behind.

use std::collections::VecDeque;
use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use guest_programs::protocol::{Decoder, Exit, Frame, PIECE, Request};

use crate::port::Port;
use crate::setup::{GROUPS, HOST};
use crate::sys;

/// The host takes a much longer silence for a lab that hangs. Much, because a second of a lab that counts instructions
/// may take twenty of the host's.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Input that the command does not read is left in the port beyond this.
const MAX_UNREAD: usize = 1 << 20;
/// After everything is killed, the pipes close at once unless the kernel is in trouble.
const DRAIN: Duration = Duration::from_secs(10);

/// Why a command is over.
pub(crate) enum Ending {
    Exited(Exit),
    HostGone,
    /// The host was replaced by another, which said hello.
    Greeted(u64),
}

/// Runs to the end. An error means that the command could not be started or watched.
pub(crate) fn run(slot: usize, port: &Port, decoder: &mut Decoder, request: &Request) -> io::Result<Ending> {
    let group = Group::create(slot)?;
    let mut child = start(&group, request)?;
    let mut streams = Streams::of(&mut child)?;
    let ending = watch(port, decoder, &child, &mut streams);
    group.kill()?;
    let status = child.wait()?;
    group.wait_until_empty()?;
    match ending? {
        None => {
            streams.drain(port)?;
            Ok(Ending::Exited(exit(status)))
        }
        Some(other) => Ok(other),
    }
}

fn exit(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, signal) => Exit::Signal(signal.unwrap_or(0)),
    }
}

fn start(group: &Group, request: &Request) -> io::Result<Child> {
    let (program, args) = request.argv.split_first().ok_or_else(|| io::Error::other("no command given"))?;
    let mut command = Command::new(OsStr::from_bytes(program));
    command.args(args.iter().map(|arg| OsStr::from_bytes(arg))).env_clear();
    for variable in &request.env {
        if let Some(at) = variable.iter().position(|byte| *byte == b'=') {
            command.env(OsStr::from_bytes(&variable[..at]), OsStr::from_bytes(&variable[at + 1..]));
        }
    }
    let stdin = if request.stdin { Stdio::piped() } else { Stdio::null() };
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    let members = File::options().write(true).open(group.0.join("cgroup.procs"))?;
    let root = CString::new(HOST)?;
    let directory = CString::new(request.cwd.clone())?;
    // SAFETY: the closure only makes system calls on what was prepared before; it neither allocates nor locks.
    unsafe {
        command.pre_exec(move || {
            (&members).write_all(b"0")?;
            sys::enter(&root, &directory)
        });
    }
    command.spawn().map_err(|error| {
        let [program, cwd] = [program, &request.cwd].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        io::Error::new(error.kind(), format!("cannot run {program} in {cwd}: {error}"))
    })
}

/// Moves bytes until the command ends (`None`) or the host is no longer interested.
fn watch(
    port: &Port,
    decoder: &mut Decoder,
    child: &Child,
    streams: &mut Streams,
) -> io::Result<Option<Ending>> {
    let process = sys::pidfd(child.id())?;
    let mut last_sent = Instant::now();
    loop {
        // Frames may have arrived together with the one that started the command.
        if let Some(ending) = streams.take_input(decoder)? {
            return Ok(Some(ending));
        }
        streams.feed()?;
        let port_events = if streams.unread.len() < MAX_UNREAD { libc::POLLIN } else { 0 };
        let mut fds = [
            sys::interest(Some(process.as_raw_fd()), libc::POLLIN),
            sys::interest(Some(port.fd()), port_events),
            sys::interest(streams.stdout.as_ref().map(AsRawFd::as_raw_fd), libc::POLLIN),
            sys::interest(streams.stderr.as_ref().map(AsRawFd::as_raw_fd), libc::POLLIN),
            sys::interest(streams.waiting_stdin(), libc::POLLOUT),
        ];
        sys::poll(&mut fds, HEARTBEAT)?;
        if last_sent.elapsed() >= HEARTBEAT && port.send(&Frame::Alive).is_ok() {
            last_sent = Instant::now();
        }
        if fds[1].revents & libc::POLLIN != 0 {
            if !port.receive(decoder)? {
                return Ok(Some(Ending::HostGone));
            }
        } else if fds[1].revents & libc::POLLHUP != 0 {
            return Ok(Some(Ending::HostGone));
        }
        if streams.forward(port).is_err() {
            return Ok(Some(Ending::HostGone));
        }
        if fds[0].revents != 0 {
            return Ok(None);
        }
    }
}

/// The command's three streams and the input that it has not read yet.
struct Streams {
    stdin: Option<ChildStdin>,
    stdout: Option<std::process::ChildStdout>,
    stderr: Option<std::process::ChildStderr>,
    unread: VecDeque<u8>,
    input_ended: bool,
}

impl Streams {
    fn of(child: &mut Child) -> io::Result<Streams> {
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let fds = [
            stdin.as_ref().map(AsRawFd::as_raw_fd),
            stdout.as_ref().map(AsRawFd::as_raw_fd),
            stderr.as_ref().map(AsRawFd::as_raw_fd),
        ];
        fds.into_iter().flatten().try_for_each(sys::set_nonblocking)?;
        Ok(Streams { stdin, stdout, stderr, unread: VecDeque::new(), input_ended: false })
    }

    fn take_input(&mut self, decoder: &mut Decoder) -> io::Result<Option<Ending>> {
        while let Some(frame) = decoder.pop().map_err(io::Error::other)? {
            match frame {
                Frame::Stdin(bytes) if bytes.is_empty() => self.input_ended = true,
                Frame::Stdin(bytes) => self.unread.extend(bytes),
                Frame::Hello(nonce) => return Ok(Some(Ending::Greeted(nonce))),
                _ => return Err(io::Error::other("an unexpected frame while a command runs")),
            }
        }
        Ok(None)
    }

    fn waiting_stdin(&self) -> Option<std::os::fd::RawFd> {
        self.stdin.as_ref().filter(|_| !self.unread.is_empty()).map(AsRawFd::as_raw_fd)
    }

    /// Gives the command as much of its input as it takes now.
    fn feed(&mut self) -> io::Result<()> {
        while let Some(stdin) = self.stdin.as_mut().filter(|_| !self.unread.is_empty()) {
            match stdin.write(self.unread.as_slices().0) {
                Ok(count) => drop(self.unread.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    self.stdin = None;
                    self.unread.clear();
                }
                Err(error) => return Err(error),
            }
        }
        if self.input_ended {
            self.stdin = None;
        }
        Ok(())
    }

    /// Sends on what can be read now; a stream that ended is closed.
    fn forward(&mut self, port: &Port) -> io::Result<()> {
        forward(&mut self.stdout, port, Frame::Stdout)?;
        forward(&mut self.stderr, port, Frame::Stderr)
    }

    fn drain(&mut self, port: &Port) -> io::Result<()> {
        let deadline = Instant::now() + DRAIN;
        while (self.stdout.is_some() || self.stderr.is_some()) && Instant::now() < deadline {
            let mut fds = [
                sys::interest(self.stdout.as_ref().map(AsRawFd::as_raw_fd), libc::POLLIN),
                sys::interest(self.stderr.as_ref().map(AsRawFd::as_raw_fd), libc::POLLIN),
            ];
            sys::poll(&mut fds, HEARTBEAT)?;
            self.forward(port)?;
        }
        Ok(())
    }
}

fn forward(stream: &mut Option<impl Read>, port: &Port, frame: fn(Vec<u8>) -> Frame) -> io::Result<()> {
    let Some(open) = stream else { return Ok(()) };
    let mut bytes = vec![0; PIECE];
    match open.read(&mut bytes) {
        Ok(0) => *stream = None,
        Ok(count) => {
            bytes.truncate(count);
            port.send(&frame(bytes))?;
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// The control group of a slot's command; whatever the command starts is in it too.
struct Group(PathBuf);

impl Group {
    fn create(slot: usize) -> io::Result<Group> {
        let dir = PathBuf::from(GROUPS).join(format!("slot{slot}"));
        fs::create_dir_all(&dir)?;
        Ok(Group(dir))
    }

    /// Kills every member, also those that are just being born.
    fn kill(&self) -> io::Result<()> {
        fs::write(self.0.join("cgroup.kill"), "1")
    }

    fn wait_until_empty(&self) -> io::Result<()> {
        let deadline = Instant::now() + DRAIN;
        while fs::read_to_string(self.0.join("cgroup.events"))?.contains("populated 1") {
            if Instant::now() > deadline {
                return Err(io::Error::other("a process of the command does not die"));
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}
