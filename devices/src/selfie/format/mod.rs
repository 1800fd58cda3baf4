//! The bytes of the format. `docs/selfie-format.md` is the specification; each file here is one structure of it.
//!
//! Nothing here does I/O. Decoding takes bytes that may be anything and gives a value that is well-formed by itself;
//! whether it fits the rest of the image is for whoever reads it.

mod entry;
mod lead;
mod lz4;
mod superblock;
mod zone;

pub(super) use entry::{Blocks, Entry, Kind, SUMMARY_ENTRY, Summarised};
pub(super) use lead::{HEADER, Lead, Secret, compress, expand, is_zero};
pub use superblock::Flags;
pub use superblock::{Backing, BackingFormat, Identity, Superblock};
pub(super) use superblock::{Layout, SUPERBLOCK, SUPERBLOCK_PLACES};
pub(super) use zone::{ZONE_ENTRY, ZoneEntry, ZoneKind};

/// Bytes of a block: what is written atomically, and what a lead block's header describes.
pub(super) const BLOCK: usize = 4096;
/// Bytes of a cluster: what is allocated.
pub(super) const CLUSTER: usize = 64 << 10;
/// Blocks of a cluster.
pub(super) const BLOCKS: usize = CLUSTER / BLOCK;
/// Bytes of a zone: what is zeroed ahead, and what has a type.
pub(super) const ZONE: u64 = 64 << 20;
/// Clusters of a zone.
pub(super) const SLOTS: u16 = 1024;
/// Bytes of an entry of an L2 table.
pub(super) const L2_ENTRY: usize = 16;
/// Entries of an L2 table, which is one cluster.
pub(super) const L2_ENTRIES: u32 = 4096;
/// Entries of one block of an L2 table: what is written when one of them changes.
pub(super) const L2_BLOCK_ENTRIES: u32 = 256;
/// Bytes of an entry of the L1 table.
pub(super) const L1_ENTRY: u32 = 8;
const L1_BYTES: usize = L1_ENTRY as usize;
/// Where an image ends that has been written for some thousand years, or made by somebody who means no good: numbers
/// have 48 bits, and what is opened here goes on for a while.
pub(super) const LAST_SEQUENCE: u64 = 1 << 47;
/// Bytes of the summary of one zone, and how many of them share a cluster.
pub(super) const SUMMARY: usize = 16 << 10;
pub(super) const SUMMARIES: u8 = 4;

/// A cluster of the image, by its number: byte offset divided by 64 KiB. Number 0 holds the superblocks, so it stands
/// for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Cluster(pub(super) u32);

impl Cluster {
    pub(super) const NONE: Self = Self(0);

    pub(super) fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Byte offset in the image.
    pub(super) fn offset(self) -> u64 {
        u64::from(self.0) * CLUSTER as u64
    }
}

/// A cluster of the disk that the guest sees, by its number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Virtual(pub(super) u32);

impl Virtual {
    /// Byte offset on the guest's disk.
    pub(super) fn offset(self) -> u64 {
        u64::from(self.0) * CLUSTER as u64
    }

    /// Number of the L2 table, and place in it.
    pub(super) fn place(self) -> (usize, usize) {
        ((self.0 / L2_ENTRIES) as usize, (self.0 % L2_ENTRIES) as usize)
    }
}

/// An entry of the L1 table: where an L2 table lies. The second half guards the first, so that a stray byte is not
/// taken for a table.
pub(super) fn encode_l1(number: u32, table: Cluster) -> [u8; L1_BYTES] {
    let mut bytes = [0; L1_BYTES];
    if !table.is_none() {
        bytes[..4].copy_from_slice(&table.0.to_le_bytes());
        bytes[4..].copy_from_slice(&l1_check(number, table).to_le_bytes());
    }
    bytes
}

/// Where the L2 table `number` lies, [`Cluster::NONE`] if there is none; `None` for bytes that are no entry.
pub(super) fn decode_l1(number: u32, bytes: [u8; L1_BYTES]) -> Option<Cluster> {
    let [a, b, c, d, e, f, g, h] = bytes;
    let (table, check) = (Cluster(u32::from_le_bytes([a, b, c, d])), u32::from_le_bytes([e, f, g, h]));
    match table {
        Cluster::NONE => (check == 0).then_some(Cluster::NONE),
        _ => (check == l1_check(number, table)).then_some(table),
    }
}

fn l1_check(number: u32, table: Cluster) -> u32 {
    // Never 0, which an empty entry has.
    crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), &table.0.to_le_bytes()) | 1
}

/// The low 48 bits, little-endian.
fn put_u48(bytes: &mut [u8], value: u64) {
    bytes[..6].copy_from_slice(&value.to_le_bytes()[..6]);
}

fn get_u48(bytes: &[u8]) -> u64 {
    let mut wide = [0; 8];
    wide[..6].copy_from_slice(&bytes[..6]);
    u64::from_le_bytes(wide)
}

fn get_u32(bytes: &[u8]) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[..4]);
    u32::from_le_bytes(value)
}

fn get_u16(bytes: &[u8]) -> u16 {
    let mut value = [0; 2];
    value.copy_from_slice(&bytes[..2]);
    u16::from_le_bytes(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l1_entries_come_back_and_nothing_else_does() {
        for (number, table) in [(0, 0), (0, 7), (9, u32::MAX)] {
            assert_eq!(decode_l1(number, encode_l1(number, Cluster(table))), Some(Cluster(table)));
        }
        assert_eq!(decode_l1(1, encode_l1(2, Cluster(7))), None, "of another table");
        assert_eq!(decode_l1(0, [1, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(decode_l1(0, [0, 0, 0, 0, 1, 0, 0, 0]), None);
    }
}
