//! A cache becomes larger or smaller while it is used. Lines stay where they are; only the journal moves.
//!
//! ```text
//!   old    [journal][ lines ........................ ]
//!   going  [journal][ lines ........... ]▒▒▒▒▒▒▒▒▒▒▒▒▒   what lies in ▒ is evicted, written back or moved, durably
//!   new    [ lines .......... ][journal ]                whole before the superblock says that it is the one that counts
//! ```
//!
//! The superblock is the only thing that changes at one moment: before it is durable the old journal counts, and nothing
//! was done that it does not say; from then on the new one, which has another UUID, so that neither is taken for the
//! other. `docs/icache-format.md` has the argument.

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::format::{self, LINE, Layout, capacity_of};
use super::lines::{Line, Mark};
use super::state::{Batch, Journal};
use super::{ICache, SLICE, create, lock};
use crate::block::{Error, ErrorKind, Operation, Result};

/// Lines that must not be used again.
#[derive(Clone, Debug)]
pub(super) struct Going {
    journal: Range<Line>,
    end: Line,
    /// Of these, the ones that hold nothing, durably, and that nobody has.
    retired: u32,
}

impl Going {
    fn new(new: Layout) -> Self {
        Self { journal: new.journal_lines(), end: new.places, retired: 0 }
    }

    /// Answers whether a line that has become free is one of them, and counts it then.
    pub(super) fn takes(&mut self, line: Line) -> bool {
        let goes = self.journal.contains(&line) || line >= self.end;
        self.retired += u32::from(goes);
        goes
    }

    /// All of them that are lines of `old`.
    fn lines(&self, old: Layout) -> Vec<Range<Line>> {
        let cut = |range: Range<Line>| range.start..range.end.min(old.places).max(range.start);
        let journal = old.journal_lines();
        let before = self.end..journal.start.max(self.end);
        let after = journal.end.max(self.end)..old.places.max(journal.end).max(self.end);
        [self.journal.clone(), before, after].map(cut).into_iter().filter(|range| !range.is_empty()).collect()
    }
}

impl ICache {
    /// Has the cache use `size` bytes of its fast tier, which grows if it has fewer and can. Requests are served
    /// meanwhile: those that find their blocks always, others as long as there are free lines; all of them wait while the
    /// tables in memory are made anew. A cache that becomes smaller evicts what is worth least, and moves what is kept;
    /// the bytes that it leaves are given back where the fast tier can do that.
    ///
    /// # Errors
    /// [`ErrorKind::BadSize`] for a size that no cache has; the fast tier cannot grow; or a tier failed. The cache has its
    /// old size then, unless its journal could not be written, which ends caching.
    pub fn resize(&self, size: u64) -> Result<()> {
        let _resizing = lock(&self.resizing);
        self.check_usable(Operation::Grow)?;
        let wanted = Layout::fitting(size, self.geometry.size, Operation::Grow)?;
        loop {
            let old = self.layout();
            if old.places == wanted.places {
                return Ok(());
            }
            // If the old journal is in the way wherever the new one may lie, it goes to the other end first.
            let next = old.beside(wanted).or_else(|| old.beside(old));
            let next = next.ok_or_else(|| Error::new(ErrorKind::BadSize, Operation::Grow))?;
            self.change(old, next)?;
        }
    }

    pub(super) fn layout(&self) -> Layout {
        lock(&self.state).journal.layout
    }

    fn change(&self, old: Layout, new: Layout) -> Result<()> {
        self.fast.grow(new.size())?;
        if let Err(error) = self.empty(old, new).and_then(|()| self.switch(old, new)) {
            self.stay(old);
            return Err(error);
        }
        self.spread(old, new);
        if new.size() < old.size() && !self.fast.punch(new.size(), old.size() - new.size())? {
            tracing::debug!("the fast tier keeps the space that a smaller cache has left");
        }
        Ok(())
    }

    /// Sees to it that nothing is in lines that the new layout does not have, durably, and that no more lines hold
    /// something than it has room for.
    fn empty(&self, old: Layout, new: Layout) -> Result<()> {
        let going = Going::new(new);
        let ranges = going.lines(old);
        let lines: u32 = ranges.iter().map(|range| range.end - range.start).sum();
        {
            let mut state = lock(&self.state);
            let capacity = capacity_of(old.usable() - lines).min(new.capacity()).min(old.capacity());
            let policy = state.policy.clone();
            state.lines.set_capacity(capacity, &policy);
        }
        self.evict_excess()?;
        // Not before: until then nothing but lines that go may be free, and whoever writes needs one.
        lock(&self.state).going = Some(going);
        loop {
            for range in &ranges {
                self.vacate(range.clone())?;
            }
            self.commit()?;
            {
                let mut state = lock(&self.state);
                state.drain_limbo();
                if state.going.as_ref().is_none_or(|going| going.retired >= lines) {
                    return Ok(());
                }
            }
            // Somebody is about to put a block there, or to give the line up.
            std::thread::yield_now();
        }
    }

    /// Sees to it that no more lines hold something than may.
    pub(super) fn evict_excess(&self) -> Result<()> {
        while let Some((line, block, dirty)) = self.too_many() {
            self.let_go(line, block, dirty)?;
        }
        Ok(())
    }

    /// What is to be evicted next, as more lines hold something than may: a line, its block, and whether it is dirty.
    fn too_many(&self) -> Option<(Line, u32, bool)> {
        let state = lock(&self.state);
        if state.lines.held() <= state.lines.capacity() {
            return None;
        }
        let line = state.lines.next_to_go()?;
        Some((line, state.lines.block(line)?, state.lines.has(line, Mark::Dirty)))
    }

    fn let_go(&self, line: Line, block: u32, dirty: bool) -> Result<()> {
        if dirty {
            if self.write_back(super::writeback::BATCH, true)? == 0 {
                std::thread::yield_now();
            }
            return Ok(());
        }
        {
            let _guard = self.ranges.lock(block.into(), u64::from(block) + 1, true);
            let mut state = lock(&self.state);
            if state.lines.block(line) == Some(block) && !state.lines.has(line, Mark::Dirty) {
                state.drop_line(line, true);
            }
        }
        self.commit_if_long();
        Ok(())
    }

    /// Has lines hold nothing, as far as nobody is at it.
    fn vacate(&self, range: Range<Line>) -> Result<()> {
        for first in range.clone().step_by(SLICE as usize) {
            let held: Vec<(Line, u32)> = {
                let mut state = lock(&self.state);
                let mut held = Vec::new();
                for line in first..range.end.min(first.saturating_add(SLICE)) {
                    if state.lines.withdraw(line) {
                        state.release(line);
                    }
                    held.extend(state.lines.block(line).map(|block| (line, block)));
                }
                held
            };
            for (line, block) in held {
                self.move_away(line, block)?;
                self.commit_if_long();
            }
        }
        Ok(())
    }

    /// Moves the block of a line to another line. A clean one that cannot be moved is dropped.
    fn move_away(&self, line: Line, block: u32) -> Result<()> {
        let _guard = self.ranges.lock(block.into(), u64::from(block) + 1, true);
        if lock(&self.state).lines.block(line) != Some(block) {
            return Ok(());
        }
        let mut content = [0; LINE];
        let read = self.read_line(line, &mut content);
        let unread = read.is_err();
        let moved = read.and_then(|()| self.take_line()).and_then(|to| {
            self.write_line(to, &content).map(|()| to).inspect_err(|_| lock(&self.state).release(to))
        });
        let mut state = lock(&self.state);
        // Only now: it may just have been written back.
        let dirty = state.lines.has(line, Mark::Dirty);
        match moved {
            Ok(to) => {
                state.lines.replace(line, to);
                state.lines.mark(to, Mark::Dirty, dirty);
                state.record(to, Some(format::sum(&content)), dirty);
                state.superseded(line);
            }
            Err(error) if dirty => return Err(if unread { self.lost(error, block.into()) } else { error }),
            Err(_) => state.drop_line(line, false),
        }
        Ok(())
    }

    /// Writes the new journal, and the superblock that makes it count.
    fn switch(&self, old: Layout, new: Layout) -> Result<()> {
        let mut cursor = lock(&self.leaving);
        let _committing = lock(&self.committing);
        if self.is_failed() {
            return Err(Error::new(ErrorKind::Poisoned, Operation::Grow));
        }
        let mut superblock = lock(&self.superblock);
        let mut next = *superblock;
        getrandom::fill(&mut next.uuid)
            .map_err(|error| Error::new(ErrorKind::Io, Operation::Grow).because(error.to_string()))?;
        next.layout = new;
        let journal = Journal { layout: new, uuid: next.uuid, generation: next.generation + 1 };
        *cursor = 0;
        if new.places < old.places {
            // They hold nothing, and the old journal says so.
            lock(&self.state).lines.resize(new.places);
        }
        let switched = self.write_journal(&journal).and_then(|batch| {
            next.last_page = batch.last;
            create::write_superblock(&*self.fast, &mut next)?;
            // Both copies: the old journal's places are about to be lines, and must not be taken for a journal any more if
            // one copy is damaged.
            create::write_superblock(&*self.fast, &mut next).map(|()| batch)
        });
        // What the new pages have taken up, no other page will say.
        let batch = switched.inspect_err(|error| {
            self.failed.store(true, Ordering::Release);
            tracing::error!(%error, "the new journal of a cache cannot be written; it is no longer used");
        })?;
        *superblock = next;
        let mut state = lock(&self.state);
        state.journal = journal;
        state.going = None;
        state.committed(&batch, true);
        if new.places > old.places {
            state.lines.resize(new.places);
        }
        Ok(())
    }

    /// Writes a journal that needs no other, durably: it speaks of every line, and of all that was to be said when it had
    /// done so.
    fn write_journal(&self, journal: &Journal) -> Result<Batch> {
        let (mut written, mut until) = (0, None);
        loop {
            let (pages, batch) = {
                let mut state = lock(&self.state);
                let pages: Vec<_> = (0..journal.layout.batch()).map(|_| state.page(journal, true)).collect();
                written += journal.layout.batch();
                if written >= journal.layout.window() {
                    until = until.or(Some(state.appended()));
                }
                let done = until.is_some_and(|until| state.written() >= until);
                (pages, done.then(|| state.batch_of(Vec::new())))
            };
            pages.iter().try_for_each(|(offset, bytes)| self.fast.write(*offset, bytes))?;
            if let Some(batch) = batch {
                return self.fast.sync().map(|()| batch);
            }
        }
    }

    /// Lines that are new may be used.
    fn spread(&self, old: Layout, new: Layout) {
        let before = old.journal_lines();
        for range in [before.start..before.end.min(new.places), old.places..new.places] {
            for first in range.clone().step_by(SLICE as usize) {
                let mut state = lock(&self.state);
                let lines = first..range.end.min(first.saturating_add(SLICE));
                lines.filter(|&line| new.is_line(line)).for_each(|line| state.release(line));
            }
        }
        let mut state = lock(&self.state);
        let policy = state.policy.clone();
        for line in new.journal_lines().start..new.journal_lines().end.min(state.lines.len()) {
            state.lines.mark(line, Mark::Retired, false);
        }
        state.lines.set_capacity(new.capacity(), &policy);
    }

    /// All is as it was before: lines that were to go may be used again.
    fn stay(&self, old: Layout) {
        let lines = {
            let mut state = lock(&self.state);
            let policy = state.policy.clone();
            // A cache that has failed may be smaller in memory already; it brings nothing in any more.
            state.lines.set_capacity(old.capacity(), &policy);
            state.going.take().map_or_else(Vec::new, |going| going.lines(old))
        };
        for range in lines {
            for first in range.clone().step_by(SLICE as usize) {
                let mut state = lock(&self.state);
                let end = range.end.min(first.saturating_add(SLICE)).min(state.lines.len());
                for line in first..end {
                    if state.lines.has(line, Mark::Retired) {
                        state.lines.mark(line, Mark::Retired, false);
                        state.release(line);
                    }
                }
            }
        }
    }
}
