//! What a cache says of itself: two copies, of which the sound one with the higher generation counts.

use super::{LINE, Layout};
use crate::block::{Error, ErrorKind, Operation, Result};

const MAGIC: [u8; 8] = *b"iCache\x1a\n";
const VERSION: u32 = 2;
/// Nobody opens a cache that often; what is opened here goes on for a while.
const LAST_GENERATION: u64 = 1 << 62;

/// State bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::icache) struct Flags {
    /// It is in use, or was when its user died.
    pub(in crate::icache) in_use: bool,
    /// Lines may be dirty.
    pub(in crate::icache) dirty: bool,
}

/// The disk that the lines are of, as the user of a cache knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::icache) struct Seal {
    pub(in crate::icache) id: [u8; 16],
    /// A number that is another when somebody has changed the disk without its cache; 0 if nobody can tell.
    pub(in crate::icache) content: u64,
}

/// The cache's description of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::icache) struct Superblock {
    /// Grows with every change of the superblock.
    pub(in crate::icache) generation: u64,
    pub(in crate::icache) uuid: [u8; 16],
    pub(in crate::icache) layout: Layout,
    pub(in crate::icache) flags: Flags,
    /// The last page of the journal, when the cache was closed; everything up to it is durable.
    pub(in crate::icache) last_page: u64,
    /// The disk, if its user has said which it is.
    pub(in crate::icache) seal: Option<Seal>,
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(value)
}

/// The bytes of a superblock.
pub(in crate::icache) fn encode(superblock: &Superblock) -> Vec<u8> {
    let mut bytes = vec![0; LINE];
    let Superblock { generation, uuid, layout, flags, last_page, seal } = superblock;
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..16].copy_from_slice(&layout.places.to_le_bytes());
    bytes[16..24].copy_from_slice(&generation.to_le_bytes());
    bytes[24..40].copy_from_slice(uuid);
    bytes[40..48].copy_from_slice(&layout.slow.to_le_bytes());
    bytes[48..56].copy_from_slice(&last_page.to_le_bytes());
    let flags = u32::from(flags.in_use) | u32::from(flags.dirty) << 1 | u32::from(seal.is_some()) << 2;
    bytes[56..60].copy_from_slice(&flags.to_le_bytes());
    bytes[60..64].copy_from_slice(&layout.journal.to_le_bytes());
    if let Some(Seal { id, content }) = seal {
        bytes[64..80].copy_from_slice(id);
        bytes[80..88].copy_from_slice(&content.to_le_bytes());
    }
    let sum = crc32c::crc32c(&bytes[..LINE - 4]);
    bytes[LINE - 4..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// What one copy says.
pub(in crate::icache) fn decode(bytes: &[u8]) -> Result<Superblock> {
    let error = |kind, why: &str| Err(Error::new(kind, Operation::Open).because(why));
    if bytes.len() != LINE || bytes[..8] != MAGIC {
        return error(ErrorKind::NotThisFormat, "it is no cache");
    }
    if u32_at(bytes, LINE - 4) != crc32c::crc32c(&bytes[..LINE - 4]) {
        return error(ErrorKind::Corrupt, "the checksum of a cache's superblock is wrong");
    }
    match u32_at(bytes, 8) {
        VERSION => {}
        0..VERSION => return error(ErrorKind::Unsupported, "the cache is of an earlier version"),
        _ => return error(ErrorKind::TooNew, "the cache is of a later version"),
    }
    let layout = Layout { places: u32_at(bytes, 12), journal: u32_at(bytes, 60), slow: u64_at(bytes, 40) };
    let layout = layout.checked(Operation::Open)?;
    let (generation, last_page) = (u64_at(bytes, 16), u64_at(bytes, 48));
    if generation > LAST_GENERATION || last_page > LAST_GENERATION {
        return error(ErrorKind::Corrupt, "its numbers are at their end");
    }
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&bytes[24..40]);
    let flags = u32_at(bytes, 56);
    let mut id = [0; 16];
    id.copy_from_slice(&bytes[64..80]);
    let seal = (flags & 4 != 0).then(|| Seal { id, content: u64_at(bytes, 80) });
    let flags = Flags { in_use: flags & 1 != 0, dirty: flags & 2 != 0 };
    Ok(Superblock { generation, uuid, layout, flags, last_page, seal })
}

/// The copy that counts.
pub(in crate::icache) fn newest(copies: [Result<Superblock>; 2]) -> Result<Superblock> {
    match copies {
        [Ok(first), Ok(second)] => Ok(if second.generation > first.generation { second } else { first }),
        [Ok(one), Err(_)] | [Err(_), Ok(one)] => Ok(one),
        // A damaged cache is more worth saying than one that is none.
        [Err(first), Err(second)] if first.kind() == ErrorKind::NotThisFormat => Err(second),
        [Err(first), Err(_)] => Err(first),
    }
}
