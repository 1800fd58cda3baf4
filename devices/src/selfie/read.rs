//! Reading the disk: first where everything comes from, then all of it at once.
//!
//! ```text
//!   clusters ──▶ Plan ─┬─▶ zeros, backing image
//!                      └─▶ Storage: many pieces under way ──▶ the lead blocks of each that is there are expanded
//! ```

use std::ops::Range;

use super::Core;
use super::format::{BLOCK, BLOCKS, Blocks, CLUSTER, Entry, Kind, Virtual};
use super::locks::LOCKS;
use super::write::pieces;
use crate::block::Result;

/// Clusters that are read at once. Fewer than there are locks.
const RUN: usize = 64;

/// The longest piece that is read at once: short enough that there is another one to wait for while it is expanded, long
/// enough that a disk does not mind.
const PIECE: usize = 8 * CLUSTER;

/// Where what is read lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// In the image, from this offset on.
    Image(u64),
    /// In the backing image, from this offset on.
    Below(u64),
    /// Nowhere.
    Zeros,
}

impl Source {
    /// Where block `block` of a cluster lies.
    fn of(of: Virtual, entry: &Entry, block: usize) -> Self {
        let state = if entry.is_mapped() { entry.blocks.get(block) } else { absent(entry) };
        match state {
            Blocks::HERE | Blocks::FRESH => Self::Image(entry.offset(block)),
            Blocks::ABSENT => Self::Below(of.offset() + (block * BLOCK) as u64),
            _ => Self::Zeros,
        }
    }

    /// What lies `length` bytes further.
    fn behind(self, length: usize) -> Self {
        match self {
            Self::Image(offset) => Self::Image(offset.saturating_add(length as u64)),
            Self::Below(offset) => Self::Below(offset.saturating_add(length as u64)),
            Self::Zeros => Self::Zeros,
        }
    }
}

/// Blocks that lie one behind the other, in the buffer too.
#[derive(Debug)]
struct Segment {
    source: Source,
    length: usize,
    /// Which of the plan's lead blocks are among them.
    leads: Range<usize>,
}

/// A block to expand.
#[derive(Debug)]
struct ToExpand {
    /// Where in its segment it begins.
    at: usize,
    of: Virtual,
    entry: Entry,
}

/// Where a buffer's content comes from, from its beginning to its end.
#[derive(Debug, Default)]
struct Plan {
    segments: Vec<Segment>,
    leads: Vec<ToExpand>,
}

impl Plan {
    /// Adds `count` blocks of a cluster, from block `first` on.
    fn add(&mut self, of: Virtual, entry: &Entry, first: usize, count: usize) {
        for block in first..first + count {
            let source = Source::of(of, entry, block);
            let at = self.add_block(source);
            if entry.is_lead(block) && matches!(source, Source::Image(_)) {
                self.leads.push(ToExpand { at, of, entry: *entry });
                if let Some(segment) = self.segments.last_mut() {
                    segment.leads.end = self.leads.len();
                }
            }
        }
    }

    /// Adds a block and tells where in its segment it is.
    fn add_block(&mut self, source: Source) -> usize {
        if let Some(last) = self.segments.last_mut()
            && last.source.behind(last.length) == source
            && (last.length < PIECE || !matches!(source, Source::Image(_)))
        {
            last.length += BLOCK;
            return last.length - BLOCK;
        }
        let leads = self.leads.len()..self.leads.len();
        self.segments.push(Segment { source, length: BLOCK, leads });
        0
    }
}

impl Core {
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let mut rest = buffer;
        let mut pieces = pieces(offset, rest.len() as u64).peekable();
        while let Some((of, at, length)) = pieces.next() {
            // It stays where it is, as do all that are read with it.
            let stays = self.locks.shared(of);
            let entry = self.map.get(of);
            if length == BLOCK && at.is_multiple_of(BLOCK) {
                let (block, later) = rest.split_at_mut(BLOCK);
                rest = later;
                self.read_block(of, &entry, at / BLOCK, block)?;
                continue;
            }
            if !at.is_multiple_of(BLOCK) || !length.is_multiple_of(BLOCK) {
                let (piece, later) = rest.split_at_mut(length);
                rest = later;
                self.read_part(of, &entry, at, piece)?;
                continue;
            }
            let mut plan = Plan::default();
            plan.add(of, &entry, at / BLOCK, length / BLOCK);
            let (mut held, mut total) = (vec![stays], length);
            while held.len() < RUN
                && let Some((of, _, length)) = pieces.next_if(|&(of, _, length)| {
                    // Locks are taken in their order, in which there is a seam.
                    length.is_multiple_of(BLOCK) && !of.0.is_multiple_of(LOCKS)
                })
            {
                held.push(self.locks.shared(of));
                plan.add(of, &self.map.get(of), 0, length / BLOCK);
                total += length;
            }
            let (now, later) = rest.split_at_mut(total);
            rest = later;
            self.fetch(&plan, now)?;
        }
        Ok(())
    }

    /// Reads one block, as most random reads do: there is nothing to plan.
    fn read_block(&self, of: Virtual, entry: &Entry, block: usize, buffer: &mut [u8]) -> Result<()> {
        match Source::of(of, entry, block) {
            Source::Zeros => buffer.fill(0),
            Source::Below(offset) => self.read_below(offset, buffer)?,
            Source::Image(offset) => {
                self.counters.read(buffer.len());
                self.storage.read(offset, buffer)?;
                if entry.is_lead(block) {
                    self.unpack(of, entry, buffer)?;
                }
            }
        }
        Ok(())
    }

    /// Reads what begins or ends inside a block.
    fn read_part(&self, of: Virtual, entry: &Entry, at: usize, buffer: &mut [u8]) -> Result<()> {
        let (first, end) = (at / BLOCK, (at + buffer.len()).div_ceil(BLOCK));
        let mut whole = vec![0; (end - first) * BLOCK];
        self.read_blocks(of, entry, first, &mut whole)?;
        let start = at % BLOCK;
        buffer.copy_from_slice(&whole[start..start + buffer.len()]);
        Ok(())
    }

    /// Reads whole blocks of a cluster, from block `first` on.
    pub(super) fn read_blocks(
        &self,
        of: Virtual,
        entry: &Entry,
        first: usize,
        buffer: &mut [u8],
    ) -> Result<()> {
        let mut plan = Plan::default();
        plan.add(of, entry, first, buffer.len() / BLOCK);
        self.fetch(&plan, buffer)
    }

    /// Does what a plan for `buffer` says.
    fn fetch(&self, plan: &Plan, buffer: &mut [u8]) -> Result<()> {
        let mut rest = buffer;
        let (mut requests, mut segments) = (Vec::new(), Vec::new());
        for segment in &plan.segments {
            let (bytes, later) = rest.split_at_mut(segment.length);
            rest = later;
            match segment.source {
                Source::Zeros => bytes.fill(0),
                Source::Below(offset) => self.read_below(offset, bytes)?,
                Source::Image(offset) => {
                    self.counters.read(bytes.len());
                    requests.push((offset, bytes));
                    segments.push(segment);
                }
            }
        }
        self.storage.read_each(&mut requests, &mut |number, bytes| {
            plan.leads[segments[number].leads.clone()]
                .iter()
                .try_for_each(|lead| self.unpack(lead.of, &lead.entry, &mut bytes[lead.at..lead.at + BLOCK]))
        })
    }

    /// What the backing image has there; zeros beyond its end, or without one.
    fn read_below(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let Some(backing) = &self.backing else {
            buffer.fill(0);
            return Ok(());
        };
        let there = self.below.saturating_sub(offset).min(buffer.len() as u64);
        let (known, beyond) = buffer.split_at_mut(usize::try_from(there).unwrap_or(0));
        beyond.fill(0);
        if known.is_empty() { Ok(()) } else { backing.read(offset, known, &[]) }
    }

    /// Reads what a cluster holds itself; what it does not is zeros.
    pub(super) fn read_own(&self, of: Virtual, entry: &Entry, buffer: &mut [u8]) -> Result<()> {
        for block in 0..BLOCKS {
            let into = &mut buffer[block * BLOCK..(block + 1) * BLOCK];
            if matches!(entry.blocks.get(block), Blocks::HERE | Blocks::FRESH) {
                self.read_blocks(of, entry, block, into)?;
            }
        }
        Ok(())
    }
}

/// What blocks of a cluster are that is nowhere.
fn absent(entry: &Entry) -> u32 {
    if entry.kind == Kind::Zero { Blocks::ZERO } else { Blocks::ABSENT }
}
