//! Reading the disk.

use std::sync::RwLockReadGuard;

use super::Core;
use super::format::{BLOCK, BLOCKS, Blocks, CLUSTER, Entry, Kind, Virtual};
use super::locks::LOCKS;
use super::write::pieces;
use crate::block::Result;

/// Clusters that are read at once where they lie one behind the other. Fewer than there are locks.
const RUN: usize = 16;

/// A cluster that stays where it is.
struct Held<'a> {
    of: Virtual,
    entry: Entry,
    _stays: RwLockReadGuard<'a, ()>,
}

impl Core {
    fn held(&self, of: Virtual) -> Held<'_> {
        let stays = self.locks.shared(of);
        Held { of, entry: self.map.get(of), _stays: stays }
    }

    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let mut rest = buffer;
        let mut pieces = pieces(offset, rest.len() as u64).peekable();
        while let Some((of, at, length)) = pieces.next() {
            let held = self.held(of);
            if at == 0 && length == CLUSTER && self.is_straight(&held.entry) {
                let mut run = vec![held];
                while let Some(next) =
                    pieces.peek().and_then(|&(of, _, length)| self.follows(&run, of, length))
                {
                    run.push(next);
                    pieces.next();
                }
                let (whole, later) = rest.split_at_mut(run.len() * CLUSTER);
                rest = later;
                self.read_run(&run, whole)?;
                continue;
            }
            let (piece, later) = rest.split_at_mut(length);
            rest = later;
            self.read_cluster(of, &held.entry, at, piece)?;
        }
        Ok(())
    }

    /// Whether a cluster lies in the image as it is on the disk, except for its lead block.
    fn is_straight(&self, entry: &Entry) -> bool {
        let own = |block| matches!(entry.blocks.get(block), Blocks::HERE | Blocks::FRESH);
        entry.is_mapped() && entry.rotation == 0 && (0..BLOCKS).all(own)
    }

    /// The cluster `of`, if all of it is to be read and it lies right behind a run.
    fn follows<'a>(&'a self, run: &[Held<'a>], of: Virtual, length: usize) -> Option<Held<'a>> {
        let last = run.last()?;
        // Locks are taken in their order, in which there is a seam.
        if length != CLUSTER || run.len() >= RUN || of.0.is_multiple_of(LOCKS) {
            return None;
        }
        let next = self.held(of);
        let behind = next.entry.cluster.0 == last.entry.cluster.0.checked_add(1)?;
        (behind && self.is_straight(&next.entry)).then_some(next)
    }

    fn read_run(&self, run: &[Held<'_>], buffer: &mut [u8]) -> Result<()> {
        let Some(first) = run.first() else { return Ok(()) };
        self.counters.read(buffer.len());
        self.storage.read(first.entry.cluster.offset(), buffer)?;
        for (held, cluster) in run.iter().zip(buffer.chunks_exact_mut(CLUSTER)) {
            if held.entry.kind == Kind::Embedded {
                self.unpack(held.of, &held.entry, &mut cluster[..BLOCK])?;
            }
        }
        Ok(())
    }

    /// Reads a part of a cluster.
    fn read_cluster(&self, of: Virtual, entry: &Entry, at: usize, buffer: &mut [u8]) -> Result<()> {
        if at.is_multiple_of(BLOCK) && buffer.len().is_multiple_of(BLOCK) {
            return self.read_blocks(of, entry, at / BLOCK, buffer);
        }
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
        let end = first + buffer.len() / BLOCK;
        let state = |block| if entry.is_mapped() { entry.blocks.get(block) } else { absent(entry) };
        let source = |block| match state(block) {
            Blocks::FRESH => Blocks::HERE,
            other => other,
        };
        let mut block = first;
        let mut rest = buffer;
        while block < end {
            let from = source(block);
            let together =
                |next: usize| source(next) == from && !(from == Blocks::HERE && entry.is_lead(next));
            let until = (block + 1..end).find(|&next| !together(next)).unwrap_or(end);
            let (run, later) = rest.split_at_mut((until - block) * BLOCK);
            rest = later;
            match from {
                Blocks::HERE => {
                    self.counters.read(run.len());
                    self.storage.read(entry.offset(block), run)?;
                    if entry.is_lead(block) {
                        self.unpack(of, entry, &mut run[..BLOCK])?;
                    }
                }
                Blocks::ABSENT => self.read_below(of.offset() + (block * BLOCK) as u64, run)?,
                _ => run.fill(0),
            }
            block = until;
        }
        Ok(())
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
