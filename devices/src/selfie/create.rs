//! Making an image, and its superblock.

use super::format::{Backing, Flags, Layout, SUPERBLOCK, SUPERBLOCK_PLACES, Secret, Superblock};
use super::options::CreateOptions;
use crate::block::{Error, ErrorKind, Operation, Result, Storage};

/// How far a disk can grow at least, unless told otherwise.
const MAX_SIZE: u64 = 16 << 40;

/// Makes an image in `storage`, which is empty, or a block device whose content is given up.
///
/// # Errors
/// [`ErrorKind::BadSize`] or [`ErrorKind::Invalid`] for a disk that cannot be, [`ErrorKind::NoSpace`] where there is no
/// room for one, or the medium failed.
pub fn create(storage: &dyn Storage, options: &CreateOptions) -> Result<()> {
    let size = options.size;
    let max_size =
        options.max_size.unwrap_or_else(|| size.saturating_mul(4).clamp(MAX_SIZE, MAX_SIZE.max(size)));
    if size == 0 || !size.is_multiple_of(512) {
        return Err(Error::new(ErrorKind::BadSize, Operation::Open));
    }
    if size > max_size {
        let why = format!("a disk of {size} bytes that can grow to {max_size} bytes");
        return Err(Error::new(ErrorKind::BadSize, Operation::Open).because(why));
    }
    let backing = options.backing.as_ref().map(|backing| Superblock::over(backing, size)).transpose()?;
    let layout = Layout::new(max_size)?;
    if storage.properties().growable {
        storage.grow(layout.zones)?;
    } else if storage.size() < layout.zones {
        let why = format!("the tables alone need {} bytes", layout.zones);
        return Err(Error::new(ErrorKind::NoSpace, Operation::Open).because(why));
    }
    // On a device that has been in use, what looks like tables is none.
    clear(storage, layout.zone_table, layout.zones - layout.zone_table)?;
    let mut random = [[0u8; 16]; 2];
    for bytes in &mut random {
        getrandom::fill(bytes)
            .map_err(|error| Error::from_io(Operation::Open, std::io::Error::other(error)))?;
    }
    let [mut uuid, secret] = random;
    // RFC 9562: version 4, variant 1.
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    let mut superblock = Superblock {
        sequence: 0,
        generation: 0,
        uuid,
        secret: Secret(secret),
        size,
        max_size,
        compatible: 0,
        autoclear: 0,
        flags: Flags::default(),
        backing,
        layout,
    };
    storage.write(SUPERBLOCK_PLACES[0], &[0; SUPERBLOCK])?;
    storage.write(SUPERBLOCK_PLACES[1], &[0; SUPERBLOCK])?;
    storage.sync()?;
    write_superblock(storage, &mut superblock)?;
    write_superblock(storage, &mut superblock)
}

/// Makes a range zeros.
fn clear(storage: &dyn Storage, mut offset: u64, length: u64) -> Result<()> {
    if storage.punch(offset, length)? {
        return Ok(());
    }
    let (zeroes, end) = (vec![0; 1 << 20], offset + length);
    while offset < end {
        let piece = zeroes.len().min(usize::try_from(end - offset).unwrap_or(usize::MAX));
        storage.write(offset, &zeroes[..piece])?;
        offset += piece as u64;
    }
    Ok(())
}

/// What an image says of itself. Nothing is recovered, or written.
///
/// # Errors
/// [`ErrorKind::NotThisFormat`], [`ErrorKind::TooNew`], [`ErrorKind::Corrupt`], or the medium failed.
pub fn superblock(storage: &dyn Storage) -> Result<Superblock> {
    let mut copies = [[0; SUPERBLOCK]; 2];
    if storage.size() < SUPERBLOCK_PLACES[1] + SUPERBLOCK as u64 {
        return Err(Error::new(ErrorKind::NotThisFormat, Operation::Open).because("it is too short"));
    }
    for (place, copy) in SUPERBLOCK_PLACES.into_iter().zip(&mut copies) {
        storage.read(place, copy)?;
    }
    let superblock = Superblock::choose(copies.each_ref())?;
    if superblock.layout.zones > storage.size() {
        return Err(Error::new(ErrorKind::Corrupt, Operation::Open).because("its tables are cut off"));
    }
    Ok(superblock)
}

/// Writes the superblock over the older copy, durably.
pub(super) fn write_superblock(storage: &dyn Storage, superblock: &mut Superblock) -> Result<()> {
    let mut next = superblock.clone();
    next.sequence += 1;
    let place = SUPERBLOCK_PLACES[usize::from(next.sequence % 2 == 1)];
    storage.write(place, &next.encode())?;
    storage.sync()?;
    superblock.sequence = next.sequence;
    Ok(())
}

/// Says what lies below an image that nobody has open. What the image holds itself stays; the caller knows that the
/// disk is the same over the new one, or does not mind.
///
/// # Errors
/// [`ErrorKind::Invalid`] for a path that does not fit; as [`superblock`].
pub fn rebase(storage: &dyn Storage, backing: Option<Backing>) -> Result<()> {
    let mut superblock = superblock(storage)?;
    superblock.backing = backing.map(|backing| Superblock::over(&backing, superblock.size)).transpose()?;
    write_superblock(storage, &mut superblock)
}
