//! Where a cluster of the disk lies: an entry of an L2 table, and of a zone's summary.

use super::{BLOCKS, Cluster, L2_ENTRY, Virtual, get_u32, get_u48, put_u48};

/// Bytes of an entry of a summary.
pub(in crate::selfie) const SUMMARY_ENTRY: usize = 16;

/// Which blocks of a cluster are its own: two bits each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::selfie) struct Blocks(pub(in crate::selfie) u32);

impl Blocks {
    /// What the backing image has, or zeros without one.
    pub(in crate::selfie) const ABSENT: u32 = 0;
    /// Written over what was absent, perhaps not durably: in a zone that is scanned, a block of zeros was not.
    pub(in crate::selfie) const FRESH: u32 = 1;
    /// Zeros, whatever the backing image has. What lies in the image is zeros, too.
    pub(in crate::selfie) const ZERO: u32 = 2;
    /// What lies in the image.
    pub(in crate::selfie) const HERE: u32 = 3;

    /// All blocks lie in the image.
    pub(in crate::selfie) const ALL_HERE: Self = Self(u32::MAX);
    /// All blocks are zeros.
    pub(in crate::selfie) const ALL_ZERO: Self = Self(0xaaaa_aaaa);

    pub(in crate::selfie) fn get(self, block: usize) -> u32 {
        self.0 >> (block % BLOCKS * 2) & 3
    }

    pub(in crate::selfie) fn with(self, block: usize, state: u32) -> Self {
        let shift = block % BLOCKS * 2;
        Self(self.0 & !(3 << shift) | (state & 3) << shift)
    }

    /// With everything that may not be durable taken to be so: what a flush has made of it.
    pub(in crate::selfie) fn settled(self) -> Self {
        // FRESH is 01, HERE is 11: the low bit of a pair says that something lies there.
        Self(self.0 | (self.0 & 0x5555_5555) << 1)
    }
}

/// How a cluster lies in the image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::selfie) enum Kind {
    /// Nothing was ever said about it.
    #[default]
    Empty,
    /// It is zeros, also where a backing image has something else.
    Zero,
    /// In a Z zone: its first written block carries the mapping.
    Embedded,
    /// In an N zone, as it is.
    Plain,
}

/// What an L2 table says of a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::selfie) struct Entry {
    pub(in crate::selfie) kind: Kind,
    /// Where it lies; [`Cluster::NONE`] unless embedded or plain.
    pub(in crate::selfie) cluster: Cluster,
    /// Which of its blocks lies first, 0 to 15. The others follow, and those before it come last.
    pub(in crate::selfie) rotation: u8,
    /// Of two that speak of the same cluster the higher one counts. 48 bits.
    pub(in crate::selfie) sequence: u64,
    pub(in crate::selfie) blocks: Blocks,
    /// Of an embedded one, in memory only: it was zeros before, and older mappings of it may still lie about.
    pub(in crate::selfie) over: bool,
    /// Of an embedded one, in memory only: its table speaks of it, because its header is not looked at any more.
    pub(in crate::selfie) tabled: bool,
}

impl Entry {
    /// Zeros, as of `sequence`.
    pub(in crate::selfie) fn zero(sequence: u64) -> Self {
        Self { kind: Kind::Zero, sequence, blocks: Blocks::ALL_ZERO, ..Self::default() }
    }

    /// What its table says of it. A cluster that speaks for itself is in no table, because a table may be durable
    /// before it is; but whatever is older must not come back.
    pub(in crate::selfie) fn in_table(&self) -> Self {
        match self.kind {
            Kind::Embedded if !self.tabled && self.over => Self::zero(self.sequence.saturating_sub(1)),
            Kind::Embedded if !self.tabled => Self::default(),
            Kind::Embedded | Kind::Plain => Self { blocks: self.blocks.settled(), ..*self },
            Kind::Empty | Kind::Zero => *self,
        }
    }

    /// Where block `block` lies in its cluster, in blocks.
    pub(in crate::selfie) fn position(&self, block: usize) -> usize {
        (block + BLOCKS - usize::from(self.rotation)) % BLOCKS
    }

    /// Byte offset of block `block` in the image.
    pub(in crate::selfie) fn offset(&self, block: usize) -> u64 {
        self.cluster.offset() + (self.position(block) * super::BLOCK) as u64
    }

    /// Whether block `block` is the one that carries the mapping.
    pub(in crate::selfie) fn is_lead(&self, block: usize) -> bool {
        self.kind == Kind::Embedded && block == usize::from(self.rotation)
    }

    pub(in crate::selfie) fn is_mapped(&self) -> bool {
        matches!(self.kind, Kind::Embedded | Kind::Plain)
    }

    pub(in crate::selfie) fn encode(&self, of: Virtual) -> [u8; L2_ENTRY] {
        let mut bytes = [0; L2_ENTRY];
        let kind = match self.kind {
            Kind::Empty => return bytes,
            Kind::Zero => 1,
            Kind::Embedded => 2,
            Kind::Plain => 3,
        };
        put_u48(&mut bytes, self.sequence);
        bytes[6..10].copy_from_slice(&self.blocks.0.to_le_bytes());
        bytes[10..14].copy_from_slice(&self.cluster.0.to_le_bytes());
        bytes[14] = kind | self.rotation << 4;
        bytes[15] = check(of, &bytes);
        bytes
    }

    /// `None` for bytes that are no entry.
    pub(in crate::selfie) fn decode(of: Virtual, bytes: &[u8; L2_ENTRY]) -> Option<Self> {
        if *bytes == [0; L2_ENTRY] {
            return Some(Self::default());
        }
        let entry = Self {
            kind: match bytes[14] & 0xf {
                1 => Kind::Zero,
                2 => Kind::Embedded,
                3 => Kind::Plain,
                _ => return None,
            },
            cluster: Cluster(get_u32(&bytes[10..])),
            rotation: bytes[14] >> 4,
            sequence: get_u48(bytes),
            blocks: Blocks(get_u32(&bytes[6..])),
            over: false,
            tabled: bytes[14] & 0xf == 2,
        };
        let placed = entry.is_mapped() != entry.cluster.is_none();
        let straight = entry.kind == Kind::Embedded || entry.rotation == 0;
        (placed && straight && bytes[15] == check(of, bytes)).then_some(entry)
    }
}

/// Over all but the last byte, and whose entry it is.
fn check(of: Virtual, bytes: &[u8]) -> u8 {
    let sum = crc32c::crc32c_append(crc32c::crc32c(&of.0.to_le_bytes()), &bytes[..bytes.len() - 1]);
    let [a, b, c, d] = sum.to_le_bytes();
    a ^ b ^ c ^ d
}

/// What a zone's summary says of one of its clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::selfie) struct Summarised {
    pub(in crate::selfie) of: Virtual,
    pub(in crate::selfie) rotation: u8,
    pub(in crate::selfie) sequence: u64,
    pub(in crate::selfie) blocks: Blocks,
}

impl Summarised {
    pub(in crate::selfie) fn encode(&self, at: Cluster) -> [u8; SUMMARY_ENTRY] {
        let mut bytes = [0; SUMMARY_ENTRY];
        put_u48(&mut bytes, self.sequence);
        bytes[6..10].copy_from_slice(&self.blocks.0.to_le_bytes());
        bytes[10..14].copy_from_slice(&self.of.0.to_le_bytes());
        // The lowest bit tells the entry of cluster 0 from none.
        bytes[14] = 1 | self.rotation << 4;
        bytes[15] = check(Virtual(at.0), &bytes);
        bytes
    }

    /// `Ok(None)` for a cluster that holds nothing; `Err` for bytes that are no entry.
    pub(in crate::selfie) fn decode(at: Cluster, bytes: &[u8; SUMMARY_ENTRY]) -> Result<Option<Self>, ()> {
        if *bytes == [0; SUMMARY_ENTRY] {
            return Ok(None);
        }
        if bytes[14] & 0xf != 1 || bytes[15] != check(Virtual(at.0), bytes) {
            return Err(());
        }
        Ok(Some(Self {
            of: Virtual(get_u32(&bytes[10..])),
            rotation: bytes[14] >> 4,
            sequence: get_u48(bytes),
            blocks: Blocks(get_u32(&bytes[6..])),
        }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX_SEQUENCE: u64 = (1 << 48) - 1;

    fn entry() -> impl Strategy<Value = Entry> {
        let kind = prop_oneof![Just(Kind::Zero), Just(Kind::Embedded), Just(Kind::Plain)];
        (kind, 1..=u32::MAX, 0..16u8, 0..=MAX_SEQUENCE, any::<u32>()).prop_map(
            |(kind, cluster, rotation, sequence, blocks)| Entry {
                kind,
                cluster: if kind == Kind::Zero { Cluster::NONE } else { Cluster(cluster) },
                rotation: if kind == Kind::Embedded { rotation } else { 0 },
                sequence,
                blocks: Blocks(blocks),
                over: false,
                tabled: kind == Kind::Embedded,
            },
        )
    }

    proptest! {
        #[test]
        fn entries_come_back(entry in entry(), of in any::<u32>()) {
            let bytes = entry.encode(Virtual(of));
            prop_assert_ne!(bytes, [0; L2_ENTRY]);
            prop_assert_eq!(Entry::decode(Virtual(of), &bytes), Some(entry));
            let summarised = Summarised {
                of: Virtual(of),
                rotation: entry.rotation,
                sequence: entry.sequence,
                blocks: entry.blocks,
            };
            let at = Cluster(9);
            prop_assert_eq!(Summarised::decode(at, &summarised.encode(at)), Ok(Some(summarised)));
        }

        #[test]
        fn any_bytes_are_an_entry_or_not(bytes in any::<[u8; L2_ENTRY]>(), of in any::<u32>()) {
            if let Some(entry) = Entry::decode(Virtual(of), &bytes) {
                prop_assert_eq!(entry.encode(Virtual(of)), bytes);
            }
            let _ = Summarised::decode(Cluster(of), &bytes);
        }

        #[test]
        fn a_flipped_bit_is_found(entry in entry(), bit in 0..L2_ENTRY * 8) {
            let mut bytes = entry.encode(Virtual(3));
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Entry::decode(Virtual(3), &bytes), None);
        }
    }

    #[test]
    fn a_cluster_that_speaks_for_itself_is_in_no_table() {
        let own = Entry { kind: Kind::Embedded, cluster: Cluster(3), sequence: 8, ..Entry::default() };
        assert_eq!(own.in_table(), Entry::default());
        assert_eq!(Entry { over: true, ..own }.in_table(), Entry::zero(7), "what is older stays away");
        let tabled = Entry { tabled: true, blocks: Blocks(Blocks::FRESH), ..own };
        assert_eq!(tabled.in_table(), Entry { blocks: Blocks(Blocks::HERE), ..tabled });
    }

    #[test]
    fn blocks_lie_behind_the_one_that_was_written_first() {
        let entry = Entry { kind: Kind::Embedded, cluster: Cluster(2), rotation: 5, ..Entry::default() };
        assert_eq!([5, 6, 15, 0, 4].map(|block| entry.position(block)), [0, 1, 10, 11, 15]);
        assert_eq!(entry.offset(6), 2 * 65536 + 4096);
        assert!(entry.is_lead(5) && !entry.is_lead(0));
    }

    #[test]
    fn block_states_are_kept_apart() {
        let blocks = Blocks::default().with(0, Blocks::FRESH).with(15, Blocks::HERE).with(7, Blocks::ZERO);
        assert_eq!([0, 1, 7, 15].map(|block| blocks.get(block)), [1, 0, 2, 3]);
        assert_eq!([0, 1, 7, 15].map(|block| blocks.settled().get(block)), [3, 0, 2, 3]);
        assert_eq!((Blocks::ALL_HERE.get(9), Blocks::ALL_ZERO.get(9)), (3, 2));
    }
}
