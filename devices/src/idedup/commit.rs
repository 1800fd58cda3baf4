//! Making things durable: the journal, and the checkpoints that make it short again.
//!
//! Whoever comes first works for all that wait. Locks are taken in the order: region, `aside`, `commit`, index, state.

use std::sync::atomic::Ordering;

use super::checkpoint::Checkpoint;
use super::journal::Journal;
use super::page::BLOCK;
use super::state::State;
use super::stats::count;
use super::{Core, lock};
use crate::block::{Result, length_of};

/// Records that wait in memory at most before they are written, flushed or not.
const PENDING: u64 = 4096;
/// Of the records, those that a page holds at least.
const PER_PAGE: u64 = 89;

/// What only one thread at a time does.
#[derive(Debug)]
pub(super) struct Commit {
    pub(super) journal: Journal,
    /// The one that is durable.
    pub(super) checkpoint: Checkpoint,
    /// Blocks that are free when what the journal was told is durable.
    pub(super) freed: Vec<u32>,
    /// The last flush that went well.
    pub(super) done: u64,
}

/// Tells the journal what has changed, in memory only.
fn tell(state: &mut State, commit: &mut Commit) {
    commit.journal.extend(state.pending.drain(..));
    commit.freed.append(&mut state.freed);
}

impl Core {
    /// What was written before is durable.
    pub(super) fn make_durable(&self) -> Result<()> {
        let arrived = self.begun.load(Ordering::SeqCst);
        let mut commit = lock(&self.commit);
        if commit.done > arrived {
            // One has begun after we came, and went well.
            return Ok(());
        }
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        self.commit(&mut commit)?;
        commit.done = number;
        Ok(())
    }

    /// Before more is changed: what waits in memory is not too much.
    pub(super) fn make_room(&self) -> Result<()> {
        let most = PENDING.min(self.layout.journal_pages / 4 * PER_PAGE);
        if lock(&self.state).pending.len() as u64 >= most {
            let mut commit = lock(&self.commit);
            tell(&mut lock(&self.state), &mut commit);
            if !commit.journal.has_room(self.layout.journal_pages / 4) {
                return self.commit(&mut commit);
            }
            self.write_out(&mut commit)?;
        }
        if lock(&self.index).is_full() {
            let mut commit = lock(&self.commit);
            // Somebody else may have done it meanwhile.
            if lock(&self.index).is_full() {
                self.commit(&mut commit)?;
            }
        }
        Ok(())
    }

    fn write_out(&self, commit: &mut Commit) -> Result<()> {
        let pages = commit.journal.write_out(&*self.storage)?;
        count(&self.counters.journal_bytes, pages * BLOCK as u64);
        Ok(())
    }

    /// Makes everything durable that has changed up to now, and whatever else is due then.
    pub(super) fn commit(&self, commit: &mut Commit) -> Result<()> {
        let (mark, full) = {
            let index = lock(&self.index);
            (index.mark(), index.is_full())
        };
        tell(&mut lock(&self.state), commit);
        if !commit.journal.has_room(0) {
            self.checkpoint(commit, 0)?;
            return if full && self.spill(mark)? { self.checkpoint(commit, 0) } else { Ok(()) };
        }
        self.write_out(commit)?;
        self.sync()?;
        commit.journal.synced();
        self.release(commit);
        let due = !commit.journal.has_room(self.layout.journal_pages / 4);
        let merged = (full || due) && self.spill(mark)?;
        if due || merged { self.checkpoint(commit, 0) } else { Ok(()) }
    }

    /// Puts the claims up to `mark`, which are durable, on the medium. Answers whether a checkpoint has to follow, for the
    /// buckets to be known before the place of runs is used again.
    pub(super) fn spill(&self, mark: u64) -> Result<bool> {
        lock(&self.index).spill(mark, &|claim| lock(&self.state).is_valid(claim))
    }

    /// Makes the tables durable as they are now, so that the journal begins anew. Nothing changes the map while the
    /// tables are written. The filter that was stored is known by `filter`; it is 0 if none was.
    pub(super) fn checkpoint(&self, commit: &mut Commit, filter: u64) -> Result<()> {
        let mut next = commit.checkpoint.clone();
        {
            let mut state = lock(&self.state);
            tell(&mut state, commit);
            let pages = state.map.dirty().iter().map(|page| (u64::from(*page), *page, true));
            let generations = state.generations.dirty().iter();
            let generations =
                generations.map(|page| (self.layout.map_pages + u64::from(*page), *page, false));
            let pages: Vec<(u64, u32, bool)> = pages.chain(generations).collect();
            for (number, page, of_map) in pages.iter().copied() {
                let table = if of_map { &state.map } else { &state.generations };
                let bytes = table.encode(self.layout.identity, page, number);
                let slot = next.slot(number).other();
                self.storage.write(self.layout.table_place(number, slot.number()), &bytes)?;
                next.set_slot(number, slot);
            }
            count(&self.counters.table_bytes, pages.len() as u64 * BLOCK as u64);
            // From here on the medium has to take everything, or takes nothing more.
            state.map.clean();
            state.generations.clean();
        }
        self.sync()?;
        next.number += 1;
        next.start = commit.journal.next();
        next.filter = filter;
        {
            let index = lock(&self.index);
            next.buckets = index.written().to_vec();
            next.runs = index.staged_at().collect();
        }
        let length = usize::try_from(self.layout.checkpoint).unwrap_or(usize::MAX);
        let area = next.encode(length);
        self.storage
            .write(self.layout.checkpoint_place(next.number), &area)
            .inspect_err(|_| self.failed.store(true, Ordering::Release))?;
        self.sync()?;
        count(&self.counters.table_bytes, length_of(&area));
        count(&self.counters.checkpoints, 1);
        commit.checkpoint = next;
        commit.journal.restart();
        self.release(commit);
        Ok(())
    }

    /// Nothing durable leads to the blocks that were freed: their space goes back, and they are free.
    fn release(&self, commit: &mut Commit) {
        let mut freed = std::mem::take(&mut commit.freed);
        freed.sort_unstable();
        if self.options.give_back {
            for run in freed.chunk_by(|a, b| a + 1 == *b) {
                let Some(first) = run.first() else { continue };
                let length = (BLOCK * run.len()) as u64;
                // It is a courtesy: a block whose space stays is as free as others.
                if let Ok(true) = self.storage.punch(self.layout.data_place(*first), length) {
                    count(&self.counters.given_back_blocks, run.len() as u64);
                }
            }
        }
        let mut state = lock(&self.state);
        freed.into_iter().for_each(|physical| state.space.release(physical));
    }
}
