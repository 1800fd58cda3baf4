//! Discarding and zeroing: clean lines go, dirty ones become zeros, and the slow tier is told.

use super::format::{LINE, LINE_U64};
use super::lines::{Line, Mark};
use super::read::{blocks, part};
use super::{ICache, index, lock};
use crate::block::{BlockDevice, Result};
use crate::policy::ClassId;

impl ICache {
    /// Makes a range zeros; `erase` does it to the slow tier.
    pub(super) fn erase(
        &self,
        offset: u64,
        length: u64,
        erase: impl FnOnce(&dyn BlockDevice) -> Result<()>,
    ) -> Result<()> {
        if length == 0 {
            return Ok(());
        }
        let range = blocks(offset, length);
        let guard = self.ranges.lock(range.start, range.end, true);
        for line in self.lines_in(&range) {
            self.commit_if_long();
            let found = {
                let mut state = lock(&self.state);
                let block = state.lines.block(line).map(u64::from).filter(|block| range.contains(block));
                match (block, state.lines.has(line, Mark::Dirty)) {
                    (Some(block), true) => Some(block),
                    (Some(_), false) => {
                        state.drop_line(line, false);
                        None
                    }
                    (None, _) => None,
                }
            };
            // The slow tier may forget the range later than the journal forgets the line, so the line stays dirty.
            if let Some(block) = found {
                self.zero_dirty(block, line, offset, length, guard.ticket)?;
            }
        }
        self.with_intent(offset, length, || erase(&*self.slow))
    }

    fn zero_dirty(&self, block: u64, line: Line, offset: u64, length: u64, ticket: u64) -> Result<()> {
        let mut content = [0; LINE];
        let zeros = index(part(block, offset, length));
        if zeros < LINE {
            self.read_block(block, Some((line, true)), &mut content)?;
            let from = index(offset.saturating_sub(block * LINE_U64));
            content[from..from + zeros].fill(0);
        }
        self.write_dirty(block, Some((line, true)), &content, ClassId::UNCLASSIFIED, ticket).map(|_| ())
    }

    /// The lines that hold blocks of a range, which the caller has alone.
    fn lines_in(&self, range: &std::ops::Range<u64>) -> Vec<Line> {
        let lines = lock(&self.state).lines.len();
        if range.end - range.start > u64::from(lines) {
            let mut found = Vec::new();
            self.for_lines(|state, line| {
                let block = state.lines.block(line).map(u64::from);
                found.extend(block.filter(|block| range.contains(block)).map(|_| line));
            });
            return found;
        }
        let state = lock(&self.state);
        range.clone().filter_map(|block| state.lines.find(u32::try_from(block).ok()?)).collect()
    }
}
