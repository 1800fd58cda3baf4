//! Durability that callers share, and the end of it.
//!
//! `fdatasync` takes as long for one write as for a hundred. A caller that comes while one is running waits for the
//! next, which begins after its writes returned; one of those who wait makes it for all.
//!
//! A failed `fdatasync` is not repeated: the kernel may have dropped the dirty pages and will report success next time,
//! so asking again would turn lost writes into a promise that they are safe. It also reports the loss to one caller
//! only; there is never a second one beside it that could succeed.

use std::fs::File;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::block::counts::Counters;

/// Why a caller's writes are not durable.
#[derive(Debug)]
pub(super) enum SyncError {
    /// This call's `fdatasync` failed.
    Failed(io::Error),
    /// An earlier one did, or the one that this caller waited for.
    Poisoned,
}

#[derive(Debug, Default)]
struct Progress {
    /// How many `fdatasync` calls have begun.
    begun: u64,
    /// How many have succeeded. All of them if none is running.
    succeeded: u64,
    running: bool,
    poisoned: bool,
}

/// The durability of one open file.
#[derive(Debug)]
pub(super) struct Durability {
    progress: Mutex<Progress>,
    changed: Condvar,
    /// Makes writes durable. Tests put a failing one here; a disk that fails on demand is hard to come by.
    pub(super) make: fn(&File) -> io::Result<()>,
}

impl Durability {
    pub(super) fn new() -> Self {
        Self { progress: Mutex::default(), changed: Condvar::new(), make: File::sync_data }
    }

    /// Makes everything durable that was written to `file` before this call.
    pub(super) fn sync(&self, file: &File, counters: &Counters) -> Result<(), SyncError> {
        counters.sync();
        let mut progress = self.lock();
        // One that has begun may have passed by this caller's writes already.
        let enough = progress.begun + 1;
        loop {
            if progress.poisoned {
                return Err(SyncError::Poisoned);
            }
            if progress.succeeded >= enough {
                return Ok(());
            }
            if !progress.running {
                break;
            }
            progress = self.changed.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
        progress.running = true;
        progress.begun += 1;
        drop(progress);
        counters.flush();
        let result = (self.make)(file);
        let mut progress = self.lock();
        progress.running = false;
        match result {
            Ok(()) => progress.succeeded = progress.begun,
            Err(_) => progress.poisoned = true,
        }
        drop(progress);
        self.changed.notify_all();
        result.map_err(SyncError::Failed)
    }

    /// An `fdatasync` has failed.
    pub(super) fn is_poisoned(&self) -> bool {
        self.lock().poisoned
    }

    // Nothing under the lock panics between two assignments that belong together.
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn a_failure_is_final() {
        let file = tempfile::tempfile().unwrap();
        let counters = Counters::default();
        let mut durability = Durability::new();
        durability.make = |_| Err(io::Error::from_raw_os_error(libc::EIO));
        assert!(matches!(durability.sync(&file, &counters), Err(SyncError::Failed(_))));
        // From here on the kernel would say that all is well.
        durability.make = |_| Ok(());
        assert!(matches!(durability.sync(&file, &counters), Err(SyncError::Poisoned)));
        assert!(durability.is_poisoned());
        assert_eq!((counters.counts().syncs, counters.counts().flushes), (2, 1));
    }

    #[test]
    fn callers_share_and_nobody_is_told_too_early() {
        const CALLERS: u64 = 8;
        const ROUNDS: u64 = 200;
        /// Writes that have returned, and how many of them the last finished fdatasync covered.
        static WRITTEN: AtomicU64 = AtomicU64::new(0);
        static DURABLE: AtomicU64 = AtomicU64::new(0);
        let file = tempfile::tempfile().unwrap();
        let counters = Counters::default();
        let mut durability = Durability::new();
        durability.make = |_| {
            let seen = WRITTEN.load(Ordering::SeqCst);
            thread::yield_now();
            DURABLE.store(seen, Ordering::SeqCst);
            Ok(())
        };
        let start = Barrier::new(8);
        thread::scope(|scope| {
            for _ in 0..CALLERS {
                scope.spawn(|| {
                    start.wait();
                    for _ in 0..ROUNDS {
                        let mine = WRITTEN.fetch_add(1, Ordering::SeqCst) + 1;
                        durability.sync(&file, &counters).unwrap();
                        assert!(DURABLE.load(Ordering::SeqCst) >= mine);
                    }
                });
            }
        });
        let counts = counters.counts();
        assert_eq!(counts.syncs, CALLERS * ROUNDS);
        assert!((ROUNDS..=counts.syncs).contains(&counts.flushes), "{counts:?}");
    }

    #[test]
    fn those_who_come_while_one_runs_wait_for_one_next() {
        /// Lets the first fdatasync begin, and end once the others wait.
        static TURNSTILE: Barrier = Barrier::new(2);
        static CALLS: AtomicU64 = AtomicU64::new(0);
        let file = tempfile::tempfile().unwrap();
        let counters = Counters::default();
        let mut durability = Durability::new();
        durability.make = |_| {
            if CALLS.fetch_add(1, Ordering::SeqCst) == 0 {
                TURNSTILE.wait();
                TURNSTILE.wait();
            }
            Ok(())
        };
        thread::scope(|scope| {
            scope.spawn(|| durability.sync(&file, &counters).unwrap());
            TURNSTILE.wait();
            for _ in 0..5 {
                scope.spawn(|| durability.sync(&file, &counters).unwrap());
            }
            while counters.counts().syncs < 6 {
                thread::yield_now();
            }
            // A caller counts itself before it takes the lock that its place in the queue depends on.
            thread::sleep(std::time::Duration::from_millis(50));
            TURNSTILE.wait();
        });
        assert_eq!((counters.counts().syncs, counters.counts().flushes), (6, 2));
    }
}
