//! The image's own thread: zeros are written ahead, mappings are collected while nobody waits.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::format::ZoneKind;
use super::{Chore, Core, Summaries, lock};
use crate::block::Result;

/// The disk is idle when nothing was written for this long.
const IDLE: Duration = Duration::from_millis(500);
/// After an error nothing is tried for this long, twice as long after each further one, up to so many doublings: what a
/// full or failing medium is asked for in vain keeps others from it.
const PAUSE: Duration = Duration::from_millis(500);
const DOUBLINGS: u32 = 4;

#[derive(Debug, Default)]
struct Signal {
    stop: AtomicBool,
    /// Somebody has used clusters since the worker looked.
    raised: Mutex<bool>,
    changed: Condvar,
}

/// The running thread. Dropping it waits for its end.
#[derive(Debug)]
pub(super) struct Worker {
    signal: Arc<Signal>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub(super) fn start(core: &Arc<Core>) -> io::Result<Self> {
        let signal = Arc::new(Signal::default());
        let (theirs, core) = (Arc::clone(&signal), Arc::downgrade(core));
        let thread = thread::Builder::new().name("selfie".to_owned()).spawn(move || run(&theirs, &core))?;
        Ok(Self { signal, thread: Some(thread) })
    }

    /// Has the thread look, if there is something to do.
    pub(super) fn wake(&self, core: &Core) {
        let wanted =
            [ZoneKind::Z, ZoneKind::N].into_iter().any(|kind| core.zones.wants_zeroes(kind).is_some());
        if wanted || core.zones.full() > 0 {
            *lock(&self.signal.raised) = true;
            self.signal.changed.notify_one();
        }
    }
}

#[cfg(test)]
impl Worker {
    /// Whether the thread has ended.
    pub(super) fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.signal.stop.store(true, Ordering::Release);
        *lock(&self.signal.raised) = true;
        self.signal.changed.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of an image had panicked");
        }
    }
}

impl Signal {
    /// Waits until there may be something to do; after errors, until it is time to try again. Says whether somebody has
    /// used clusters.
    fn wait(&self, errors: u32) -> bool {
        let raised = lock(&self.raised);
        let waited = match errors.checked_sub(1) {
            None => self.changed.wait_timeout_while(raised, IDLE, |raised| !*raised),
            Some(more) => {
                let pause = PAUSE * 2u32.pow(more.min(DOUBLINGS));
                self.changed.wait_timeout_while(raised, pause, |_| !self.stop.load(Ordering::Acquire))
            }
        };
        let (mut raised, _) = waited.unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *raised)
    }
}

fn run(signal: &Signal, core: &Weak<Core>) {
    let (mut seen, mut errors) = (0, 0u32);
    loop {
        let raised = signal.wait(errors);
        let Some(core) = core.upgrade().filter(|_| !signal.stop.load(Ordering::Acquire)) else { return };
        let now = core.activity.load(Ordering::Relaxed);
        let idle = !raised && now == seen && now > 0;
        seen = now;
        let Err(error) = work(&core, idle) else {
            errors = 0;
            continue;
        };
        core.counters.background_errors.fetch_add(1, Ordering::Relaxed);
        // A medium that did not keep what was synced is not written any more.
        if core.failed.load(Ordering::Acquire) {
            tracing::error!(%error, "an image is not written any more, nor prepared for what comes next");
            return;
        }
        // Whoever writes next is told. A full disk may get space again: it is tried again, but said once.
        if errors == 0 {
            tracing::warn!(%error, "preparing an image for what comes next failed; it is tried again");
        }
        errors = errors.saturating_add(1);
    }
}

/// Does what there is to do; one thing also where another cannot be done, which may need what that one does not.
fn work(core: &Core, idle: bool) -> Result<()> {
    let zeroed = core.chore(Chore::WriteZeroes);
    // Over a backing image, blocks of what is collected can no longer change in one write.
    let all = idle && !core.has_backing() && core.options.summaries != Summaries::None;
    zeroed.and(core.chore(if all { Chore::CollectAll } else { Chore::CollectFull }))
}

impl Core {
    fn write_zeroes_ahead(&self, kind: ZoneKind) -> Result<()> {
        while let Some(ahead) = self.zones.wants_zeroes(kind) {
            self.zones.prepare(kind, ahead)?;
        }
        Ok(())
    }

    pub(super) fn chore(&self, chore: Chore) -> Result<()> {
        match chore {
            Chore::WriteZeroes => {
                let prepared = [ZoneKind::Z, ZoneKind::N].map(|kind| self.write_zeroes_ahead(kind));
                prepared.into_iter().collect()
            }
            Chore::CollectFull => self.commit(false),
            Chore::CollectAll => self.commit(true),
            Chore::FreeZones => self.zones.reap(),
        }
    }
}
