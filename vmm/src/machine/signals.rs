//! Signals that end a run in good order: disks flushed, terminal restored.

use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::low_level;

use super::control::Control;
use crate::exit::ExitReason;

/// Listens for signals, and for the end of the machine itself, which must wake the main thread too.
pub(super) struct Signals {
    sources: Vec<(i32, UnixStream, SigId)>,
    control: Arc<Control>,
}

impl Signals {
    pub(super) fn new(control: Arc<Control>) -> io::Result<Self> {
        let mut signals = Self { sources: vec![], control };
        for number in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
            let (receiver, sender) = UnixStream::pair()?;
            let id = low_level::pipe::register(number, sender)?;
            signals.sources.push((number, receiver, id));
        }
        Ok(signals)
    }
}

impl MutEventSubscriber for Signals {
    fn process(&mut self, events: Events, _ops: &mut EventOps<'_>) {
        if let Some((number, receiver, _)) =
            self.sources.iter_mut().find(|(_, receiver, _)| receiver.as_raw_fd() == events.fd())
        {
            let _ = receiver.read(&mut [0]);
            self.control.end(ExitReason::Signal(*number));
        }
        // The end of the machine is seen by whoever runs the event loop; the event only wakes it.
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        let added = self
            .sources
            .iter()
            .map(|(_, receiver, _)| Events::new(receiver, EventSet::IN))
            .chain([Events::new(self.control.event(), EventSet::IN)])
            .try_for_each(|events| ops.add(events));
        if let Err(error) = added {
            let message = format!("cannot wait for signals: {error}");
            self.control.end(ExitReason::Internal { message });
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for (.., id) in &self.sources {
            low_level::unregister(*id);
        }
    }
}
