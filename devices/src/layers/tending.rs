//! A thread that has a cache do what it can while there are no requests.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::icache::{ICache, Idle};

/// How often it looks whether there are requests.
const LOOK: Duration = Duration::from_secs(1);

/// The thread, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Tending {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Tending {
    /// Begins with it. Without a thread nothing is done that would not have to be done.
    pub(super) fn start(cache: Arc<ICache>) -> Self {
        let (stop, stopped) = channel();
        let tend = move || {
            let (mut idle, started) = (Idle::default(), Instant::now());
            let mut wait = LOOK;
            while stopped.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                wait = match cache.tend(&mut idle, started.elapsed()) {
                    Ok(true) => Duration::ZERO,
                    Ok(false) => LOOK,
                    Err(error) => {
                        tracing::warn!(%error, "a cache cannot be written back while it is idle");
                        LOOK * 60
                    }
                };
            }
        };
        let thread = thread::Builder::new().name("icache".into()).spawn(tend);
        Self { stop: Some(stop), thread: thread.ok() }
    }
}

impl Drop for Tending {
    fn drop(&mut self) {
        self.stop = None;
        // It has said so itself if it panicked.
        self.thread.take().map(JoinHandle::join);
    }
}
