//! Places in files and on disks, in 8 bytes each: blocks are tracked by the million.

use std::ops::Range;

use sky_devices::io_class::BLOCK_SIZE;

/// A file that a monitored process reads or writes, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub(super) u16);

/// Files that are told apart, each with a path of at most 4 KiB.
pub const MAX_FILES: usize = 1 << 16;

const BLOCK: u64 = BLOCK_SIZE as u64;
/// Bits of a block's number: files and disks of 1 EiB.
const BITS: u32 = 48;
const LIMIT: u64 = 1 << BITS;

/// A block of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place(u64);

impl Place {
    /// No block of any file.
    pub(super) const NOWHERE: Self = Self(u64::MAX);

    /// The block with byte `offset` of a file; none beyond 1 EiB.
    pub(super) fn new(file: FileId, offset: u64) -> Option<Self> {
        let block = offset / BLOCK;
        // The last number of the last file is taken.
        (block < LIMIT - 1).then(|| Self(u64::from(file.0) << BITS | block))
    }

    pub(super) fn file(self) -> FileId {
        // What is left is 16 bits long.
        FileId(u16::try_from(self.0 >> BITS).unwrap_or(u16::MAX))
    }

    /// In bytes.
    pub(super) fn offset(self) -> u64 {
        (self.0 % LIMIT) * BLOCK
    }

    pub(super) fn key(self) -> u64 {
        self.0
    }

    /// The lower half of the key, and the upper one.
    pub(super) fn from_words([low, high]: [u32; 2]) -> Self {
        Self(u64::from(low) | u64::from(high) << 32)
    }

    /// The keys of the blocks of which bytes lie in `range` of a file.
    pub(super) fn keys(file: FileId, range: &Range<u64>) -> Range<u64> {
        let first = u64::from(file.0) << BITS;
        let start = (range.start / BLOCK).min(LIMIT - 1);
        let end = range.end.div_ceil(BLOCK).min(LIMIT - 1);
        first + start..first + end.max(start)
    }
}

/// A block of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Address(u64);

impl Address {
    pub(super) const FIRST: Self = Self(0);
    pub(super) const LAST: Self = Self(u64::MAX);

    /// The block with byte `offset` of the disk; none beyond 1 EiB.
    pub(super) fn new(disk: u16, offset: u64) -> Option<Self> {
        let block = offset / BLOCK;
        (block < LIMIT).then(|| Self(u64::from(disk) << BITS | block))
    }

    pub(super) fn disk(self) -> u16 {
        // What is left is 16 bits long.
        u16::try_from(self.0 >> BITS).unwrap_or(u16::MAX)
    }

    /// In bytes.
    pub(super) fn offset(self) -> u64 {
        (self.0 % LIMIT) * BLOCK
    }

    pub(super) fn key(self) -> u64 {
        self.0
    }

    /// As [`Place::from_words`].
    pub(super) fn from_words([low, high]: [u32; 2]) -> Self {
        Self(u64::from(low) | u64::from(high) << 32)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_packed_is_unpacked(file: u16, disk: u16, block in 0..LIMIT - 1) {
            let place = Place::new(FileId(file), block * BLOCK + 5).unwrap();
            prop_assert_eq!((place.file(), place.offset()), (FileId(file), block * BLOCK));
            prop_assert!(place != Place::NOWHERE);
            let address = Address::new(disk, block * BLOCK + 4095).unwrap();
            prop_assert_eq!((address.disk(), address.offset()), (disk, block * BLOCK));
        }

        #[test]
        fn ranges_have_the_blocks_that_they_touch(file: u16, start in 0..40_000u64, length in 0..40_000u64, far: u64) {
            let range = start..start + length;
            let keys = Place::keys(FileId(file), &range);
            for block in 0..20u64 {
                let touched = (block * BLOCK..(block + 1) * BLOCK).any(|byte| range.contains(&byte));
                let place = Place::new(FileId(file), block * BLOCK).unwrap();
                prop_assert_eq!(keys.contains(&place.key()), touched);
            }
            let all = Place::keys(FileId(file), &(0..u64::MAX));
            let place = Place::new(FileId(file), far);
            prop_assert!(place.is_none_or(|place| all.contains(&place.key())));
            let other = Place::new(FileId(file.wrapping_add(1)), far);
            prop_assert!(other.is_none_or(|place| !all.contains(&place.key())));
        }
    }
}
