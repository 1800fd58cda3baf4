//! Long work in several threads, which tells how far it is and can be stopped.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::block::{Error, ErrorKind, Operation, Result};

/// Bytes of the buffer that each thread has.
pub(super) const BUFFER: usize = 2 * 1024 * 1024;

/// How long work is done.
#[derive(Clone, Copy)]
pub struct Work<'a> {
    /// Threads that share it.
    pub threads: NonZeroUsize,
    /// Set from outside to end it early.
    pub stop: &'a AtomicBool,
    /// Called from any thread with the number of bytes that were done since the last call.
    pub progress: &'a (dyn Fn(u64) + Sync),
}

impl fmt::Debug for Work<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work").field("threads", &self.threads).finish_non_exhaustive()
    }
}

impl Work<'_> {
    /// Calls `step` in every thread until it says that nothing is left, with two buffers that are the thread's own.
    ///
    /// # Errors
    /// The first error of a step, after which no thread begins another; or [`ErrorKind::Interrupted`] if it was
    /// stopped.
    pub(super) fn run(&self, step: impl Fn(&mut Buffers) -> Result<bool> + Sync) -> Result<()> {
        let failure: Mutex<Option<Error>> = Mutex::new(None);
        let failed = AtomicBool::new(false);
        let worker = || {
            let mut buffers = Buffers::default();
            while !self.stop.load(Ordering::Relaxed) && !failed.load(Ordering::Relaxed) {
                match step(&mut buffers) {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(error) => {
                        failed.store(true, Ordering::Relaxed);
                        failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            // The calling thread is one of them, so a system that gives no more threads only makes it slower.
            for _ in 1..self.threads.get() {
                let _ = std::thread::Builder::new().spawn_scoped(scope, worker);
            }
            worker();
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None if self.stop.load(Ordering::Relaxed) => {
                Err(Error::new(ErrorKind::Interrupted, Operation::Read))
            }
            None => Ok(()),
        }
    }
}

/// What one thread reads into.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    first: Vec<u8>,
    second: Vec<u8>,
}

impl Buffers {
    /// Two buffers of `length` bytes, or of [`BUFFER`] if that is less.
    pub(super) fn pair(&mut self, length: u64) -> (&mut [u8], &mut [u8]) {
        let length = usize::try_from(length).unwrap_or(BUFFER).min(BUFFER);
        for buffer in [&mut self.first, &mut self.second] {
            buffer.resize(buffer.len().max(length), 0);
        }
        (&mut self.first[..length], &mut self.second[..length])
    }

    /// The first buffer alone.
    pub(super) fn one(&mut self, length: u64) -> &mut [u8] {
        let length = usize::try_from(length).unwrap_or(BUFFER).min(BUFFER);
        self.first.resize(self.first.len().max(length), 0);
        &mut self.first[..length]
    }
}

/// Says whether all of `bytes` are zero.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    const ZEROES: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROES.len()).all(|chunk| *chunk == ZEROES[..chunk.len()])
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    fn work<'a>(stop: &'a AtomicBool, progress: &'a (dyn Fn(u64) + Sync)) -> Work<'a> {
        Work { threads: NonZeroUsize::new(3).unwrap(), stop, progress }
    }

    #[test]
    fn all_steps_are_taken_once() {
        let (stop, left, taken) = (AtomicBool::new(false), AtomicU64::new(100), AtomicU64::new(0));
        let step = |_: &mut Buffers| {
            let more =
                left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
            taken.fetch_add(u64::from(more), Ordering::SeqCst);
            Ok(more)
        };
        work(&stop, &|_| {}).run(step).unwrap();
        assert_eq!(taken.into_inner(), 100);
    }

    #[test]
    fn an_error_or_a_stop_ends_it() {
        let stop = AtomicBool::new(false);
        let error =
            work(&stop, &|_| {}).run(|_| Err(Error::new(ErrorKind::NoSpace, Operation::Write))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        let step = |_: &mut Buffers| {
            stop.store(true, Ordering::SeqCst);
            Ok(true)
        };
        let error = work(&stop, &|_| {}).run(step).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted);
    }

    #[test]
    fn one_byte_is_found_anywhere() {
        for length in [1, 4096, 4097, 9000] {
            let mut bytes = vec![0; length];
            assert!(is_zero(&bytes));
            bytes[length - 1] = 1;
            assert!(!is_zero(&bytes));
        }
    }
}
