//! From a block of the slow tier to its line: open addressing, 4 bytes an entry.
//!
//! The bits of an entry that the number of a line does not need hold a piece of the block's hash, so that a search
//! seldom looks at a line that is not the one.

use super::{Line, hash};

/// Filled places of a hundred, when every line holds a block.
const LOAD: u64 = 85;

/// The table. Which block a line holds is not in it: whoever asks brings that along.
#[derive(Debug)]
pub(super) struct Index {
    /// 0 where nothing is; else the line plus one in the low bits, and a piece of the hash above.
    places: Box<[u32]>,
    line_mask: u32,
}

impl Index {
    /// Places for so many lines.
    pub(super) fn places(lines: u32) -> u64 {
        u64::from(lines) * 100 / LOAD + 2
    }

    /// A table for so many lines, at most `u32::MAX - 1`.
    pub(super) fn new(lines: u32) -> Self {
        let places = usize::try_from(Self::places(lines)).unwrap_or(usize::MAX);
        let bits = u32::BITS - lines.leading_zeros();
        let line_mask = 1u32.checked_shl(bits).map_or(u32::MAX, |above| above - 1);
        Self { places: vec![0; places].into_boxed_slice(), line_mask }
    }

    fn home(&self, hash: u64) -> usize {
        let scaled = u128::from(hash) * self.places.len() as u128;
        usize::try_from(scaled >> 64).unwrap_or(0)
    }

    fn next(&self, place: usize) -> usize {
        if place + 1 == self.places.len() { 0 } else { place + 1 }
    }

    fn entry(&self, hash: u64, line: Line) -> u32 {
        // The low half of the hash: the place comes from the high one.
        let [a, b, c, d, ..] = hash.to_le_bytes();
        (u32::from_le_bytes([a, b, c, d]) & !self.line_mask) | (line + 1)
    }

    fn place(&self, block: u32, blocks: &[u32]) -> Option<usize> {
        let hash = hash(block);
        let tag = self.entry(hash, 0) & !self.line_mask;
        let mut place = self.home(hash);
        loop {
            let entry = self.places[place];
            if entry == 0 {
                return None;
            }
            if entry & !self.line_mask == tag && blocks[self.line(entry) as usize] == block {
                return Some(place);
            }
            place = self.next(place);
        }
    }

    fn line(&self, entry: u32) -> Line {
        (entry & self.line_mask) - 1
    }

    /// The line that holds `block`; `blocks` says which one each line holds.
    pub(super) fn find(&self, block: u32, blocks: &[u32]) -> Option<Line> {
        self.place(block, blocks).map(|place| self.line(self.places[place]))
    }

    /// Puts down that `line` holds `block`, which no line held.
    pub(super) fn insert(&mut self, block: u32, line: Line) {
        let hash = hash(block);
        let mut place = self.home(hash);
        while self.places[place] != 0 {
            place = self.next(place);
        }
        self.places[place] = self.entry(hash, line);
    }

    /// Takes `block` out, if it is there.
    pub(super) fn remove(&mut self, block: u32, blocks: &[u32]) {
        let Some(mut hole) = self.place(block, blocks) else { return };
        let mut place = hole;
        loop {
            place = self.next(place);
            let entry = self.places[place];
            if entry == 0 {
                break;
            }
            // What could no longer be found behind the hole moves into it.
            let home = self.home(hash(blocks[self.line(entry) as usize]));
            let reaches =
                if hole <= place { home <= hole || home > place } else { home <= hole && home > place };
            if reaches {
                self.places[hole] = entry;
                hole = place;
            }
        }
        self.places[hole] = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::block::simulated::Random;

    #[test]
    fn finds_what_a_map_finds_when_every_line_is_used() {
        for lines in [1, 2, 7, 64, 255, 256] {
            let (mut index, mut blocks) = (Index::new(lines), vec![u32::MAX; lines as usize]);
            let (mut map, mut random) = (HashMap::new(), Random::new(u64::from(lines)));
            for _ in 0..20_000 {
                let line = u32::try_from(random.below(u64::from(lines))).unwrap();
                let block = u32::try_from(random.below(u64::from(lines) * 3)).unwrap();
                let old = blocks[line as usize];
                if map.remove(&old).is_some() {
                    index.remove(old, &blocks);
                }
                blocks[line as usize] = u32::MAX;
                if let std::collections::hash_map::Entry::Vacant(vacant) = map.entry(block) {
                    vacant.insert(line);
                    blocks[line as usize] = block;
                    index.insert(block, line);
                }
                let probe = u32::try_from(random.below(u64::from(lines) * 3)).unwrap();
                assert_eq!(index.find(probe, &blocks), map.get(&probe).copied());
            }
        }
    }
}
