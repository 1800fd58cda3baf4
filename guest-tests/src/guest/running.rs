//! A guest that runs while the test does something else: waits for what it prints, types on its console, sends signals.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{BOOT_LIMIT, Finished, INIT_MARKER, STUCK, Turn};
use crate::command;
use crate::error::{Error, Result, last_lines};

const OUTPUT_LINES: usize = 40;

/// A run of `sky-vmm` that goes on. It is killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    console: Option<ChildStdin>,
    serial: Stream,
    messages: Stream,
    started: Instant,
    limit: Duration,
    // Last: the next one's turn begins when this one is gone.
    _turn: Option<Turn>,
}

/// What a process prints, as far as it has come.
#[derive(Debug)]
struct Stream {
    shared: Arc<(Mutex<Printed>, Condvar)>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Printed {
    bytes: Vec<u8>,
    /// How much of it was waited for.
    seen: usize,
    /// When the guest came to its init.
    init: Option<Instant>,
    ended: bool,
}

impl Running {
    /// What the console reads is set already.
    pub(super) fn start(vmm: &mut Command, limit: Duration, turn: Option<Turn>) -> Result<Running> {
        let started = Instant::now();
        let mut child = vmm
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| Error::Spawn { program: "sky-vmm".into(), source })?;
        let serial = Stream::read(child.stdout.take());
        let messages = Stream::read(child.stderr.take());
        let console = child.stdin.take();
        Ok(Running { child, console, serial, messages, started, limit, _turn: turn })
    }

    /// Waits until the guest prints a line that begins with `marker`, behind what was waited for before. Gives the
    /// rest of that line.
    pub fn wait_for(&mut self, marker: &str) -> Result<String> {
        match self.serial.wait_for(marker, |init| deadline(self.started, self.limit, init)) {
            Some(rest) => Ok(rest),
            None => Err(self.error(format!("did not say {marker}"))),
        }
    }

    /// Types a line on the guest's console.
    pub fn say(&mut self, line: &str) -> Result<()> {
        let said = match &mut self.console {
            Some(console) => writeln!(console, "{line}").and_then(|()| console.flush()),
            None => Ok(()),
        };
        said.map_err(|error| self.error(format!("did not listen to {line:?}: {error}")))
    }

    /// Sends a signal to `sky-vmm`.
    pub fn signal(&self, number: i32) {
        if let Ok(process) = i32::try_from(self.child.id()) {
            // SAFETY: kill has no preconditions, and the child has not been waited for.
            unsafe { libc::kill(process, number) };
        }
    }

    /// Waits for its end. That the guest, or sky-vmm, was not content is no error here.
    pub fn finish(mut self) -> Result<Finished> {
        let status = loop {
            let limit = deadline(self.started, self.limit, self.serial.lock().init);
            let ended = command::wait(&mut self.child, limit);
            match ended.map_err(|source| Error::Spawn { program: "sky-vmm".into(), source })? {
                Some(status) => break status,
                // It has come to its init meanwhile.
                None if limit < deadline(self.started, self.limit, self.serial.lock().init) => {}
                None => {
                    let took = limit.duration_since(self.started);
                    return Err(self.error(format!("did not end within {took:?}")));
                }
            }
        };
        let (serial, messages) = (self.serial.all(), self.messages.all());
        let init_after = self.serial.lock().init.map(|at| at.duration_since(self.started));
        Ok(Finished { status, serial, messages, init_after })
    }

    fn error(&mut self, problem: String) -> Error {
        let said = [self.serial.lock().bytes.clone(), self.messages.lock().bytes.clone()].concat();
        let reached = self.serial.lock().init.is_some();
        let problem = match self.child.try_wait() {
            _ if reached => problem,
            Ok(None) => format!("{problem}; {STUCK}"),
            _ => format!("{problem}, nor did it reach its init"),
        };
        Error::Guest { problem, output: last_lines(&said, OUTPUT_LINES) }
    }
}

/// When a guest hangs that began then, and came to its init then or has not.
fn deadline(started: Instant, limit: Duration, init: Option<Instant>) -> Instant {
    started + if init.is_some() { limit } else { limit.min(BOOT_LIMIT) }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended by itself is only waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Printed {
    fn add(&mut self, piece: &[u8]) {
        // The marker may lie across two pieces.
        let from = self.bytes.len().saturating_sub(INIT_MARKER.len());
        self.bytes.extend_from_slice(piece);
        let marker = INIT_MARKER.as_bytes();
        if self.init.is_none() && self.bytes[from..].windows(marker.len()).any(|part| part == marker) {
            self.init = Some(Instant::now());
        }
    }
}

impl Stream {
    fn read(from: Option<impl Read + Send + 'static>) -> Stream {
        let shared: Arc<(Mutex<Printed>, Condvar)> = Arc::default();
        let theirs = Arc::clone(&shared);
        let reader = thread::spawn(move || {
            let (printed, changed) = &*theirs;
            let lock = || printed.lock().unwrap_or_else(PoisonError::into_inner);
            let mut piece = [0; 4096];
            if let Some(mut from) = from {
                while let Ok(count) = from.read(&mut piece)
                    && count > 0
                {
                    lock().add(&piece[..count]);
                    changed.notify_all();
                }
            }
            lock().ended = true;
            changed.notify_all();
        });
        Stream { shared, reader: Some(reader) }
    }

    fn lock(&self) -> MutexGuard<'_, Printed> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The deadline may depend on when the guest came to its init.
    fn wait_for(&self, marker: &str, deadline: impl Fn(Option<Instant>) -> Instant) -> Option<String> {
        let mut printed = self.lock();
        loop {
            while let Some(length) = printed.bytes[printed.seen..].iter().position(|&byte| byte == b'\n') {
                let line = printed.seen..printed.seen + length;
                printed.seen = line.end + 1;
                let text = String::from_utf8_lossy(&printed.bytes[line]);
                if let Some(rest) = text.trim().strip_prefix(marker) {
                    return Some(rest.trim().to_owned());
                }
            }
            let left = deadline(printed.init).saturating_duration_since(Instant::now());
            if printed.ended || left.is_zero() {
                return None;
            }
            let waited = self.shared.1.wait_timeout(printed, left);
            printed = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// All of it; the process has ended.
    fn all(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        String::from_utf8_lossy(&self.lock().bytes).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(script: &str) -> Running {
        start_with(script, Duration::from_secs(20))
    }

    fn start_with(script: &str, limit: Duration) -> Running {
        let mut command = Command::new("sh");
        Running::start(command.args(["-c", script]).stdin(Stdio::piped()), limit, None).unwrap()
    }

    #[test]
    fn the_init_is_seen_when_it_is_reached() {
        let finished = start("echo begin; sleep 0.2; printf GUEST_INIT; sleep 0.1; echo =reached; sleep 0.2");
        let finished = finished.finish().unwrap();
        assert_eq!(finished.serial, "begin\nGUEST_INIT=reached\n");
        assert!(finished.init_after.unwrap() >= Duration::from_millis(300), "{finished:?}");
        assert_eq!(start("true").finish().unwrap().init_after, None);
    }

    #[test]
    fn one_that_stops_in_its_boot_is_told_from_others() {
        let limit = Duration::from_millis(200);
        let error = |script, limit| start_with(script, limit).finish().unwrap_err().to_string();
        let stuck = error("exec sleep 60", limit);
        assert!(stuck.contains("did not end within 200ms") && stuck.contains(STUCK), "{stuck}");
        // Enough to say so on a machine that is busy.
        let slow = error("echo GUEST_INIT=reached; exec sleep 60", Duration::from_secs(3));
        assert!(slow.contains("did not end within 3s") && !slow.contains(STUCK), "{slow}");
        let gone = start("echo no").wait_for("A=").unwrap_err().to_string();
        assert!(gone.contains("nor did it reach") && !gone.contains(STUCK), "{gone}");
        assert!(start_with("exec sleep 60", limit).wait_for("A=").unwrap_err().to_string().contains(STUCK));
    }

    #[test]
    fn there_is_more_time_behind_the_init() {
        let (now, hour) = (Instant::now(), Duration::from_secs(3600));
        assert_eq!(deadline(now, hour, None), now + BOOT_LIMIT);
        assert_eq!(deadline(now, hour, Some(now)), now + hour);
        assert_eq!(deadline(now, Duration::from_secs(1), None), now + Duration::from_secs(1));
    }

    #[test]
    fn what_is_printed_is_waited_for_in_order() {
        let mut running =
            start("echo A=1; sleep 0.1; echo x A=2; echo 'A=3 '; read line; echo GOT $line; exit 7");
        assert_eq!(running.wait_for("A=").unwrap(), "1");
        assert_eq!(running.wait_for("A=").unwrap(), "3");
        running.say("hello").unwrap();
        assert_eq!(running.wait_for("GOT").unwrap(), "hello");
        let error = running.wait_for("A=").unwrap_err().to_string();
        assert!(error.contains("did not say A=") && error.contains("GOT hello"), "{error}");
        let finished = running.finish().unwrap();
        assert_eq!(finished.status.code(), Some(7));
        assert_eq!(finished.marker("A").unwrap(), "3");
    }

    #[test]
    fn signals_arrive_and_the_dropped_are_killed() {
        let mut running =
            start("trap 'echo TRAPPED; exit 3' INT; echo READY; while true; do sleep 0.05; done");
        running.wait_for("READY").unwrap();
        running.signal(libc::SIGINT);
        running.wait_for("TRAPPED").unwrap();
        assert_eq!(running.finish().unwrap().status.code(), Some(3));

        let mut running = start("echo PID=$$; exec sleep 60");
        let pid: i32 = running.wait_for("PID=").unwrap().parse().unwrap();
        drop(running);
        // SAFETY: signal 0 only asks whether the process is there.
        assert_eq!(unsafe { libc::kill(pid, 0) }, -1);
    }
}
