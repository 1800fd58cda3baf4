//! Where everything lies: superblocks, journal, lines.

use super::{LINE_U64, REGIONS, page::REFRESH_LEAST};
use crate::block::{Error, ErrorKind, Operation, Result};

/// Pages before the journal: two superblocks.
const JOURNAL: u64 = 2;
/// Lines that a cache has at least.
pub(in crate::icache) const LEAST_LINES: u32 = 64;

/// The layout follows from the number of lines and the size of the slow tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::icache) struct Layout {
    /// Lines of 4 KiB.
    pub(in crate::icache) lines: u32,
    /// Size of the slow tier in bytes.
    pub(in crate::icache) slow: u64,
}

impl Layout {
    /// The largest that fits into `size` bytes.
    pub(in crate::icache) fn fitting(size: u64, slow: u64) -> Result<Self> {
        let (mut least, mut most) = (0, u64::from(u32::MAX) / 2);
        while least < most {
            let middle = (least + most).div_ceil(2);
            let lines = u32::try_from(middle).unwrap_or(u32::MAX);
            if (Self { lines, slow }).size() <= size { least = middle } else { most = middle - 1 }
        }
        Self { lines: u32::try_from(least).unwrap_or(0), slow }.checked(Operation::Create)
    }

    /// Refuses what cannot be.
    pub(in crate::icache) fn checked(self, operation: Operation) -> Result<Self> {
        let bad = |why: &str| Err(Error::new(ErrorKind::BadSize, operation).because(why));
        if self.lines < LEAST_LINES {
            return bad("a cache has at least 64 lines of 4 KiB, and its journal");
        }
        if self.lines > u32::MAX / 2 {
            return bad("a cache has at most 8 TiB");
        }
        if self.slow == 0 || !self.slow.is_multiple_of(512) || self.slow / LINE_U64 >= u64::from(u32::MAX) {
            return bad("the disk behind a cache has less than 16 TiB, in sectors of 512 bytes");
        }
        Ok(self)
    }

    /// Pages that are written between two syncs, at most.
    pub(in crate::icache) fn batch(self) -> u64 {
        u64::from(self.lines / 64).clamp(2, 32)
    }

    /// Pages in which every line is spoken of once, and what else may lie between.
    pub(in crate::icache) fn window(self) -> u64 {
        u64::from(self.lines).div_ceil(REFRESH_LEAST as u64) + 2 * self.batch() + 4
    }

    /// Pages of the journal.
    pub(in crate::icache) fn pages(self) -> u64 {
        self.window() + 4 * self.batch() + 4
    }

    /// Lines that may hold a block at a time: the others are about to be used.
    pub(in crate::icache) fn capacity(self) -> u32 {
        self.lines - (self.lines / 128).max(8)
    }

    /// Byte offset of a page, by its number, which counts on for ever.
    pub(in crate::icache) fn page(self, number: u64) -> u64 {
        (JOURNAL + number % self.pages()) * LINE_U64
    }

    /// Byte offset of a line.
    pub(in crate::icache) fn line(self, line: u32) -> u64 {
        (JOURNAL + self.pages() + u64::from(line)) * LINE_U64
    }

    /// Bytes of the whole.
    pub(in crate::icache) fn size(self) -> u64 {
        self.line(self.lines)
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
