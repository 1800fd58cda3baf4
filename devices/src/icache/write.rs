//! Writing: block by block either into a new dirty line, or through to the slow tier.

use super::format::{self, LINE, LINE_U64};
use super::lines::{Line, Mark};
use super::read::{blocks, part, runs};
use super::{ICache, Mode, class_of, index, lock, tag};
use crate::block::{Result, length_of};
use crate::io_class::IoTag;
use crate::policy::ClassId;

/// A piece of a write that has its blocks alone.
struct Piece<'a> {
    offset: u64,
    data: &'a [u8],
    tags: &'a [IoTag],
    /// First block.
    first: u64,
    /// Length of the run that it belongs to.
    run: u64,
    ticket: u64,
}

impl Piece<'_> {
    /// What is written of the block with that number: from which byte of it, and the bytes.
    fn of_block(&self, number: usize) -> (usize, &[u8]) {
        let start = (self.first + number as u64) * LINE_U64;
        let (from, to) = (start.max(self.offset), (start + LINE_U64).min(self.offset + length_of(self.data)));
        (index(from - start), &self.data[index(from - self.offset)..index(to - self.offset)])
    }

    fn is_whole(&self, number: usize) -> bool {
        self.of_block(number).1.len() == LINE
    }
}

impl ICache {
    pub(super) fn write_piece(&self, offset: u64, data: &[u8], tags: &[IoTag], run: u64) -> Result<()> {
        if self.options.mode == Mode::Back && self.is_too_dirty() {
            self.write_back(super::writeback::BATCH, true)?;
        }
        let range = blocks(offset, length_of(data));
        let guard = self.ranges.lock(range.start, range.end, true);
        let piece = Piece { offset, data, tags, first: range.start, run, ticket: guard.ticket };
        let mut through = Vec::new();
        for (number, block) in range.clone().enumerate() {
            through.push(!self.write_to_line(&piece, number, block)?);
        }
        runs(&through).into_iter().try_for_each(|run| self.write_through(&piece, run))?;
        {
            let mut state = lock(&self.state);
            for (number, block) in range.enumerate() {
                let stats = state.class_stats(class_of(tag(tags, number)));
                stats.written_bytes += part(block, offset, length_of(data));
            }
        }
        drop(guard);
        self.commit_if_long();
        Ok(())
    }

    /// As many lines are dirty as may be.
    fn is_too_dirty(&self) -> bool {
        let state = lock(&self.state);
        let most = u64::from(state.lines.capacity()) * u64::from(self.options.dirty.min(90)) / 100;
        u64::from(state.dirty) >= most.max(1)
    }

    /// The line of a block, and whether it is dirty.
    pub(super) fn line_of(&self, block: u64) -> Option<(Line, bool)> {
        let state = lock(&self.state);
        let line = state.lines.find(u32::try_from(block).ok()?)?;
        Some((line, state.lines.has(line, Mark::Dirty)))
    }

    /// Writes a block into a new dirty line, unless it had better go through.
    fn write_to_line(&self, piece: &Piece<'_>, number: usize, block: u64) -> Result<bool> {
        let old = self.line_of(block);
        let was_dirty = old.is_some_and(|(_, dirty)| dirty);
        let back = self.options.mode == Mode::Back && block < u64::from(self.blocks) && !self.is_failed();
        let wanted = back && self.wants(&lock(&self.state), tag(piece.tags, number), piece.run);
        if !was_dirty && !wanted {
            return Ok(false);
        }
        let (from, new) = piece.of_block(number);
        let mut content = [0; LINE];
        if new.len() < LINE && !self.read_block(block, old, &mut content)? {
            return Ok(false);
        }
        content[from..from + new.len()].copy_from_slice(new);
        self.write_dirty(block, old, &content, class_of(tag(piece.tags, number)), piece.ticket)
    }

    /// The whole of a block, wherever it is newest. False if its clean line cannot be read, which is dropped.
    pub(super) fn read_block(
        &self,
        block: u64,
        old: Option<(Line, bool)>,
        content: &mut [u8; LINE],
    ) -> Result<bool> {
        match old {
            None => self.slow.read(block * LINE_U64, content, &[]).map(|()| true),
            Some((line, dirty)) => match self.read_line(line, content) {
                Ok(()) => Ok(true),
                Err(error) if dirty => Err(self.lost(error, block)),
                Err(_) => {
                    lock(&self.state).drop_line(line, false);
                    Ok(false)
                }
            },
        }
    }

    /// Puts content that the slow tier does not have into a new line. False if that cannot be, and need not.
    pub(super) fn write_dirty(
        &self,
        block: u64,
        old: Option<(Line, bool)>,
        content: &[u8; LINE],
        class: ClassId,
        ticket: u64,
    ) -> Result<bool> {
        let needs = old.is_some_and(|(_, dirty)| dirty);
        let line = match old {
            Some(_) => self.take_line().map(Some),
            None => Ok(self.allocate(class, ticket)),
        };
        let line = match line {
            Ok(Some(line)) => line,
            Err(error) if needs => return Err(error),
            Ok(None) | Err(_) => return Ok(false),
        };
        if let Err(error) = self.write_line(line, content) {
            lock(&self.state).release(line);
            return if needs { Err(error) } else { Ok(false) };
        }
        Ok(self.hold(block, old.map(|(line, _)| line), line, content, class, true))
    }

    /// A block is in a new line from now on, unless it was in none and there is no room any more.
    fn hold(
        &self,
        block: u64,
        old: Option<Line>,
        new: Line,
        content: &[u8],
        class: ClassId,
        dirty: bool,
    ) -> bool {
        let mut state = lock(&self.state);
        let class = state.policy.class(class).id();
        let was_dirty = old.is_some_and(|old| state.lines.has(old, Mark::Dirty));
        match (old, u32::try_from(block)) {
            (Some(old), _) => {
                state.lines.replace(old, new);
                if class != ClassId::UNCLASSIFIED {
                    state.lines.reclassify(new, class);
                }
                state.lines.touch(new);
            }
            (None, Ok(block)) if state.has_room() => state.lines.insert(new, block, class, false),
            (None, _) => {
                state.release(new);
                return false;
            }
        }
        state.lines.mark(new, Mark::Dirty, dirty);
        state.dirty = state.dirty + u32::from(dirty) - u32::from(was_dirty);
        state.record(new, Some(format::sum(content)), dirty);
        if let Some(old) = old {
            state.superseded(old);
        }
        true
    }

    /// Writes a run of blocks, by their numbers in the piece, to the slow tier. None of them is dirty.
    fn write_through(&self, piece: &Piece<'_>, run: std::ops::Range<usize>) -> Result<()> {
        let keeps = self.options.mode == Mode::Through && !self.is_failed();
        for number in run.clone().filter(|&number| !(keeps && piece.is_whole(number))) {
            self.forget(piece.first + number as u64);
        }
        let from = ((piece.first + run.start as u64) * LINE_U64).max(piece.offset);
        let to = ((piece.first + run.end as u64) * LINE_U64).min(piece.offset + length_of(piece.data));
        let data = &piece.data[index(from - piece.offset)..index(to - piece.offset)];
        let tags = piece.tags.get(run.clone()).unwrap_or_default();
        // The intent ends when the lines say what the slow tier holds, or are gone.
        self.with_intent(from, to - from, || {
            if let Err(error) = self.slow.write(from, data, tags) {
                // Any part of it may be there.
                run.for_each(|number| self.forget(piece.first + number as u64));
                return Err(error);
            }
            run.filter(|&number| keeps && piece.is_whole(number)).for_each(|number| self.keep(piece, number));
            Ok(())
        })
    }

    /// Has a line hold a block that was written through.
    fn keep(&self, piece: &Piece<'_>, number: usize) {
        let (block, content) = (piece.first + number as u64, piece.of_block(number).1);
        let tag = tag(piece.tags, number);
        match self.line_of(block) {
            Some((old, _)) => self.renew(block, old, content, class_of(tag)),
            None => {
                self.bring_in(block, content, tag, piece.run, piece.ticket, false);
            }
        }
    }

    /// A block whose clean line holds something older was written through.
    fn renew(&self, block: u64, old: Line, content: &[u8], class: ClassId) {
        let Ok(line) = self.take_line() else { return self.forget(block) };
        if self.write_line(line, content).is_ok() {
            self.hold(block, Some(old), line, content, class, false);
            return;
        }
        lock(&self.state).release(line);
        self.forget(block);
    }

    /// Drops the clean line of a block, if there is one.
    pub(super) fn forget(&self, block: u64) {
        if let Some((line, false)) = self.line_of(block) {
            lock(&self.state).drop_line(line, false);
        }
    }
}
