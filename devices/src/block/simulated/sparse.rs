//! Bytes in memory that cost what they hold, and copies of them that cost next to nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::block::range::to_u64;

/// Bytes that are kept or not kept together.
const BLOCK: usize = 4096;

/// Blocks that are copied together when one of them changes.
const BLOCKS: usize = 256;

/// Bytes of a leaf.
const LEAF: u64 = to_u64_const(BLOCK * BLOCKS);

type Block = Arc<[u8; BLOCK]>;

/// A MiB of which only the blocks that hold something are there.
#[derive(Clone)]
struct Leaf([Option<Block>; BLOCKS]);

impl Leaf {
    fn empty() -> Arc<Self> {
        Arc::new(Self([const { None }; BLOCKS]))
    }
}

/// An endless row of bytes, zero unless written. A clone shares all blocks until one side changes them.
#[derive(Clone, Default)]
pub(super) struct Sparse {
    leaves: BTreeMap<u64, Arc<Leaf>>,
}

impl Sparse {
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) {
        let mut rest = buffer;
        for piece in pieces(offset, to_u64(rest.len())) {
            let (here, after) = std::mem::take(&mut rest).split_at_mut(piece.length);
            match self.block(&piece) {
                Some(block) => here.copy_from_slice(&block[piece.start..piece.start + piece.length]),
                None => here.fill(0),
            }
            rest = after;
        }
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        let mut rest = data;
        for piece in pieces(offset, to_u64(data.len())) {
            let (here, after) = rest.split_at(piece.length);
            rest = after;
            if here == &[0; BLOCK][..piece.length] {
                self.zero_piece(&piece);
                continue;
            }
            let leaf = self.leaves.entry(piece.leaf).or_insert_with(Leaf::empty);
            let block = Arc::make_mut(leaf).0[piece.block].get_or_insert_with(|| Arc::new([0; BLOCK]));
            Arc::make_mut(block)[piece.start..piece.start + piece.length].copy_from_slice(here);
        }
    }

    /// Makes a range zero. Takes time for what it held, not for its length.
    pub(super) fn zero(&mut self, offset: u64, length: u64) {
        let end = offset.saturating_add(length);
        let (first, last) = (offset.div_ceil(LEAF), end / LEAF);
        if first >= last {
            pieces(offset, end - offset).for_each(|piece| self.zero_piece(&piece));
            return;
        }
        pieces(offset, first * LEAF - offset).for_each(|piece| self.zero_piece(&piece));
        let mut whole = self.leaves.split_off(&first);
        self.leaves.append(&mut whole.split_off(&last));
        pieces(last * LEAF, end - last * LEAF).for_each(|piece| self.zero_piece(&piece));
    }

    /// How many bytes are kept.
    pub(super) fn kept(&self) -> u64 {
        let blocks: usize = self.leaves.values().map(|leaf| leaf.0.iter().flatten().count()).sum();
        to_u64(blocks * BLOCK)
    }

    /// How many bytes of a range are kept. Takes time for what is kept there.
    pub(super) fn kept_in(&self, offset: u64, length: u64) -> u64 {
        let end = offset.saturating_add(length);
        let leaves = self.leaves.range(offset / LEAF..end.div_ceil(LEAF)).map(|(&leaf, _)| leaf * LEAF);
        let parts = leaves.flat_map(|leaf| {
            let (from, to) = (offset.max(leaf), end.min(leaf.saturating_add(LEAF)));
            pieces(from, to.saturating_sub(from))
        });
        parts.filter(|piece| self.block(piece).is_some()).map(|piece| to_u64(piece.length)).sum()
    }

    fn block(&self, piece: &Piece) -> Option<&Block> {
        self.leaves.get(&piece.leaf)?.0[piece.block].as_ref()
    }

    fn zero_piece(&mut self, piece: &Piece) {
        if self.block(piece).is_none() {
            return;
        }
        let Some(leaf) = self.leaves.get_mut(&piece.leaf) else { return };
        let place = &mut Arc::make_mut(leaf).0[piece.block];
        if piece.length == BLOCK {
            *place = None;
        } else if let Some(block) = place {
            Arc::make_mut(block)[piece.start..piece.start + piece.length].fill(0);
        }
    }
}

/// A part of one block.
struct Piece {
    leaf: u64,
    block: usize,
    /// First byte within the block.
    start: usize,
    length: usize,
}

/// The parts of blocks that `length` bytes from byte `offset` are.
fn pieces(offset: u64, length: u64) -> impl Iterator<Item = Piece> {
    let end = offset.saturating_add(length);
    let mut position = offset;
    std::iter::from_fn(move || {
        if position >= end {
            return None;
        }
        let within = to_usize(position % LEAF);
        let start = within % BLOCK;
        let length = to_usize(end - position).min(BLOCK - start);
        let piece = Piece { leaf: position / LEAF, block: within / BLOCK, start, length };
        position += to_u64(length);
        Some(piece)
    })
}

/// A number that is small, or only compared with one that is.
fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[allow(clippy::cast_lossless, reason = "conversions are not const; a MiB fits every type")]
const fn to_u64_const(number: usize) -> u64 {
    number as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: usize = 3 << 20;

    #[derive(Clone, Debug)]
    enum Step {
        Write(usize, usize, u8),
        Zero(usize, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let range = (0..SIZE, prop_oneof![0..10_000usize, 0..SIZE])
            .prop_map(|(start, length)| (start, length.min(SIZE - start)));
        prop_oneof![
            (range.clone(), 0..3u8).prop_map(|((start, length), byte)| Step::Write(start, length, byte)),
            range.prop_map(|(start, length)| Step::Zero(start, length)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn is_a_row_of_bytes_and_clones_are_separate(steps in prop::collection::vec(step(), 1..20)) {
            let mut model = vec![0; SIZE];
            let mut sparse = Sparse::default();
            let mut clones = Vec::new();
            for step in steps {
                clones.push((sparse.clone(), model.clone()));
                match step {
                    Step::Write(start, length, byte) => {
                        model[start..start + length].fill(byte);
                        sparse.write(to_u64(start), &vec![byte; length]);
                    }
                    Step::Zero(start, length) => {
                        model[start..start + length].fill(0);
                        sparse.zero(to_u64(start), to_u64(length));
                    }
                }
            }
            clones.push((sparse, model));
            for (sparse, model) in clones {
                let mut bytes = vec![9; SIZE];
                sparse.read(0, &mut bytes);
                prop_assert!(bytes == model);
            }
        }
    }

    #[test]
    fn zeros_and_holes_cost_nothing() {
        let mut sparse = Sparse::default();
        sparse.write(1 << 50, &[1; 3 * BLOCK]);
        sparse.write(7, &[0; 100_000]);
        assert_eq!(sparse.kept(), to_u64(3 * BLOCK));
        sparse.zero(0, u64::MAX);
        assert_eq!(sparse.kept(), 0);
    }
}
