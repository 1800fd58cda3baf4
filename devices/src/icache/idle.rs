//! While nobody asks for anything: dirty lines are written back in the order of their blocks, and then regions give their
//! bits up, so that a crash costs nothing of the cache.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::lines::{Line, Mark};
use super::{ICache, lock};
use crate::block::Result;

/// How long there have to be no requests.
const QUIET: Duration = Duration::from_secs(2);
/// Lines that are written back together.
const STEP: usize = 256;

/// How far [`ICache::tend`] has got.
#[derive(Debug, Default)]
pub struct Idle {
    /// Requests that there had been, and since when there are no more.
    requests: u64,
    since: Duration,
    /// Blocks that are still to be written back, the last one first.
    blocks: Vec<u32>,
    /// Everything is written back, and no region has a bit.
    settled: bool,
}

impl ICache {
    /// Does a little of what can be done while there are no requests, if there were none for two seconds by a clock that
    /// says `now`, whatever it counts from. Answers whether there is more to do now. A request that comes has it end.
    ///
    /// # Errors
    /// A tier failed; what was not written back stays dirty.
    pub fn tend(&self, idle: &mut Idle, now: Duration) -> Result<bool> {
        let requests = self.requests.load(Ordering::Relaxed);
        if requests != idle.requests {
            *idle = Idle { requests, since: now, ..Idle::default() };
        }
        if idle.settled
            || now.saturating_sub(idle.since) < QUIET
            || self.geometry.read_only
            || self.is_failed()
        {
            return Ok(false);
        }
        if idle.blocks.is_empty() && lock(&self.state).dirty > 0 {
            idle.blocks = self.dirty_blocks()?;
        }
        if idle.blocks.is_empty() {
            idle.settled = true;
            if lock(&self.state).intents.any() {
                self.settle(true)?;
                self.commit_page()?;
            }
            return Ok(false);
        }
        // Somebody else writes back, or the cache is about to have other lines.
        let Ok(_leaving) = self.leaving.try_lock() else { return Ok(false) };
        let step = idle.blocks.split_off(idle.blocks.len().saturating_sub(STEP));
        let found: Vec<(u32, Line)> = {
            let state = lock(&self.state);
            let line = |&block: &u32| state.lines.find(block).map(|line| (block, line));
            step.iter().rev().filter_map(line).collect()
        };
        self.write_lines_back(&found, false, &|| self.requests.load(Ordering::Relaxed) == requests)?;
        Ok(true)
    }

    /// The blocks of all lines that are dirty, durably, the last one first.
    fn dirty_blocks(&self) -> Result<Vec<u32>> {
        self.commit()?;
        let mut blocks = Vec::new();
        self.for_lines(|state, line| {
            if state.lines.has(line, Mark::Dirty) {
                blocks.extend(state.lines.block(line));
            }
        });
        blocks.sort_unstable_by(|one, other| other.cmp(one));
        Ok(blocks)
    }
}
