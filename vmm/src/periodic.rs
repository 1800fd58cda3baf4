//! Something that is said every now and then while a guest runs.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// A thread that says something again and again until this is dropped, which waits for it.
#[derive(Debug)]
pub struct Periodic {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Periodic {
    /// Calls `say` with the whole seconds since now, once in each `interval`. What takes longer than that is not made up
    /// for. Without a thread for it nothing is said.
    #[must_use]
    pub fn start(interval: Duration, mut say: impl FnMut(u64) + Send + 'static) -> Self {
        let (stop, stopped) = channel();
        let started = Instant::now();
        let thread = thread::Builder::new().name("periodic".into()).spawn(move || {
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                say(started.elapsed().as_secs());
            }
        });
        Self { stop: Some(stop), thread: thread.ok() }
    }
}

impl Drop for Periodic {
    fn drop(&mut self) {
        self.stop = None;
        // It has said so itself if it panicked.
        self.thread.take().map(JoinHandle::join);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn it_is_said_until_nobody_wants_it_any_more() {
        let (said, heard) = channel();
        let periodic = Periodic::start(Duration::from_millis(1), move |seconds| {
            let _ = said.send(seconds);
        });
        for _ in 0..3 {
            heard.recv().unwrap();
        }
        drop(periodic);
        while heard.try_recv().is_ok() {}
        assert!(heard.recv().is_err(), "the thread is gone, and what it said with");
    }

    #[test]
    fn it_ends_without_waiting_for_its_time() {
        drop(Periodic::start(Duration::from_secs(3600), |_| ()));
    }
}
