//! Making a cache, and its superblocks.

use super::format::{self, Flags, LINE, LINE_U64, Layout, Superblock};
use crate::block::{Error, ErrorKind, Operation, Result, Storage};

/// Makes an empty cache on all of `fast` for a disk of `slow_size` bytes, durably. Whatever was there is lost.
///
/// # Errors
/// [`ErrorKind::BadSize`] for tiers that are too small or too large, or the medium failed.
pub fn create(fast: &dyn Storage, slow_size: u64) -> Result<()> {
    let layout = Layout::fitting(fast.size(), slow_size, Operation::Create)?;
    let mut uuid = [0; 16];
    getrandom::fill(&mut uuid)
        .map_err(|error| Error::new(ErrorKind::Io, Operation::Create).because(error.to_string()))?;
    // Pages of an earlier cache have another UUID. Of its superblocks none must be newer than ours.
    fast.write(LINE_U64, &[0; LINE])?;
    let (flags, last_page, seal) = (Flags::default(), 0, None);
    let mut superblock = Superblock { generation: 1, uuid, layout, flags, last_page, seal };
    write_superblock(fast, &mut superblock)
}

/// Says of a cache that was closed what number the content of its disk has now, as [`DiskState`](super::DiskState) has it,
/// where that was not known before: a disk may get its number when it is closed.
///
/// # Errors
/// The cache is in use, or the medium failed.
pub fn seal(fast: &dyn Storage, content: u64) -> Result<()> {
    let mut superblock = read_superblock(fast)?;
    if superblock.flags.in_use {
        return Err(Error::new(ErrorKind::Invalid, Operation::Write).because("the cache was not closed"));
    }
    let Some(seal) = &mut superblock.seal else { return Ok(()) };
    seal.content = content;
    write_superblock(fast, &mut superblock)
}

/// Bytes that a cache was made for, or has been resized to; the medium may have more.
///
/// # Errors
/// It is no cache, or the medium failed.
pub fn size_of(fast: &dyn Storage) -> Result<u64> {
    read_superblock(fast).map(|superblock| superblock.layout.size())
}

/// Both copies, and the one that counts.
pub(super) fn read_superblock(fast: &dyn Storage) -> Result<Superblock> {
    if fast.size() < 2 * LINE_U64 {
        return Err(
            Error::new(ErrorKind::NotThisFormat, Operation::Open).because("it is too small for a cache")
        );
    }
    let copy = |place: u64| {
        let mut bytes = vec![0; LINE];
        fast.read(place * LINE_U64, &mut bytes)?;
        format::decode(&bytes)
    };
    let superblock = format::newest([copy(0), copy(1)])?;
    if superblock.layout.size() > fast.size() {
        return Err(Error::new(ErrorKind::Corrupt, Operation::Open).because("the cache is cut short"));
    }
    Ok(superblock)
}

/// Writes a superblock of the next generation to the place of the older copy, durably.
pub(super) fn write_superblock(fast: &dyn Storage, superblock: &mut Superblock) -> Result<()> {
    superblock.generation += 1;
    let place = superblock.generation % 2;
    fast.write(place * LINE_U64, &format::encode(superblock))?;
    fast.sync()
}
