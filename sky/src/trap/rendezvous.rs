//! All virtual CPUs stand still: what has to be true while guest text, or a thread's kernel stack, is changed.
//!
//! ```text
//!   before_run ─▶ pass: nobody holds ─▶ inside KVM_RUN
//!                   │ somebody holds
//!                   └▶ wait ──────────▶ until it is over
//! ```
//!
//! Whoever holds runs on a virtual CPU's thread itself, outside `KVM_RUN`. It gets the others out of there by kicks,
//! which the embedder provides.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a kicked virtual CPU may take before it is kicked again.
const KICK_INTERVAL: Duration = Duration::from_millis(20);

/// Gets every virtual CPU thread out of `KVM_RUN`, now or at its next entry.
pub type Kick = Box<dyn Fn() + Send + Sync>;

/// The meeting point of a machine's virtual CPUs.
pub(crate) struct Rendezvous {
    kick: Kick,
    /// For each virtual CPU: whether it may be inside `KVM_RUN`.
    inside: Vec<AtomicBool>,
    held: AtomicBool,
    /// Whether somebody holds; guards nothing but the two condition variables.
    lock: Mutex<bool>,
    changed: Condvar,
}

impl fmt::Debug for Rendezvous {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rendezvous")
            .field("inside", &self.inside)
            .field("held", &self.held)
            .finish_non_exhaustive()
    }
}

impl Rendezvous {
    pub(crate) fn new(vcpus: u32, kick: Kick) -> Self {
        Self {
            kick,
            inside: (0..vcpus).map(|_| AtomicBool::new(false)).collect(),
            held: AtomicBool::new(false),
            lock: Mutex::new(false),
            changed: Condvar::new(),
        }
    }

    /// Gets every virtual CPU to look what is new.
    pub(crate) fn kick(&self) {
        (self.kick)();
    }

    /// Virtual CPU `index` is about to enter the guest. Returns false if it has to [`wait`](Self::wait) instead.
    pub(crate) fn pass(&self, index: u32) -> bool {
        let Some(inside) = self.inside(index) else { return true };
        // Both sides write first and look then, so one of them sees the other.
        inside.store(true, Ordering::SeqCst);
        if !self.held.load(Ordering::SeqCst) {
            return true;
        }
        inside.store(false, Ordering::SeqCst);
        false
    }

    /// Waits until nobody holds.
    pub(crate) fn wait(&self, index: u32) {
        self.leave(index);
        let mut held = self.guard();
        while *held {
            held = self.changed.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Virtual CPU `index` does not enter the guest for now, or ever again.
    pub(crate) fn leave(&self, index: u32) {
        if let Some(inside) = self.inside(index) {
            inside.store(false, Ordering::SeqCst);
        }
        // Taken so that the news cannot fall between a holder's look and its sleep.
        let _guard = self.guard();
        self.changed.notify_all();
    }

    /// Brings all virtual CPUs to a stand and keeps them there until the result is dropped. Called by the thread of
    /// virtual CPU `index`.
    pub(crate) fn hold(&self, index: u32) -> Held<'_> {
        self.leave(index);
        let mut held = self.guard();
        while *held {
            held = self.changed.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
        *held = true;
        self.held.store(true, Ordering::SeqCst);
        while self.inside.iter().any(|inside| inside.load(Ordering::SeqCst)) {
            self.kick();
            let waited = self.changed.wait_timeout(held, KICK_INTERVAL);
            held = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Held(self)
    }

    fn inside(&self, index: u32) -> Option<&AtomicBool> {
        self.inside.get(usize::try_from(index).ok()?)
    }

    fn guard(&self) -> MutexGuard<'_, bool> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All virtual CPUs stand still while this lives.
#[derive(Debug)]
pub(crate) struct Held<'a>(&'a Rendezvous);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut held = self.0.guard();
        *held = false;
        self.0.held.store(false, Ordering::SeqCst);
        drop(held);
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;
    use std::thread;

    use super::*;

    /// Four threads that "run a guest" by leaving a counter odd for a while; holders must never see it odd.
    #[test]
    fn nobody_is_inside_while_somebody_holds() {
        const VCPUS: u32 = 4;
        let kicked: Arc<Vec<AtomicBool>> = Arc::new((0..VCPUS).map(|_| AtomicBool::new(false)).collect());
        let flags = Arc::clone(&kicked);
        let kick: Kick = Box::new(move || flags.iter().for_each(|flag| flag.store(true, Ordering::SeqCst)));
        let meeting = Arc::new(Rendezvous::new(VCPUS, kick));
        let counters: Arc<Vec<AtomicU64>> = Arc::new((0..VCPUS).map(|_| AtomicU64::new(0)).collect());
        let holds = Arc::new(AtomicU64::new(0));
        let threads: Vec<_> = (0..VCPUS)
            .map(|index| {
                let (meeting, counters) = (Arc::clone(&meeting), Arc::clone(&counters));
                let (kicked, holds) = (Arc::clone(&kicked), Arc::clone(&holds));
                thread::spawn(move || {
                    let at = usize::try_from(index).unwrap();
                    for round in 0..2000u64 {
                        if round % 97 == u64::from(index) {
                            let _held = meeting.hold(index);
                            assert!(counters.iter().all(|counter| counter.load(Ordering::SeqCst) % 2 == 0));
                            holds.fetch_add(1, Ordering::SeqCst);
                        }
                        while !meeting.pass(index) {
                            meeting.wait(index);
                        }
                        counters[at].fetch_add(1, Ordering::SeqCst);
                        for _ in 0..50 {
                            if kicked[at].swap(false, Ordering::SeqCst) {
                                break;
                            }
                            std::hint::spin_loop();
                        }
                        counters[at].fetch_add(1, Ordering::SeqCst);
                    }
                    meeting.leave(index);
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert!(holds.load(Ordering::SeqCst) >= 4 * 20);
        assert!(counters.iter().all(|counter| counter.load(Ordering::SeqCst) == 4000));
    }
}
