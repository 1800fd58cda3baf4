//! Feeding the console from standard input, on the main thread.
//!
//! Standard input is read only when the guest has room, and never set to non-blocking: it may be shared with the shell.
//! Files cannot be waited for with epoll; they are always ready, so the guest's own pace is what they wait for.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::Console;
use super::escape::{Escape, Typed};
use crate::exit::ExitReason;
use crate::machine::control::Control;

/// How standard input is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// It is watched, and says when there is something.
    Watched,
    /// The guest has no room; it is not watched until there is.
    Waiting,
    /// A file, which can be read at any time.
    AlwaysReady,
    /// It has ended.
    Ended,
}

/// Moves bytes from standard input to the console.
pub struct Input<R> {
    reader: R,
    console: Arc<Console>,
    control: Arc<Control>,
    /// Only a person types escape sequences.
    escape: Option<Escape>,
    source: Source,
}

impl<R: Read + AsRawFd> Input<R> {
    /// Feeds `console` from `reader`; with `interactive`, Ctrl-A x ends the run.
    pub fn new(reader: R, console: Arc<Console>, control: Arc<Control>, interactive: bool) -> Self {
        Self { reader, console, control, escape: interactive.then(Escape::default), source: Source::Waiting }
    }

    fn watch(&self) -> Events {
        Events::new(&AsFd(self.reader.as_raw_fd()), EventSet::IN)
    }

    /// Reads once, as much as the guest takes. The caller knows that this does not block.
    fn feed(&mut self, ops: &mut EventOps<'_>) {
        let mut buffer = [0; 64];
        // An escape sequence that turns out to be none needs one byte more than was read.
        let capacity = self.console.capacity().saturating_sub(1).min(buffer.len());
        if capacity == 0 {
            return self.pause(ops);
        }
        match self.reader.read(&mut buffer[..capacity]) {
            Ok(0) => self.end(ops),
            Ok(length) => {
                let typed = match &mut self.escape {
                    Some(escape) => escape.filter(&buffer[..length]),
                    None => Typed::Input(buffer[..length].to_vec()),
                };
                match typed {
                    Typed::Input(bytes) => self.console.push(&bytes),
                    Typed::Leave => self.control.end(ExitReason::Signal(libc::SIGINT)),
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
            Err(error) => {
                tracing::debug!("standard input: {error}");
                self.end(ops);
            }
        }
    }

    fn pause(&mut self, ops: &mut EventOps<'_>) {
        if self.source == Source::Watched {
            let _ = ops.remove(self.watch());
            self.source = Source::Waiting;
        }
    }

    fn resume(&mut self, ops: &mut EventOps<'_>) {
        match self.source {
            Source::Waiting => match ops.add(self.watch()) {
                Ok(()) => self.source = Source::Watched,
                // epoll refuses files and the like, which never make a reader wait.
                Err(_) => {
                    self.source = Source::AlwaysReady;
                    self.feed(ops);
                }
            },
            Source::AlwaysReady => self.feed(ops),
            Source::Watched | Source::Ended => {}
        }
    }

    fn end(&mut self, ops: &mut EventOps<'_>) {
        self.pause(ops);
        self.source = Source::Ended;
    }
}

impl<R: Read + AsRawFd> MutEventSubscriber for Input<R> {
    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        if events.fd() == self.console.room().as_raw_fd() {
            let _ = self.console.room().read();
            self.resume(ops);
        } else if self.source == Source::Watched {
            self.feed(ops);
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        if let Err(error) = ops.add(Events::new(self.console.room(), EventSet::IN)) {
            tracing::warn!("the console has no input: {error}");
        }
    }
}

/// Names a descriptor for the event manager without owning it.
struct AsFd(RawFd);

impl AsRawFd for AsFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Seek, Write};

    use event_manager::{EventManager, SubscriberOps};

    use super::*;

    /// Runs the feeder against a guest that reads whatever it gets, until nothing comes any more.
    fn receive(reader: impl Read + AsRawFd) -> Vec<u8> {
        let console = Arc::new(Console::new(Box::new(io::sink())).unwrap());
        let control = Arc::new(Control::new().unwrap());
        let mut manager = EventManager::new().unwrap();
        manager.add_subscriber(Input::new(reader, Arc::clone(&console), control, false));
        assert_eq!(manager.run_with_timeout(0).unwrap(), 0, "nothing moves before the guest listens");
        console.write(1, 1);
        let mut received = vec![];
        while manager.run_with_timeout(50).unwrap() > 0 {
            while console.read(5) & 1 != 0 {
                received.push(console.read(0));
            }
        }
        received
    }

    #[test]
    fn a_file_arrives_whole_and_in_order() {
        let text: Vec<u8> = (0..5000_u32).map(|number| number.to_le_bytes()[0]).collect();
        let mut file: File = tempfile::tempfile().unwrap();
        file.write_all(&text).unwrap();
        file.rewind().unwrap();
        assert_eq!(receive(file), text);
    }

    #[test]
    fn a_pipe_arrives_whole_and_its_end_is_no_busy_loop() {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(&[7; 1000]).unwrap();
        drop(writer);
        assert_eq!(receive(reader), [7; 1000]);
    }
}
