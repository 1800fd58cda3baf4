//! Reading: from lines where all of a piece is there, else from both tiers, and what was missing is brought in.

use std::ops::Range;

use super::format::{LINE, LINE_U64};
use super::lines::{Line, Mark};
use super::{ICache, class_of, index, lock, tag};
use crate::block::{Result, length_of};
use crate::io_class::IoTag;
use crate::policy::ClassId;

impl ICache {
    pub(super) fn read_piece(&self, offset: u64, buffer: &mut [u8], tags: &[IoTag], run: u64) -> Result<()> {
        let blocks = blocks(offset, length_of(buffer));
        {
            let _guard = self.ranges.lock(blocks.start, blocks.end, false);
            if let Some(lines) = self.all_hit(&blocks, tags)
                && self.read_hits(offset, buffer, &lines)
            {
                self.count_hits(&blocks, tags, offset, length_of(buffer));
                return Ok(());
            }
        }
        // Alone: whoever wants the same blocks finds them here afterwards.
        let guard = self.ranges.lock(blocks.start, blocks.end, true);
        let start = blocks.start * LINE_U64;
        let end = (blocks.end * LINE_U64).min(self.geometry.size);
        let mut bytes = vec![0; index(end - start)];
        let missing = self.read_lines(&blocks, &mut bytes, tags)?;
        for run in runs(&missing) {
            let range = run.start * LINE..(run.end * LINE).min(bytes.len());
            let at = start + range.start as u64;
            self.slow.read(at, &mut bytes[range], tags.get(run.clone()).unwrap_or_default())?;
        }
        let from = index(offset - start);
        buffer.copy_from_slice(&bytes[from..from + buffer.len()]);
        self.count(&blocks, tags, offset, length_of(buffer), &missing);
        for (number, block) in blocks.clone().enumerate().filter(|(number, _)| missing[*number]) {
            let content = &bytes[number * LINE..((number + 1) * LINE).min(bytes.len())];
            if content.len() == LINE
                && !self.bring_in(block, content, tag(tags, number), run, guard.ticket, true)
            {
                break;
            }
        }
        self.commit_if_long();
        Ok(())
    }

    /// The lines of all the blocks, if every one is there.
    fn all_hit(&self, blocks: &Range<u64>, tags: &[IoTag]) -> Option<Vec<Line>> {
        let mut state = lock(&self.state);
        let find = |block| u32::try_from(block).ok().and_then(|block| state.lines.find(block));
        let lines: Vec<Line> = blocks.clone().map(find).collect::<Option<_>>()?;
        // Clean lines of a tier that has failed are left alone: the slow tier holds the same.
        if self.is_failed() && lines.iter().any(|&line| !state.lines.has(line, Mark::Dirty)) {
            return None;
        }
        for (number, &line) in lines.iter().enumerate() {
            let class = state.policy.class(class_of(tag(tags, number))).id();
            if class != ClassId::UNCLASSIFIED {
                state.lines.reclassify(line, class);
            }
            state.lines.touch(line);
        }
        Some(lines)
    }

    /// Reads lines into a buffer that may begin and end inside of one. Not all of them if it answers false.
    fn read_hits(&self, offset: u64, buffer: &mut [u8], lines: &[Line]) -> bool {
        let skip = index(offset % LINE_U64);
        let mut rest = buffer;
        for (number, &line) in lines.iter().enumerate() {
            let from = if number == 0 { skip } else { 0 };
            let (part, after) = rest.split_at_mut((LINE - from).min(rest.len()));
            rest = after;
            let read = if part.len() == LINE {
                self.read_line(line, part)
            } else {
                let mut whole = [0; LINE];
                let read = self.read_line(line, &mut whole);
                part.copy_from_slice(&whole[from..from + part.len()]);
                read
            };
            if read.is_err() {
                return false;
            }
        }
        true
    }

    /// Reads what is in lines, and says which blocks are missing. Clean lines that cannot be read are.
    fn read_lines(&self, blocks: &Range<u64>, bytes: &mut [u8], tags: &[IoTag]) -> Result<Vec<bool>> {
        let mut missing = Vec::with_capacity(bytes.len() / LINE + 1);
        for (number, block) in blocks.clone().enumerate() {
            let found = self.look_up(block, tag(tags, number));
            missing.push(match found {
                Some((line, dirty)) if dirty || !self.is_failed() => {
                    let read = self.read_line(line, &mut bytes[number * LINE..(number + 1) * LINE]);
                    match read {
                        Err(error) if dirty => return Err(self.lost(error, block)),
                        Err(_) => {
                            lock(&self.state).drop_line(line, false);
                            true
                        }
                        Ok(()) => false,
                    }
                }
                _ => true,
            });
        }
        Ok(missing)
    }

    /// The line of a block, which was used, and whether it is dirty.
    fn look_up(&self, block: u64, tag: Option<&IoTag>) -> Option<(Line, bool)> {
        let mut state = lock(&self.state);
        let line = state.lines.find(u32::try_from(block).ok()?)?;
        let class = state.policy.class(class_of(tag)).id();
        if class != ClassId::UNCLASSIFIED {
            state.lines.reclassify(line, class);
        }
        state.lines.touch(line);
        Some((line, state.lines.has(line, Mark::Dirty)))
    }

    /// Puts a block that the slow tier gave, as it is `read`, or was given into a line. Answers false when no further one need be tried.
    pub(super) fn bring_in(
        &self,
        block: u64,
        content: &[u8],
        tag: Option<&IoTag>,
        run: u64,
        ticket: u64,
        read: bool,
    ) -> bool {
        let wanted = !self.is_failed() && self.wants(&lock(&self.state), tag, run);
        let Some(block) = u32::try_from(block).ok().filter(|block| wanted && *block < self.blocks) else {
            return true;
        };
        let class = class_of(tag);
        let Some(line) = self.allocate(class, ticket) else { return true };
        if self.write_line(line, content).is_err() {
            // Nothing says that it holds anything.
            lock(&self.state).release(line);
            return false;
        }
        let mut state = lock(&self.state);
        if !state.has_room() {
            state.release(line);
            return true;
        }
        let class = state.policy.class(class).id();
        state.lines.insert(line, block, class, read);
        state.record(line, Some(super::format::sum(content)), false);
        true
    }

    fn count_hits(&self, blocks: &Range<u64>, tags: &[IoTag], offset: u64, length: u64) {
        self.count(blocks, tags, offset, length, &vec![false; index(blocks.end - blocks.start)]);
    }

    fn count(&self, blocks: &Range<u64>, tags: &[IoTag], offset: u64, length: u64, missing: &[bool]) {
        let mut state = lock(&self.state);
        for ((number, block), &missing) in blocks.clone().enumerate().zip(missing) {
            let stats = state.class_stats(class_of(tag(tags, number)));
            stats.hits += u64::from(!missing);
            stats.misses += u64::from(missing);
            stats.read_bytes += part(block, offset, length);
        }
    }
}

/// Bytes of a block that a request touches.
pub(super) fn part(block: u64, offset: u64, length: u64) -> u64 {
    ((block + 1) * LINE_U64).min(offset + length) - (block * LINE_U64).max(offset)
}

/// The blocks that a request touches.
pub(super) fn blocks(offset: u64, length: u64) -> Range<u64> {
    offset / LINE_U64..(offset + length).div_ceil(LINE_U64)
}

/// The runs of true.
pub(super) fn runs(of: &[bool]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (number, _) in of.iter().enumerate().filter(|(_, holds)| **holds) {
        match runs.last_mut() {
            Some(run) if run.end == number => run.end += 1,
            _ => runs.push(number..number + 1),
        }
    }
    runs
}
