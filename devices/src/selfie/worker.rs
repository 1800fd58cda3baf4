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

fn run(signal: &Signal, core: &Weak<Core>) {
    let (mut seen, mut failing) = (0, false);
    loop {
        let raised = {
            let raised = lock(&signal.raised);
            let waited = signal.changed.wait_timeout_while(raised, IDLE, |raised| !*raised);
            let (mut raised, _) = waited.unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *raised)
        };
        let Some(core) = core.upgrade().filter(|_| !signal.stop.load(Ordering::Acquire)) else { return };
        let now = core.activity.load(Ordering::Relaxed);
        let idle = !raised && now == seen && now > 0;
        seen = now;
        match work(&core, idle) {
            Ok(()) => failing = false,
            // Whoever writes next is told. A full disk may get space again: it is tried again, but said once. A medium that
            // did not keep what was synced is not written any more.
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "preparing an image for what comes next failed");
                }
                failing = true;
                if core.failed.load(Ordering::Acquire) {
                    return;
                }
            }
        }
    }
}

fn work(core: &Core, idle: bool) -> Result<()> {
    core.chore(Chore::WriteZeroes)?;
    // Over a backing image, blocks of what is collected can no longer change in one write.
    let all = idle && !core.has_backing() && core.options.summaries != Summaries::None;
    core.chore(if all { Chore::CollectAll } else { Chore::CollectFull })
}

impl Core {
    pub(super) fn chore(&self, chore: Chore) -> Result<()> {
        match chore {
            Chore::WriteZeroes => [ZoneKind::Z, ZoneKind::N].into_iter().try_for_each(|kind| {
                while let Some(ahead) = self.zones.wants_zeroes(kind) {
                    self.zones.prepare(kind, ahead)?;
                }
                Ok(())
            }),
            Chore::CollectFull => self.commit(false),
            Chore::CollectAll => self.commit(true),
            Chore::FreeZones => self.zones.reap(),
        }
    }
}
