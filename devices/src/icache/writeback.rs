//! Writing back: dirty lines go to the slow tier in the order of their blocks, and are clean once it was flushed.

use std::sync::atomic::Ordering;

use super::format::{LINE, LINE_U64};
use super::lines::{Line, Mark};
use super::{ICache, SLICE, lock};
use crate::block::Result;

/// Lines that are written back together.
pub(super) const BATCH: usize = 1024;
/// Most blocks of one write.
const RUN: usize = 64;

impl ICache {
    /// Writes all lines back that are dirty now.
    ///
    /// # Errors
    /// A tier failed; what was not written back stays dirty.
    pub fn write_back_all(&self) -> Result<()> {
        while lock(&self.state).dirty > 0 {
            // Somebody else may be at what is left.
            if self.write_back(BATCH, true)? == 0 {
                std::thread::yield_now();
            }
        }
        Ok(())
    }

    /// Writes some lines back, and answers how many. Unless it may wait it takes only blocks that nobody has to do with.
    pub(super) fn write_back(&self, most: usize, wait: bool) -> Result<usize> {
        self.check_usable(crate::block::Operation::Flush)?;
        let mut cursor = if wait {
            lock(&self.leaving)
        } else {
            match self.leaving.try_lock() {
                Ok(cursor) => cursor,
                Err(_) => return Ok(0),
            }
        };
        let mut found = self.dirty_lines(&mut cursor, most);
        if found.is_empty() {
            // What is not durable in the fast tier must not reach the slow one: after a crash an older line would count.
            self.commit()?;
            found = self.dirty_lines(&mut cursor, most);
        }
        self.write_lines_back(&found, wait, &|| true)
    }

    /// Writes lines back that are still dirty and durable, in the order of their blocks, as long as `goes_on` says so.
    /// Answers how many.
    pub(super) fn write_lines_back(
        &self,
        found: &[(u32, Line)],
        wait: bool,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<usize> {
        let (mut left, mut result) = (Vec::new(), Ok(()));
        for run in neighbours(found).take_while(|_| goes_on()) {
            match self.write_run_back(run, wait) {
                Ok(lines) => left.extend(lines),
                // The others are not worse off.
                Err(error) => result = Err(error),
            }
        }
        if left.is_empty() {
            return result.map(|()| 0);
        }
        let flushed = {
            let _flushing = lock(&self.flushing);
            self.slow.flush().inspect_err(|_| self.slow_failed.store(true, Ordering::Release))
        };
        let mut clean = 0;
        let mut state = lock(&self.state);
        for line in left {
            // A line that was written anew meanwhile has lost the mark.
            if !state.lines.has(line, Mark::Leaving) {
                continue;
            }
            state.lines.mark(line, Mark::Leaving, false);
            if flushed.is_ok() {
                state.lines.mark(line, Mark::Dirty, false);
                state.dirty -= 1;
                state.record(line, None, true);
                clean += 1;
            }
        }
        drop(state);
        flushed?;
        self.written_back.fetch_add(clean, Ordering::Relaxed);
        // An error that cost only some of them comes back with the next try.
        if clean == 0 { result.map(|()| 0) } else { Ok(usize::try_from(clean).unwrap_or(usize::MAX)) }
    }

    /// Dirty lines that are durable, from `cursor` on, with their blocks and in their order. Requests are served while
    /// they are looked for.
    fn dirty_lines(&self, cursor: &mut Line, most: usize) -> Vec<(u32, Line)> {
        let (mut found, mut looked) = (Vec::new(), 0);
        loop {
            let state = lock(&self.state);
            let lines = state.lines.len();
            for _ in 0..SLICE {
                if found.len() == most || looked >= lines {
                    drop(state);
                    found.sort_unstable();
                    return found;
                }
                let line = if *cursor < lines { *cursor } else { 0 };
                *cursor = line + 1;
                looked += 1;
                let leaves = state.lines.has(line, Mark::Dirty) && !state.lines.has(line, Mark::Fresh);
                if let (true, Some(block)) = (leaves, state.lines.block(line)) {
                    found.push((block, line));
                }
            }
        }
    }

    /// Writes neighbours to the slow tier; answers those lines that were and that are marked for it.
    fn write_run_back(&self, run: &[(u32, Line)], wait: bool) -> Result<Vec<Line>> {
        let (Some(&(first, _)), Some(&(last, _))) = (run.first(), run.last()) else { return Ok(Vec::new()) };
        let (first, end) = (u64::from(first), u64::from(last) + 1);
        // Shared: whoever reads these blocks reads the same lines.
        let guard = if wait {
            Some(self.ranges.lock(first, end, false))
        } else {
            self.ranges.try_lock(first, end, false)
        };
        let Some(_guard) = guard else { return Ok(Vec::new()) };
        let still: Vec<(u32, Line)> = {
            let state = lock(&self.state);
            let leaves = |&(block, line): &(u32, Line)| {
                state.lines.block(line) == Some(block)
                    && state.lines.has(line, Mark::Dirty)
                    && !state.lines.has(line, Mark::Fresh)
            };
            run.iter().copied().filter(leaves).collect()
        };
        let mut lines = Vec::new();
        for run in neighbours(&still) {
            let mut bytes = vec![0; run.len() * LINE];
            for (&(block, line), content) in run.iter().zip(bytes.chunks_mut(LINE)) {
                self.read_line(line, content).map_err(|error| self.lost(error, block.into()))?;
            }
            self.slow.write(u64::from(run[0].0) * LINE_U64, &bytes, &[])?;
            lines.extend(run.iter().map(|&(_, line)| line));
        }
        let mut state = lock(&self.state);
        lines.iter().for_each(|&line| state.lines.mark(line, Mark::Leaving, true));
        Ok(lines)
    }
}

/// Cuts blocks in order into runs of neighbours.
fn neighbours(blocks: &[(u32, Line)]) -> impl Iterator<Item = &[(u32, Line)]> {
    blocks.chunk_by(|one, next| one.0 + 1 == next.0).flat_map(|run| run.chunks(RUN))
}
