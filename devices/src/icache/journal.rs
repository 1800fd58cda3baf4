//! Making durable what the journal has to say, and what the slow tier was given.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::lines::{Line, Mark, Room};
use super::{ICache, lock};
use crate::block::{Error, ErrorKind, Operation, Result};
use crate::policy::ClassId;

/// Times that a line is looked for at once before there is a pause each time.
const AT_ONCE: u32 = 16;
const PAUSE: Duration = Duration::from_micros(200);

impl ICache {
    /// Makes everything durable that is to be said by now.
    pub(super) fn commit(&self) -> Result<()> {
        let records = lock(&self.state).appended();
        self.commit_to(records, true)
    }

    /// Writes a page, whether there are records or not.
    pub(super) fn commit_page(&self) -> Result<()> {
        let records = lock(&self.state).want_page();
        self.commit_to(records, true)
    }

    /// Makes what a flush promises durable.
    pub(super) fn commit_needed(&self) -> Result<()> {
        let records = lock(&self.state).needed;
        self.commit_to(records, true)
    }

    /// Makes the first `records` records durable; whoever comes meanwhile has theirs written, too.
    pub(super) fn commit_to(&self, records: u64, believed: bool) -> Result<()> {
        if lock(&self.state).is_durable(records) {
            return Ok(());
        }
        let _committing = lock(&self.committing);
        loop {
            if self.is_failed() {
                let why = "the fast tier's journal could not be written";
                return Err(Error::new(ErrorKind::Poisoned, Operation::Flush).because(why));
            }
            let batch = {
                let mut state = lock(&self.state);
                if state.is_durable(records) {
                    return Ok(());
                }
                state.batch()
            };
            let write = |(offset, bytes): &(u64, Vec<u8>)| self.fast.write(*offset, bytes);
            let written = batch.pages.iter().try_for_each(write).and_then(|()| self.fast.sync());
            if let Err(error) = written {
                self.failed.store(true, Ordering::Release);
                tracing::error!(%error, "the journal of a cache cannot be written; it is no longer used");
                return Err(error);
            }
            lock(&self.state).committed(&batch, believed);
        }
    }

    /// Makes what the slow tier was given durable. The caller holds the lock of flushes.
    pub(super) fn flush_slow(&self) -> Result<()> {
        if !self.slow_written.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        self.slow.flush().inspect_err(|_| {
            self.slow_written.store(true, Ordering::Release);
            self.slow_failed.store(true, Ordering::Release);
        })
    }

    /// Takes bits of regions away that both tiers agree on: those that were quiet for some time, or now.
    pub(super) fn settle(&self, at_once: bool) -> Result<()> {
        let round = {
            let mut state = lock(&self.state);
            if !state.intents.any() {
                return Ok(());
            }
            state.intents.begin_round()
        };
        self.commit()?;
        {
            let _flushing = lock(&self.flushing);
            self.slow.flush().inspect_err(|_| self.slow_failed.store(true, Ordering::Release))?;
        }
        lock(&self.state).intents.settle(round, at_once);
        Ok(())
    }

    /// Writes to the slow tier, the regions' bits first.
    pub(super) fn with_intent(
        &self,
        offset: u64,
        length: u64,
        write: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let records = {
            let mut state = lock(&self.state);
            let durable = state.intents.begin(offset, length);
            (!durable).then(|| state.want_page())
        };
        let result = records.map_or(Ok(()), |records| self.commit_to(records, true)).and_then(|()| {
            let result = write();
            self.slow_written.store(true, Ordering::Release);
            result
        });
        lock(&self.state).intents.end(offset, length);
        result
    }

    /// A free line for a block of `class`, for which another block may have to go; `None` if there is none to be had.
    /// `ticket` is that of the caller's range.
    pub(super) fn allocate(&self, class: ClassId, ticket: u64) -> Option<Line> {
        for _ in 0..4 {
            if self.is_failed() {
                return None;
            }
            let mut state = lock(&self.state);
            let class = state.policy.class(class).id();
            match state.lines.room(class) {
                Room::Refused => return None,
                Room::Free => {}
                Room::Victim(line) if state.lines.has(line, Mark::Dirty) => {
                    drop(state);
                    if self.write_back(super::writeback::BATCH, false).ok()? == 0 {
                        return None;
                    }
                    continue;
                }
                Room::Victim(line) => {
                    let block = state.lines.block(line)?;
                    // Somebody may be reading it.
                    if self.ranges.covers(block, ticket) {
                        return None;
                    }
                    state.drop_line(line, true);
                }
            }
            if let Some(line) = state.take_free() {
                return Some(line);
            }
            drop(state);
            self.commit().ok()?;
        }
        None
    }

    /// A free line in place of one that is about to be free. There is one sooner or later: fewer lines hold something than
    /// there are, what was given up is free when the journal says so, and whoever writes into a line waits for nobody who
    /// wants one.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub(super) fn take_line(&self) -> Result<Line> {
        let mut tries = 0;
        loop {
            if let Some(line) = lock(&self.state).take_free() {
                return Ok(line);
            }
            self.commit()?;
            tries += 1;
            if tries < AT_ONCE {
                std::thread::yield_now();
            } else {
                std::thread::sleep(PAUSE);
            }
        }
    }

    /// Keeps what the journal has still to say within bounds. A journal that fails is noticed by whoever needs it.
    pub(super) fn commit_if_long(&self) {
        if lock(&self.state).is_long() && !self.is_failed() {
            let _noticed = self.commit();
        }
    }
}
