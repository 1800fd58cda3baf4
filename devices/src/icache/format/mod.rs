//! The bytes of a cache on its fast tier. `docs/icache-format.md` is the specification.
//!
//! Nothing here does I/O. Decoding takes bytes that may be anything.

mod layout;
mod page;
mod superblock;

pub(super) use layout::{Layout, capacity_of, offset_of};
pub(super) use page::{Decoded, PAGE_FREES, PAGE_SETS, Page, REGIONS, Refreshed, Set, refresh_room};
pub(super) use superblock::{Flags, Seal, Superblock, decode, encode, newest};

/// Bytes of a line, of a page of the journal, and of a superblock.
pub(super) const LINE: usize = 4096;
/// The same for offsets.
pub(super) const LINE_U64: u64 = LINE as u64;

/// XXH3 of a line's content, by which recovery tells what is there from what is not.
pub(super) fn sum(content: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(content)
}
