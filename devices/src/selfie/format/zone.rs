//! What is said of a zone: an entry of the zone table.

use super::{Cluster, SLOTS, SUMMARIES, get_u16, get_u32};

/// Bytes of an entry.
pub(in crate::selfie) const ZONE_ENTRY: u32 = 16;
const BYTES: usize = ZONE_ENTRY as usize;

/// What a zone is used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::selfie) enum ZoneKind {
    /// Nothing.
    #[default]
    Free,
    /// Clusters that carry their own mapping.
    Z,
    /// Clusters that do not, and L2 tables.
    N,
}

/// An entry of the zone table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::selfie) struct ZoneEntry {
    pub(in crate::selfie) kind: ZoneKind,
    /// How many of its clusters the summary knows, from the first. 0 to 1024; 0 unless it is a Z zone.
    pub(in crate::selfie) committed: u16,
    /// How many of its clusters were zeroed, from the first; to be believed after a clean end only. 0 to 1024.
    pub(in crate::selfie) zeroed: u16,
    /// How many times it was taken into use; wraps.
    pub(in crate::selfie) epoch: u32,
    /// The cluster with its summary, and which quarter of it. None unless it is a Z zone.
    pub(in crate::selfie) summary: Cluster,
    pub(in crate::selfie) part: u8,
}

impl ZoneEntry {
    pub(in crate::selfie) fn encode(&self, number: u32) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        if *self == Self::default() {
            return bytes;
        }
        bytes[0] = match self.kind {
            ZoneKind::Free => 1,
            ZoneKind::Z => 2,
            ZoneKind::N => 3,
        };
        bytes[1] = self.part;
        bytes[2..4].copy_from_slice(&self.committed.to_le_bytes());
        bytes[4..6].copy_from_slice(&self.zeroed.to_le_bytes());
        bytes[6..10].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[10..14].copy_from_slice(&self.summary.0.to_le_bytes());
        let check = check(number, &bytes[..14]);
        bytes[14..].copy_from_slice(&check);
        bytes
    }

    /// `None` for bytes that are no entry.
    pub(in crate::selfie) fn decode(number: u32, bytes: &[u8; BYTES]) -> Option<Self> {
        if *bytes == [0; BYTES] {
            return Some(Self::default());
        }
        let entry = Self {
            kind: match bytes[0] {
                1 => ZoneKind::Free,
                2 => ZoneKind::Z,
                3 => ZoneKind::N,
                _ => return None,
            },
            part: bytes[1],
            committed: get_u16(&bytes[2..]),
            zeroed: get_u16(&bytes[4..]),
            epoch: get_u32(&bytes[6..]),
            summary: Cluster(get_u32(&bytes[10..])),
        };
        let is_z = entry.kind == ZoneKind::Z;
        let sound = entry.part < SUMMARIES
            && entry.committed <= SLOTS
            && entry.zeroed <= SLOTS
            && entry.summary.is_none() != is_z
            && (is_z || (entry.committed == 0 && entry.part == 0))
            && bytes[14..] == check(number, &bytes[..14]);
        sound.then_some(entry)
    }
}

fn check(number: u32, bytes: &[u8]) -> [u8; 2] {
    let [a, b, c, d] = crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), bytes).to_le_bytes();
    [a ^ c, b ^ d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_and_nothing_else_does() {
        let z = ZoneEntry {
            kind: ZoneKind::Z,
            committed: 1024,
            zeroed: 1024,
            epoch: u32::MAX,
            summary: Cluster(88),
            part: 3,
        };
        let n = ZoneEntry { kind: ZoneKind::N, zeroed: 64, epoch: 2, ..ZoneEntry::default() };
        let free = ZoneEntry { epoch: 3, ..ZoneEntry::default() };
        for entry in [z, n, free, ZoneEntry::default()] {
            let bytes = entry.encode(5);
            assert_eq!(ZoneEntry::decode(5, &bytes), Some(entry));
            for bit in 0..BYTES * 8 {
                let mut flipped = bytes;
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(ZoneEntry::decode(5, &flipped), None, "{entry:?} {bit}");
            }
        }
        assert_eq!(ZoneEntry::decode(6, &z.encode(5)), None, "of another zone");
        for wrong in [
            ZoneEntry { committed: 1025, ..z },
            ZoneEntry { part: 4, ..z },
            ZoneEntry { summary: Cluster::NONE, ..z },
            ZoneEntry { summary: Cluster(1), ..n },
            ZoneEntry { committed: 1, ..n },
        ] {
            assert_eq!(ZoneEntry::decode(5, &wrong.encode(5)), None, "{wrong:?}");
        }
    }
}
