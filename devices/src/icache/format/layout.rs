//! Where everything lies: superblocks, and places of 4 KiB, of which some are the journal and all others lines.

use std::ops::Range;

use super::{LINE_U64, REGIONS, page::REFRESH_LEAST};
use crate::block::{Error, ErrorKind, Operation, Result};

/// Pages before the first place: two superblocks.
const FIRST: u64 = 2;
/// Lines that a cache has at least.
const LEAST_LINES: u32 = 64;
const MOST_PLACES: u32 = u32::MAX / 2;

/// The layout follows from the number of places, where the journal begins, and the size of the slow tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::icache) struct Layout {
    /// Places of 4 KiB. A line has the number of its place.
    pub(in crate::icache) places: u32,
    /// The place where the journal begins.
    pub(in crate::icache) journal: u32,
    /// Size of the slow tier in bytes.
    pub(in crate::icache) slow: u64,
}

/// Byte offset of a line. It does not depend on the layout: a line stays where it is when others come and go.
pub(in crate::icache) fn offset_of(line: u32) -> u64 {
    (FIRST + u64::from(line)) * LINE_U64
}

impl Layout {
    /// The largest that fits into `size` bytes, the journal in front.
    pub(in crate::icache) fn fitting(size: u64, slow: u64, operation: Operation) -> Result<Self> {
        let places = (size / LINE_U64).saturating_sub(FIRST).min(u64::from(MOST_PLACES));
        let places = u32::try_from(places).unwrap_or(MOST_PLACES);
        Self { places, journal: 0, slow }.checked(operation)
    }

    /// One of another size whose journal lies in front or at the end, and not where this one's is; none if this one's is
    /// in the way of both.
    pub(in crate::icache) fn beside(self, other: Self) -> Option<Self> {
        let (front, end) = (0, other.places - other.pages_u32());
        let apart = |journal: &u32| {
            let (old, new) = (self.journal_lines(), Self { journal: *journal, ..other }.journal_lines());
            // What is a line before and after has to hold everything in between.
            let both = self.places.min(other.places);
            let taken = old.end.min(both) - old.start.min(both) + new.end.min(both) - new.start.min(both);
            (old.end <= new.start || new.end <= old.start) && both - taken.min(both) >= LEAST_LINES / 2
        };
        // Where there are no lines yet none has to go.
        let order = if end >= self.places { [end, front] } else { [front, end] };
        order.into_iter().find(apart).map(|journal| Self { journal, ..other })
    }

    /// Refuses what cannot be.
    pub(in crate::icache) fn checked(self, operation: Operation) -> Result<Self> {
        let bad = |why: &str| Err(Error::new(ErrorKind::BadSize, operation).because(why));
        let inside = u64::from(self.journal) + self.pages() <= u64::from(self.places);
        if !inside || self.usable() < LEAST_LINES {
            return bad("a cache has at least 64 lines of 4 KiB, and its journal");
        }
        if self.places > MOST_PLACES {
            return bad("a cache has at most 8 TiB");
        }
        if self.slow == 0 || !self.slow.is_multiple_of(512) || self.slow / LINE_U64 >= u64::from(u32::MAX) {
            return bad("the disk behind a cache has less than 16 TiB, in sectors of 512 bytes");
        }
        Ok(self)
    }

    /// Pages that are written between two syncs, at most.
    pub(in crate::icache) fn batch(self) -> u64 {
        u64::from(self.places / 64).clamp(2, 32)
    }

    /// Pages in which every line is spoken of once, and what else may lie between.
    pub(in crate::icache) fn window(self) -> u64 {
        u64::from(self.places).div_ceil(REFRESH_LEAST as u64) + 2 * self.batch() + 4
    }

    /// Pages of the journal.
    pub(in crate::icache) fn pages(self) -> u64 {
        self.window() + 4 * self.batch() + 4
    }

    fn pages_u32(self) -> u32 {
        u32::try_from(self.pages()).unwrap_or(u32::MAX)
    }

    /// Places of the journal.
    pub(in crate::icache) fn journal_lines(self) -> Range<u32> {
        self.journal..self.journal.saturating_add(self.pages_u32())
    }

    /// Whether a place is a line.
    pub(in crate::icache) fn is_line(self, line: u32) -> bool {
        line < self.places && !self.journal_lines().contains(&line)
    }

    /// Lines.
    pub(in crate::icache) fn usable(self) -> u32 {
        self.places.saturating_sub(self.pages_u32())
    }

    /// Lines that may hold a block at a time: the others are about to be used.
    pub(in crate::icache) fn capacity(self) -> u32 {
        capacity_of(self.usable())
    }

    /// Byte offset of a page, by its number, which counts on for ever.
    pub(in crate::icache) fn page(self, number: u64) -> u64 {
        (FIRST + u64::from(self.journal) + number % self.pages()) * LINE_U64
    }

    /// Bytes of the whole.
    pub(in crate::icache) fn size(self) -> u64 {
        offset_of(self.places)
    }

    /// Bytes of the slow tier that one bit of the intents stands for: a power of two, at least 16 MiB.
    pub(in crate::icache) fn region(self) -> u64 {
        self.slow.div_ceil(REGIONS as u64).next_power_of_two().max(16 << 20)
    }

    /// Whole blocks of the slow tier; a rest at its end is not cached.
    pub(in crate::icache) fn blocks(self) -> u32 {
        u32::try_from(self.slow / LINE_U64).unwrap_or(u32::MAX - 1)
    }
}

/// Of so many lines, those that may hold a block at a time.
pub(in crate::icache) fn capacity_of(lines: u32) -> u32 {
    lines.saturating_sub((lines / 128).max(8)).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn layout(places: u32) -> Layout {
        Layout { places, journal: 0, slow: 1 << 30 }.checked(Operation::Create).unwrap()
    }

    proptest! {
        /// From any size to any other, in two steps at most, each of which leaves lines that are in nobody's way.
        #[test]
        fn a_journal_finds_a_place_beside_the_old_one(
            sizes in proptest::collection::vec(prop_oneof![88..400u32, 88..20_000u32, 88..4_000_000u32], 1..12),
        ) {
            let mut old = layout(88);
            for size in sizes {
                let wanted = layout(size);
                let new = old.beside(wanted).unwrap_or_else(|| {
                    let turned = old.beside(old).unwrap();
                    turned.beside(wanted).unwrap()
                });
                prop_assert_eq!(new.checked(Operation::Grow).unwrap(), new);
                prop_assert_eq!((new.places, new.pages()), (wanted.places, wanted.pages()));
                if let Some(new) = old.beside(wanted) {
                    let lines = (0..old.places.min(new.places)).filter(|&line| old.is_line(line) && new.is_line(line));
                    prop_assert_eq!(lines.take(32).count(), 32);
                }
                old = new;
            }
        }
    }
}
