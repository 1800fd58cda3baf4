//! Blocks of files that were written and have not reached a disk: by content, since that is what arrives there, and by
//! place, since a place has one content at a time.

use std::ops::Range;

use hashbrown::HashTable;

use super::origins::OriginId;
use super::slab::Slab;
use super::sorted::Sorted;
use super::{FileId, Fingerprint, Place};

/// A block that is expected at a disk. In an array of 4-byte words it has no padding.
#[derive(Clone, Copy, Debug)]
struct Block {
    content: [u32; 4],
    place: [u32; 2],
    origin: OriginId,
    /// The next and the previous of those with the same content, all round; this one if there is no other.
    next: u32,
    previous: u32,
}

impl Block {
    fn content(&self) -> Fingerprint {
        let [a, b, c, d] = self.content.map(Fingerprint::from);
        a | b << 32 | c << 64 | d << 96
    }

    fn place(&self) -> Place {
        Place::from_words(self.place)
    }
}

/// The blocks.
#[derive(Debug)]
pub(super) struct Pending {
    blocks: Slab<Block>,
    /// Of each content the block that was written first.
    by_content: HashTable<u32>,
    by_place: Sorted,
}

/// The lower half of a fingerprint is as good a hash as any.
fn hash(content: Fingerprint) -> u64 {
    low(content)
}

/// The lower half.
pub(super) fn low(content: Fingerprint) -> u64 {
    let [low, _] = halves(content);
    low
}

fn halves(content: Fingerprint) -> [u64; 2] {
    let bytes = content.to_le_bytes();
    let half = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]));
    [half(0), half(8)]
}

/// Little end first.
pub(super) fn words(value: u64) -> [u32; 2] {
    let bytes = value.to_le_bytes();
    let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]));
    [word(0), word(4)]
}

impl Pending {
    pub(super) fn new() -> Self {
        Self { blocks: Slab::new(), by_content: HashTable::new(), by_place: Sorted::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.blocks.len()
    }

    fn number(&self, place: Place) -> Option<u32> {
        self.by_place.get(place.key(), |number| self.blocks.get(number).place().key())
    }

    /// What is expected of a place.
    pub(super) fn get(&self, place: Place) -> Option<(Fingerprint, OriginId)> {
        let block = self.blocks.get(self.number(place)?);
        Some((block.content(), block.origin))
    }

    /// The place that has had this content the longest.
    pub(super) fn first(&self, content: Fingerprint) -> Option<Place> {
        let is_it = |&number: &u32| self.blocks.get(number).content() == content;
        let number = self.by_content.find(hash(content), is_it)?;
        Some(self.blocks.get(*number).place())
    }

    /// The place that was written before all others.
    pub(super) fn oldest(&self) -> Option<Place> {
        self.blocks.oldest().map(|number| self.blocks.get(number).place())
    }

    /// The places in these bytes of a file.
    pub(super) fn within(&self, file: FileId, range: &Range<u64>) -> Vec<Place> {
        let keys = Place::keys(file, range);
        let numbers = self.by_place.within(&keys, |number| self.blocks.get(number).place().key());
        numbers.into_iter().map(|number| self.blocks.get(number).place()).collect()
    }

    /// Gives a place that is there another origin, and returns the one it had.
    pub(super) fn set_origin(&mut self, place: Place, origin: OriginId) -> Option<OriginId> {
        let number = self.number(place)?;
        Some(std::mem::replace(&mut self.blocks.get_mut(number).origin, origin))
    }

    /// Expects a block of a place that is not there.
    pub(super) fn insert(&mut self, place: Place, content: Fingerprint, origin: OriginId) {
        let [[a, b], [c, d]] = halves(content).map(words);
        let block = Block { content: [a, b, c, d], place: words(place.key()), origin, next: 0, previous: 0 };
        let Self { blocks, by_content, by_place } = self;
        let number = blocks.push(block);
        let same = by_content.find(hash(content), |&other| blocks.get(other).content() == content).copied();
        let (next, previous) = match same {
            // Behind the last of them, which is the one before the first.
            Some(first) => (first, blocks.get(first).previous),
            None => {
                by_content.insert_unique(hash(content), number, |&other| hash(blocks.get(other).content()));
                (number, number)
            }
        };
        blocks.get_mut(previous).next = number;
        blocks.get_mut(next).previous = number;
        let block = blocks.get_mut(number);
        (block.next, block.previous) = (next, previous);
        by_place.insert(number, |number| blocks.get(number).place().key());
    }

    /// No longer expects a block of a place.
    pub(super) fn remove(&mut self, place: Place) -> Option<(Fingerprint, OriginId)> {
        let number = self.number(place)?;
        let Self { blocks, by_content, by_place } = self;
        by_place.remove(place.key(), |number| blocks.get(number).place().key());
        let block = *blocks.get(number);
        let content = block.content();
        if let Ok(mut entry) = by_content.find_entry(hash(content), |&other| other == number) {
            // It was the first of those with this content.
            if block.next == number {
                entry.remove();
            } else {
                *entry.get_mut() = block.next;
            }
        }
        blocks.get_mut(block.previous).next = block.next;
        blocks.get_mut(block.next).previous = block.previous;
        blocks.remove(number);
        Some((content, block.origin))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u16, u64, Fingerprint),
        Remove(u16, u64),
        Take(Fingerprint),
    }

    fn step() -> impl Strategy<Value = Step> {
        // Some contents differ in the upper half only.
        let content =
            || (0..3u8, 0..3u8).prop_map(|(a, b)| Fingerprint::from(a) << 100 | Fingerprint::from(b));
        prop_oneof![
            3 => (0..3u16, 0..8u64, content()).prop_map(|(file, block, content)| Step::Insert(file, block, content)),
            1 => (0..3u16, 0..8u64).prop_map(|(file, block)| Step::Remove(file, block)),
            1 => content().prop_map(Step::Take),
        ]
    }

    proptest! {
        /// Against a list.
        #[test]
        fn agrees_with_a_list(steps in proptest::collection::vec(step(), 1..200)) {
            let place = |file: u16, block: u64| Place::new(FileId(file), block * 4096).unwrap();
            let mut pending = Pending::new();
            let mut model: Vec<(Place, Fingerprint)> = Vec::new();
            for step in steps {
                match step {
                    Step::Insert(file, block, content) => {
                        let place = place(file, block);
                        if !model.iter().any(|entry| entry.0 == place) {
                            model.push((place, content));
                            pending.insert(place, content, OriginId::default());
                        }
                    }
                    Step::Remove(file, block) => {
                        let place = place(file, block);
                        let at = model.iter().position(|entry| entry.0 == place);
                        let expected = at.map(|at| model.remove(at).1);
                        prop_assert_eq!(pending.remove(place).map(|(content, _)| content), expected);
                    }
                    Step::Take(content) => {
                        let expected = model.iter().position(|entry| entry.1 == content).map(|at| model.remove(at).0);
                        let first = pending.first(content);
                        prop_assert_eq!(first, expected);
                        first.map(|place| pending.remove(place));
                    }
                }
                prop_assert_eq!(pending.len(), model.len());
                prop_assert_eq!(pending.oldest(), model.first().map(|entry| entry.0));
                for file in 0..3 {
                    let mut expected: Vec<Place> = model.iter().map(|entry| entry.0).collect();
                    expected.retain(|at| at.file() == FileId(file) && (4096..20480).contains(&at.offset()));
                    expected.sort_unstable();
                    prop_assert_eq!(pending.within(FileId(file), &(4096..20480)), expected);
                    for block in 0..8 {
                        let place = place(file, block);
                        let expected = model.iter().find(|entry| entry.0 == place).map(|entry| entry.1);
                        prop_assert_eq!(pending.get(place).map(|(content, _)| content), expected);
                    }
                }
                let contents: std::collections::BTreeSet<_> = model.iter().map(|entry| entry.1).collect();
                prop_assert_eq!(pending.by_content.len(), contents.len());
            }
        }
    }
}
