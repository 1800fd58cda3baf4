//! A page of the journal: what lines hold now that they did not hold before, which ones were given up, what a run of
//! other lines still holds, and where the slow tier may be ahead of the lines.

use super::LINE;
use crate::policy::ClassId;

/// Bits of intents in each page.
pub(in crate::icache) const REGIONS: usize = 4096;
const BITS: usize = REGIONS / 8;
const HEADER: usize = 64;
const BODY: usize = HEADER + BITS;
const SET: usize = 20;
const FREE: usize = 4;
const REFRESH: usize = 6;
/// Most sets in a page.
pub(in crate::icache) const PAGE_SETS: usize = 64;
/// Most lines given up in a page.
pub(in crate::icache) const PAGE_FREES: usize = 64;
/// Lines of which a page speaks again, at least.
pub(super) const REFRESH_LEAST: usize = (LINE - BODY - PAGE_SETS * SET - PAGE_FREES * FREE) / REFRESH;
const _: () = assert!(REFRESH_LEAST > 300);
/// The magic, and the version.
const MAGIC: [u8; 4] = *b"iCj\x01";
/// In place of a block: nothing is said of the line.
const SILENT: u32 = u32::MAX;

/// A line holds a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::icache) struct Set {
    pub(in crate::icache) line: u32,
    pub(in crate::icache) block: u32,
    pub(in crate::icache) class: ClassId,
    pub(in crate::icache) dirty: bool,
    /// XXH3 of the line's content, where that may not be durable yet.
    pub(in crate::icache) sum: Option<u64>,
}

/// What a line still holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::icache) struct Refreshed {
    pub(in crate::icache) block: u32,
    pub(in crate::icache) class: ClassId,
    pub(in crate::icache) dirty: bool,
    pub(in crate::icache) hot: bool,
}

/// What is known when a page is made.
#[derive(Clone, Copy, Debug)]
pub(in crate::icache) struct Page<'a> {
    pub(in crate::icache) uuid: &'a [u8; 16],
    pub(in crate::icache) number: u64,
    pub(in crate::icache) generation: u64,
    /// The last page that was durable then.
    pub(in crate::icache) synced: u64,
    pub(in crate::icache) sets: &'a [Set],
    pub(in crate::icache) frees: &'a [u32],
    /// The first line that is spoken of again, and those from there on.
    pub(in crate::icache) first: u32,
    pub(in crate::icache) refreshed: &'a [Option<Refreshed>],
    /// A bit for each region.
    pub(in crate::icache) intents: &'a [u64; REGIONS / 64],
}

/// What a page says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::icache) struct Decoded {
    pub(in crate::icache) number: u64,
    pub(in crate::icache) generation: u64,
    pub(in crate::icache) synced: u64,
    pub(in crate::icache) sets: Vec<Set>,
    pub(in crate::icache) frees: Vec<u32>,
    pub(in crate::icache) first: u32,
    pub(in crate::icache) refreshed: Vec<Option<Refreshed>>,
    pub(in crate::icache) intents: Box<[u64; REGIONS / 64]>,
}

/// Lines that a page with so many sets and frees can speak of again.
pub(in crate::icache) fn refresh_room(sets: usize, frees: usize) -> usize {
    (LINE - BODY - sets.min(PAGE_SETS) * SET - frees.min(PAGE_FREES) * FREE) / REFRESH
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut value = [0; N];
    value.copy_from_slice(&bytes[at..at + N]);
    value
}

fn small(number: usize) -> [u8; 2] {
    u16::try_from(number).unwrap_or(u16::MAX).to_le_bytes()
}

impl Page<'_> {
    /// The bytes of the page. Its parts are at most as long as a page has room for.
    pub(in crate::icache) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; LINE];
        put(&mut bytes, 4, &MAGIC);
        put(&mut bytes, 8, self.uuid);
        put(&mut bytes, 24, &self.number.to_le_bytes());
        put(&mut bytes, 32, &self.generation.to_le_bytes());
        put(&mut bytes, 40, &self.synced.to_le_bytes());
        put(&mut bytes, 48, &self.first.to_le_bytes());
        put(&mut bytes, 52, &small(self.sets.len()));
        put(&mut bytes, 54, &small(self.frees.len()));
        put(&mut bytes, 56, &small(self.refreshed.len()));
        for (word, bits) in self.intents.iter().enumerate() {
            put(&mut bytes, HEADER + word * 8, &bits.to_le_bytes());
        }
        let mut at = BODY;
        for set in self.sets {
            put(&mut bytes, at, &set.line.to_le_bytes());
            put(&mut bytes, at + 4, &set.block.to_le_bytes());
            put(&mut bytes, at + 8, &set.sum.unwrap_or(0).to_le_bytes());
            bytes[at + 16] = set.class.get();
            bytes[at + 17] = u8::from(set.dirty) | u8::from(set.sum.is_some()) << 1;
            at += SET;
        }
        for free in self.frees {
            put(&mut bytes, at, &free.to_le_bytes());
            at += FREE;
        }
        for refreshed in self.refreshed {
            put(&mut bytes, at, &refreshed.map_or(SILENT, |refreshed| refreshed.block).to_le_bytes());
            if let Some(refreshed) = refreshed {
                bytes[at + 4] = refreshed.class.get();
                bytes[at + 5] = u8::from(refreshed.dirty) | u8::from(refreshed.hot) << 1;
            }
            at += REFRESH;
        }
        let sum = crc32c::crc32c(&bytes[4..]);
        put(&mut bytes, 0, &sum.to_le_bytes());
        bytes
    }
}

impl Decoded {
    /// What the bytes say; `None` if they are no page of this cache.
    pub(in crate::icache) fn decode(bytes: &[u8], uuid: &[u8; 16]) -> Option<Self> {
        let sound = bytes.len() == LINE
            && bytes[4..8] == MAGIC
            && bytes[8..24] == *uuid
            && u32::from_le_bytes(take(bytes, 0)) == crc32c::crc32c(&bytes[4..]);
        if !sound {
            return None;
        }
        let count = |at| usize::from(u16::from_le_bytes(take(bytes, at)));
        let (sets, frees, refreshed) = (count(52), count(54), count(56));
        if sets > PAGE_SETS || frees > PAGE_FREES || refreshed > refresh_room(sets, frees) {
            return None;
        }
        let number_at = |at| u64::from_le_bytes(take(bytes, at));
        let word_at = |at| u32::from_le_bytes(take(bytes, at));
        let mut intents = Box::new([0; REGIONS / 64]);
        for (word, bits) in intents.iter_mut().enumerate() {
            *bits = number_at(HEADER + word * 8);
        }
        let set = |index: usize| {
            let at = BODY + index * SET;
            let (class, flags) = (ClassId::new(bytes[at + 16])?, bytes[at + 17]);
            let sum = (flags & 2 != 0).then(|| number_at(at + 8));
            Some(Set { line: word_at(at), block: word_at(at + 4), class, dirty: flags & 1 != 0, sum })
        };
        let (frees_at, refreshed_at) = (BODY + sets * SET, BODY + sets * SET + frees * FREE);
        let refresh = |index: usize| {
            let at = refreshed_at + index * REFRESH;
            let block = word_at(at);
            if block == SILENT {
                return Some(None);
            }
            let (class, flags) = (ClassId::new(bytes[at + 4])?, bytes[at + 5]);
            Some(Some(Refreshed { block, class, dirty: flags & 1 != 0, hot: flags & 2 != 0 }))
        };
        Some(Self {
            number: number_at(24),
            generation: number_at(32),
            synced: number_at(40),
            sets: (0..sets).map(set).collect::<Option<_>>()?,
            frees: (0..frees).map(|index| word_at(frees_at + index * FREE)).collect(),
            first: word_at(48),
            refreshed: (0..refreshed).map(refresh).collect::<Option<_>>()?,
            intents,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn class() -> impl Strategy<Value = ClassId> {
        (0..34u8).prop_map(|id| ClassId::new(id).unwrap())
    }

    fn set() -> impl Strategy<Value = Set> {
        (any::<u32>(), any::<u32>(), class(), any::<bool>(), any::<Option<u64>>())
            .prop_map(|(line, block, class, dirty, sum)| Set { line, block, class, dirty, sum })
    }

    fn refreshed() -> impl Strategy<Value = Option<Refreshed>> {
        proptest::option::of(
            (0..u32::MAX, class(), any::<bool>(), any::<bool>())
                .prop_map(|(block, class, dirty, hot)| Refreshed { block, class, dirty, hot }),
        )
    }

    proptest! {
        #[test]
        fn a_page_comes_back_and_a_damaged_one_does_not(
            sets in proptest::collection::vec(set(), 0..=PAGE_SETS),
            frees in proptest::collection::vec(any::<u32>(), 0..=PAGE_FREES),
            refreshed in proptest::collection::vec(refreshed(), 0..=REFRESH_LEAST),
            numbers in any::<[u64; 3]>(),
            first in any::<u32>(),
            word in any::<u64>(),
            damage in (0..LINE, 1..=255u8),
        ) {
            let uuid = [7; 16];
            let intents = [word; REGIONS / 64];
            let [number, generation, synced] = numbers;
            let page = Page {
                uuid: &uuid, number, generation, synced, sets: &sets, frees: &frees, first,
                refreshed: &refreshed, intents: &intents,
            };
            let mut bytes = page.encode();
            let decoded = Decoded::decode(&bytes, &uuid).unwrap();
            prop_assert_eq!((decoded.number, decoded.generation, decoded.synced, decoded.first),
                (number, generation, synced, first));
            prop_assert_eq!(&decoded.sets, &sets);
            prop_assert_eq!(&decoded.frees, &frees);
            prop_assert_eq!(&decoded.refreshed, &refreshed);
            prop_assert_eq!(*decoded.intents, intents);
            prop_assert!(Decoded::decode(&bytes, &[8; 16]).is_none());
            bytes[damage.0] ^= damage.1;
            prop_assert!(Decoded::decode(&bytes, &uuid).is_none());
        }
    }
}
