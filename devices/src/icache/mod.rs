//! iCache: a fast tier before a slow one that listens to what the I/O means.
//!
//! ```text
//!   read, write ──▶ ranges ──▶ lines: which line holds the block ──▶ fast tier (Storage)
//!                                │ a class decides what stays          ▲
//!                                ▼ a miss, or what must go through     │ journal: what lines hold
//!                              slow tier (BlockDevice) ◀── write back ─┘
//! ```
//!
//! - [`format`] is what lies on the fast tier, `docs/icache-format.md` says why it is right after a crash.
//! - `lines` is what is kept in memory of each line, and decides what stays; `state` what the journal has still to say.
//! - `load` reads a cache; `read`, `write`, `erase`, `writeback`, `idle` and `journal` are the engine; `resize` has it larger
//!   or smaller while it is used.
//!
//! **The rule**: what a line holds never changes while the journal says that it holds a block. New content takes a new
//! line; the old one is free when what supersedes it is durable. So clean lines can be served after a crash, dirty ones
//! are whole, and a read takes no more than a look at memory.
//!
//! **Where the slow tier is written**, a bit for its region is durable before. After a crash clean lines of such
//! regions are dropped: they may be newer or older than what the slow tier has kept.
//!
//! **A fast tier that fails**: reads of clean lines go on from the slow tier, reads of dirty lines that it does not
//! give are errors. When its journal cannot be written, nothing is brought in any more, and only regions that have
//! their bit can be written: the others' lines would be stale if it came back.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::block::{
    BlockDevice, Error, ErrorKind, Geometry, Operation, Result, Storage, check_range, length_of,
};
use crate::io_class::{IoClass, IoTag};
use crate::policy::{ClassId, Policy};

mod create;
mod erase;
mod format;
mod idle;
mod intents;
mod journal;
mod lines;
mod load;
mod options;
mod ranges;
mod read;
mod resize;
mod state;
mod stats;
mod write;
mod writeback;

pub use create::{create, seal, size_of};
pub use idle::Idle;
pub use options::{DiskState, Mode, OpenOptions};
pub use stats::{Cached, ClassStats, Stats};

use format::{LINE_U64, Layout, Superblock, offset_of};
use lines::{Line, Lines, Mark};
use ranges::Ranges;
use state::State;

/// Lines that are looked at between two requests, where all are.
const SLICE: Line = 4096;
/// Bytes that a request is cut into, at most.
const PIECE: u64 = 1 << 20;
/// Flushes, or time, after which bits of quiet regions are taken away: a crash then costs the lines of what was written
/// last. A bit that has to be set again costs a page of the journal.
const SETTLE: u64 = 64;
const SETTLE_TIME: Duration = Duration::from_secs(2);

/// An open cache.
#[derive(Debug)]
pub struct ICache {
    fast: Arc<dyn Storage>,
    slow: Arc<dyn BlockDevice>,
    options: OpenOptions,
    geometry: Geometry,
    /// Whole blocks of the slow tier.
    blocks: u32,
    superblock: Mutex<Superblock>,
    state: Mutex<State>,
    ranges: Ranges,
    /// Held while the cache becomes larger or smaller.
    resizing: Mutex<()>,
    /// Held while pages are written.
    committing: Mutex<()>,
    /// Held while lines are written back; the line to go on from.
    leaving: Mutex<Line>,
    /// Held while the slow tier is flushed.
    flushing: Mutex<Flushes>,
    slow_written: AtomicBool,
    /// The fast tier's journal cannot be written.
    failed: AtomicBool,
    /// A flush of the slow tier has failed.
    slow_failed: AtomicBool,
    written_back: AtomicU64,
    fast_errors: AtomicU64,
    lost_reads: AtomicU64,
    /// Requests so far, by which it is known whether there are any.
    requests: AtomicU64,
}

/// Flushes that the guest has asked for.
#[derive(Debug)]
struct Flushes {
    count: u64,
    /// When bits of quiet regions were last taken away.
    settled: Instant,
}

impl Flushes {
    fn new() -> Self {
        Self { count: 0, settled: Instant::now() }
    }

    /// Counts one more. Answers whether bits are to be taken away.
    fn next(&mut self) -> bool {
        self.count += 1;
        let due = self.count.is_multiple_of(SETTLE) || self.settled.elapsed() >= SETTLE_TIME;
        if due {
            self.settled = Instant::now();
        }
        due
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The tag of the block with that number among those of a request; there may be none.
fn tag(tags: &[IoTag], number: usize) -> Option<&IoTag> {
    tags.get(number)
}

fn class_of(tag: Option<&IoTag>) -> ClassId {
    tag.map_or(ClassId::UNCLASSIFIED, |tag| tag.class_id)
}

/// An index or a length in memory; nothing there is longer.
fn index(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

impl ICache {
    /// Bytes of memory for each 4 KiB block that a cache on `size` bytes can hold, rounded up. Beside it there are some
    /// 100 KiB for each cache, whatever its size, and what requests that are under way take.
    ///
    /// # Errors
    /// [`ErrorKind::BadSize`] for a size that is too small.
    pub fn bytes_per_block(size: u64) -> Result<u64> {
        let layout = Layout::fitting(size, LINE_U64, Operation::Create)?;
        let limbo =
            u64::from(layout.usable() - layout.capacity()) * std::mem::size_of::<(Line, u64)>() as u64;
        Ok((Lines::bytes(layout.places) + limbo).div_ceil(u64::from(layout.capacity())))
    }

    /// Writes dirty lines back and ends in order, so that the cache comes back warm. A cache that is only dropped is
    /// recovered when it is opened next.
    ///
    /// # Errors
    /// A tier failed; the cache is recovered next time.
    pub fn close(self) -> Result<()> {
        self.reconcile()?;
        let mut superblock = lock(&self.superblock);
        superblock.flags = format::Flags::default();
        superblock.last_page = lock(&self.state).number;
        create::write_superblock(&*self.fast, &mut superblock)
    }

    /// Has both tiers agree: dirty lines are written back, and it is durable that no region is being written that is not.
    /// A crash before the next write costs no line then.
    ///
    /// # Errors
    /// A tier failed.
    pub fn reconcile(&self) -> Result<()> {
        self.check_slow(Operation::Flush)?;
        self.write_back_all()?;
        self.settle(true)?;
        self.commit_page()
    }

    /// The classes and what they may hold.
    #[must_use]
    pub fn policy(&self) -> Policy {
        lock(&self.state).policy.clone()
    }

    /// Takes another policy. Lines stay; those of classes that it does not have are unclassified, and classes that now
    /// hold too many give them as others come.
    pub fn set_policy(&self, policy: Policy) {
        {
            let mut state = lock(&self.state);
            state.lines.adopt(&policy);
            state.policy = policy;
        }
        self.for_lines(|state, line| {
            let State { lines, policy, .. } = state;
            lines.adopt_line(line, policy);
        });
    }

    /// Looks at every line. Requests are served in between.
    fn for_lines(&self, mut each: impl FnMut(&mut State, Line)) {
        let mut next = 0;
        loop {
            let mut state = lock(&self.state);
            let end = state.lines.len().min(next + SLICE);
            if next >= end {
                return;
            }
            (next..end).for_each(|line| each(&mut state, line));
            next = end;
        }
    }

    /// Writes dirty lines back and forgets everything.
    ///
    /// # Errors
    /// A tier failed; some lines may be there still.
    pub fn clear(&self) -> Result<()> {
        self.check_slow(Operation::Flush)?;
        self.write_back_all()?;
        let mut next = 0;
        loop {
            let mut state = lock(&self.state);
            let end = state.lines.len().min(next + SLICE);
            if next >= end {
                break;
            }
            for line in next..end {
                let Some(block) = state.lines.block(line) else { continue };
                // A write that came meanwhile may have made it dirty.
                if !state.lines.has(line, Mark::Dirty) && !self.ranges.covers(block, u64::MAX) {
                    state.drop_line(line, false);
                }
            }
            drop(state);
            self.commit()?;
            next = end;
        }
        lock(&self.state).lines.forget_ghosts();
        Ok(())
    }

    /// The blocks that are held, by their offsets. Requests are served meanwhile: what they bring in, change or evict may
    /// be here as it was before or as it is after, or not at all.
    #[must_use]
    pub fn cached(&self) -> Vec<Cached> {
        let mut found = Vec::new();
        self.for_lines(|state, line| {
            let lines = &state.lines;
            if let Some(block) = lines.block(line) {
                let (class, dirty) = (lines.class(line), lines.has(line, Mark::Dirty));
                found.push(Cached { offset: u64::from(block) * LINE_U64, class, dirty });
            }
        });
        found.sort_unstable_by_key(|cached| cached.offset);
        // A block may have moved to a line that came later.
        found.dedup_by_key(|cached| cached.offset);
        found
    }

    /// What the cache has done, and what it holds.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let state = lock(&self.state);
        let classes = (0..).map_while(ClassId::new).zip(&state.classes);
        let classes =
            classes.map(|(id, stats)| (id, ClassStats { lines: state.lines.of_class(id), ..*stats }));
        Stats {
            classes: classes.filter(|(_, stats)| *stats != ClassStats::default()).collect(),
            size: state.journal.layout.size(),
            capacity: state.lines.capacity(),
            dirty: state.dirty,
            written_back: self.written_back.load(Ordering::Relaxed),
            fast_errors: self.fast_errors.load(Ordering::Relaxed),
            lost_reads: self.lost_reads.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Acquire),
        }
    }

    fn check_usable(&self, operation: Operation) -> Result<()> {
        if self.geometry.read_only {
            return Err(Error::new(ErrorKind::ReadOnly, operation));
        }
        self.check_slow(operation)
    }

    fn check_slow(&self, operation: Operation) -> Result<()> {
        if self.slow_failed.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Poisoned, operation));
        }
        Ok(())
    }

    fn check(&self, operation: Operation, offset: u64, length: u64) -> Result<()> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if operation != Operation::Read {
            self.check_usable(operation).map_err(|error| error.at(offset, length))?;
        }
        check_range(operation, self.geometry.size, offset, length)
    }

    fn is_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Whether a block with that tag may be brought in, when the run that its request belongs to is so long.
    fn wants(&self, state: &State, tag: Option<&IoTag>, run: u64) -> bool {
        if !state.lines.admits(state.policy.class(class_of(tag)).id()) {
            return false;
        }
        if tag.is_some_and(|tag| tag.class == IoClass::Metadata) {
            return true;
        }
        let source = tag.and_then(|tag| tag.source.as_ref());
        let large =
            self.options.largest_file.zip(source).is_some_and(|(most, source)| source.file_size >= most);
        !large && self.options.sequential.is_none_or(|most| run < most)
    }

    /// The fast tier did not do something. It is said once.
    fn fast_error(&self, error: &Error) {
        if self.fast_errors.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!(%error, "the fast tier of a cache fails");
        }
    }

    fn read_line(&self, line: Line, block: &mut [u8]) -> Result<()> {
        self.fast.read(offset_of(line), block).inspect_err(|error| self.fast_error(error))
    }

    fn write_line(&self, line: Line, block: &[u8]) -> Result<()> {
        self.fast.write(offset_of(line), block).inspect_err(|error| self.fast_error(error))
    }

    /// A line of content that the slow tier does not have cannot be read.
    fn lost(&self, error: Error, block: u64) -> Error {
        self.lost_reads.fetch_add(1, Ordering::Relaxed);
        tracing::error!(%error, block, "a block that was not written back cannot be read from the fast tier");
        error.because("what was written here is only in the fast tier, which does not give it")
    }
}

/// The pieces of a request that are worked on one after the other: offset, and range in its buffer.
fn pieces(offset: u64, length: u64) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let end = offset.saturating_add(length);
    let mut at = offset;
    std::iter::from_fn(move || {
        let next = (at / PIECE + 1).saturating_mul(PIECE).min(end);
        (at < end).then(|| {
            let piece = (at, index(at - offset)..index(next - offset));
            at = next;
            piece
        })
    })
}

/// The tags of a piece of a request.
fn piece_tags(tags: &[IoTag], offset: u64, piece: u64) -> &[IoTag] {
    tags.get(index(piece / LINE_U64 - offset / LINE_U64)..).unwrap_or_default()
}

impl BlockDevice for ICache {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read(&self, offset: u64, buffer: &mut [u8], tags: &[IoTag]) -> Result<()> {
        let length = length_of(buffer);
        self.check(Operation::Read, offset, length)?;
        let run = lock(&self.state).run(offset, length);
        pieces(offset, length).try_for_each(|(at, range)| {
            self.read_piece(at, &mut buffer[range], piece_tags(tags, offset, at), run)
        })
    }

    fn write(&self, offset: u64, data: &[u8], tags: &[IoTag]) -> Result<()> {
        let length = length_of(data);
        self.check(Operation::Write, offset, length)?;
        let run = lock(&self.state).run(offset, length);
        pieces(offset, length)
            .try_for_each(|(at, range)| self.write_piece(at, &data[range], piece_tags(tags, offset, at), run))
    }

    fn flush(&self) -> Result<()> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if self.geometry.read_only {
            return Ok(());
        }
        self.check_usable(Operation::Flush)?;
        self.commit_needed()?;
        let due = {
            let mut flushes = lock(&self.flushing);
            self.flush_slow()?;
            flushes.next()
        };
        // A fast tier that has failed keeps its bits.
        if due && !self.is_failed() {
            self.settle(false)?;
        }
        Ok(())
    }

    fn discard(&self, offset: u64, length: u64) -> Result<()> {
        self.check(Operation::Discard, offset, length)?;
        self.erase(offset, length, |slow| slow.discard(offset, length))
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> Result<()> {
        self.check(Operation::WriteZeroes, offset, length)?;
        self.erase(offset, length, |slow| slow.write_zeroes(offset, length, unmap))
    }
}
