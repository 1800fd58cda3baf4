//! What an image says of itself: two copies, of which the newer sound one counts.

use serde::Serialize;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{BLOCK, CLUSTER, Cluster, L1_ENTRY, L2_ENTRIES, SLOTS, Secret, ZONE, ZONE_ENTRY};
use crate::block::{Error, ErrorKind, Operation, Result};

/// Bytes of a copy.
pub(in crate::selfie) const SUPERBLOCK: usize = BLOCK;
/// Byte offsets of the copies; a superblock of sequence n goes to place n % 2.
pub(in crate::selfie) const SUPERBLOCK_PLACES: [u64; 2] = [0, SUPERBLOCK as u64];

const MAGIC: [u8; 8] = *b"Selfie\x1a\n";
const VERSION: u16 = 1;
const MAX_PATH: usize = 1024;
/// Bytes of the disk that one L2 table speaks of.
const L2_REACH: u64 = L2_ENTRIES as u64 * CLUSTER as u64;
const ZONE_TABLE: u64 = CLUSTER as u64;
/// Zones beyond twice the disk's size: clusters that were given back leave holes in zones.
const SPARE_ZONES: u64 = 64;
const MAX_DISK: u64 = 64 << 40;
/// Where the numbers of superblocks and generations end. Nobody counts that far; what is opened here goes on for a while.
const LAST_NUMBER: u64 = 1 << 62;

/// The bytes. All numbers are little-endian; what is reserved is zeros.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Bytes {
    magic: [u8; 8],
    version: U16,
    block_bits: u8,
    cluster_bits: u8,
    zone_bits: u8,
    backing_format: u8,
    backing_path_length: U16,
    sequence: U64,
    generation: U64,
    uuid: [u8; 16],
    secret: [u8; 16],
    size: U64,
    max_size: U64,
    compatible: U64,
    incompatible: U64,
    autoclear: U64,
    flags: U32,
    zone_entries: U32,
    zone_table: U64,
    l1: U64,
    l1_entries: U32,
    reserved: U32,
    zones: U64,
    backing_uuid: [u8; 16],
    backing_size: U64,
    backing_content: U64,
    backing_reach: U64,
    backing_path: [u8; MAX_PATH],
    rest: [u8; 2884],
    sum: U32,
}

const _: () = assert!(size_of::<Bytes>() == SUPERBLOCK);

/// State bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Flags {
    /// It is in use, or was when its user died: zones have to be scanned.
    pub dirty: bool,
    /// Something was found wrong with it; it is opened read-only.
    pub corrupt: bool,
}

/// The format of a backing image, which is never guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BackingFormat {
    /// The file's bytes are the disk's bytes.
    Raw,
    /// This format.
    Selfie,
}

/// What a backing image was when an image was made over it: a parent that has changed is no parent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// Its UUID; zeros for a format without one.
    pub uuid: [u8; 16],
    /// Its size in bytes.
    pub size: u64,
    /// Changes when its content does: the generation of a Selfie image, the time of modification in nanoseconds of
    /// a raw one.
    pub content: u64,
}

/// The image below.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Backing {
    /// Its path; a relative one is relative to the directory of the image above.
    pub path: String,
    /// Its format.
    pub format: BackingFormat,
    /// What it was.
    pub identity: Identity,
    /// How much of it is seen, in bytes from its beginning: what a disk grows by later is zeros.
    pub reach: u64,
}

/// Where everything lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(in crate::selfie) struct Layout {
    /// Byte offset of the zone table, and its entries.
    pub(in crate::selfie) zone_table: u64,
    pub(in crate::selfie) zone_entries: u32,
    /// Byte offset of the L1 table, and its entries.
    pub(in crate::selfie) l1: u64,
    pub(in crate::selfie) l1_entries: u32,
    /// Byte offset of the first zone.
    pub(in crate::selfie) zones: u64,
}

/// The image's description of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Superblock {
    /// Grows with every change of the superblock.
    pub sequence: u64,
    /// Grows whenever the image is opened for writing.
    pub generation: u64,
    /// Tells images apart.
    pub uuid: [u8; 16],
    #[serde(skip)]
    pub(in crate::selfie) secret: Secret,
    /// Size of the disk in bytes.
    pub size: u64,
    /// How far it can grow, in bytes.
    pub max_size: u64,
    /// Features that one may ignore.
    pub compatible: u64,
    /// Features that one may ignore if one clears their bits.
    pub autoclear: u64,
    /// State.
    pub flags: Flags,
    /// The image below.
    pub backing: Option<Backing>,
    #[serde(skip)]
    pub(in crate::selfie) layout: Layout,
}

impl Layout {
    /// Where everything lies in an image of a disk that can grow to `max_size` bytes.
    pub(in crate::selfie) fn new(max_size: u64) -> Result<Self> {
        let unfit = || Error::new(ErrorKind::BadSize, Operation::Open).because("a disk has at most 64 TiB");
        if max_size == 0 || max_size > MAX_DISK {
            return Err(unfit());
        }
        let entries = |value: u64| u32::try_from(value).map_err(|_| unfit());
        let zone_entries = entries(max_size.div_ceil(ZONE) * 2 + SPARE_ZONES)?;
        let l1_entries = entries(max_size.div_ceil(L2_REACH))?;
        let l1 =
            ZONE_TABLE + (u64::from(zone_entries) * u64::from(ZONE_ENTRY)).next_multiple_of(CLUSTER as u64);
        let zones = l1 + (u64::from(l1_entries) * u64::from(L1_ENTRY)).next_multiple_of(CLUSTER as u64);
        Ok(Self { zone_table: ZONE_TABLE, zone_entries, l1, l1_entries, zones })
    }

    /// The first cluster of a zone; `None` if there is no such zone.
    pub(in crate::selfie) fn zone(&self, number: u32) -> Option<Cluster> {
        let offset = u64::from(number).checked_mul(ZONE)?.checked_add(self.zones)?;
        let cluster = u32::try_from(offset / CLUSTER as u64).ok()?;
        (number < self.zone_entries).then_some(Cluster(cluster))
    }

    /// The zone of a cluster, and which of its clusters that is.
    pub(in crate::selfie) fn slot(&self, cluster: Cluster) -> Option<(u32, u16)> {
        let from_start = cluster.offset().checked_sub(self.zones)?;
        let number = u32::try_from(from_start / ZONE).ok()?;
        let slot = u16::try_from(from_start % ZONE / CLUSTER as u64).ok()?;
        (number < self.zone_entries && slot < SLOTS).then_some((number, slot))
    }

    /// Everything is aligned, in order, apart, and can be numbered.
    fn is_sound(&self, size: u64, max_size: u64) -> bool {
        const UNIT: u64 = CLUSTER as u64;
        let behind =
            |start: u64, entries: u32, bytes: u32| start.checked_add(u64::from(entries) * u64::from(bytes));
        let table_end = behind(self.zone_table, self.zone_entries, ZONE_ENTRY);
        let l1_end = behind(self.l1, self.l1_entries, L1_ENTRY);
        let end =
            u64::from(self.zone_entries).checked_mul(ZONE).and_then(|size| size.checked_add(self.zones));
        [self.zone_table, self.l1, self.zones].iter().all(|offset| offset.is_multiple_of(UNIT))
            && self.zone_table >= UNIT
            && self.zone_entries > 0
            && table_end.is_some_and(|end| end <= self.l1)
            && l1_end.is_some_and(|end| end <= self.zones)
            && end.is_some_and(|end| end / UNIT <= u64::from(u32::MAX))
            && u64::from(self.l1_entries) * L2_REACH >= max_size
            && u64::from(self.l1_entries) <= MAX_DISK / L2_REACH
            && size <= max_size
            && max_size <= MAX_DISK
    }
}

impl Superblock {
    pub(in crate::selfie) fn encode(&self) -> [u8; SUPERBLOCK] {
        let backing = self.backing.as_ref();
        let path = backing.map_or(&[][..], |backing| backing.path.as_bytes());
        let mut backing_path = [0; MAX_PATH];
        let length = path.len().min(MAX_PATH);
        backing_path[..length].copy_from_slice(&path[..length]);
        let identity = backing.map_or_else(Identity::default, |backing| backing.identity);
        let bytes = Bytes {
            magic: MAGIC,
            version: VERSION.into(),
            block_bits: 12,
            cluster_bits: 16,
            zone_bits: 26,
            backing_format: match backing.map(|backing| backing.format) {
                None => 0,
                Some(BackingFormat::Raw) => 1,
                Some(BackingFormat::Selfie) => 2,
            },
            backing_path_length: u16::try_from(length).unwrap_or_default().into(),
            sequence: self.sequence.into(),
            generation: self.generation.into(),
            uuid: self.uuid,
            secret: self.secret.0,
            size: self.size.into(),
            max_size: self.max_size.into(),
            compatible: self.compatible.into(),
            incompatible: 0.into(),
            autoclear: self.autoclear.into(),
            flags: (u32::from(self.flags.dirty) | u32::from(self.flags.corrupt) << 1).into(),
            zone_entries: self.layout.zone_entries.into(),
            zone_table: self.layout.zone_table.into(),
            l1: self.layout.l1.into(),
            l1_entries: self.layout.l1_entries.into(),
            reserved: 0.into(),
            zones: self.layout.zones.into(),
            backing_uuid: identity.uuid,
            backing_size: identity.size.into(),
            backing_content: identity.content.into(),
            backing_reach: backing.map_or(0, |backing| backing.reach).into(),
            backing_path,
            rest: [0; 2884],
            sum: 0.into(),
        };
        let mut raw = [0; SUPERBLOCK];
        raw.copy_from_slice(bytes.as_bytes());
        let sum = crc32c::crc32c(&raw[..SUPERBLOCK - 4]);
        raw[SUPERBLOCK - 4..].copy_from_slice(&sum.to_le_bytes());
        raw
    }

    /// One copy.
    ///
    /// # Errors
    /// [`ErrorKind::NotThisFormat`], [`ErrorKind::TooNew`], [`ErrorKind::Corrupt`].
    fn decode(raw: &[u8; SUPERBLOCK]) -> Result<Self> {
        let fail = |kind, why: &str| Err(Error::new(kind, Operation::Open).because(why));
        let Ok(bytes) = Bytes::ref_from_bytes(raw) else {
            return fail(ErrorKind::NotThisFormat, "no superblock");
        };
        if bytes.magic != MAGIC {
            return fail(ErrorKind::NotThisFormat, "it does not begin as a Selfie image does");
        }
        if crc32c::crc32c(&raw[..SUPERBLOCK - 4]) != bytes.sum.get() {
            return fail(ErrorKind::Corrupt, "the superblock's checksum is wrong");
        }
        if bytes.version.get() != VERSION {
            return fail(ErrorKind::TooNew, "another version of the format");
        }
        if bytes.incompatible.get() != 0 {
            let bits = bytes.incompatible.get();
            return fail(ErrorKind::TooNew, &format!("unknown features {bits:#x}"));
        }
        if (bytes.block_bits, bytes.cluster_bits, bytes.zone_bits) != (12, 16, 26) {
            return fail(ErrorKind::TooNew, "other sizes of blocks, clusters or zones");
        }
        let backing = match bytes.backing_format {
            0 => None,
            format @ (1 | 2) => {
                let path = bytes.backing_path.get(..usize::from(bytes.backing_path_length.get()));
                let Some(Ok(path)) = path.map(std::str::from_utf8) else {
                    return fail(ErrorKind::Corrupt, "the path of the backing image is no text");
                };
                Some(Backing {
                    path: path.to_owned(),
                    format: if format == 1 { BackingFormat::Raw } else { BackingFormat::Selfie },
                    identity: Identity {
                        uuid: bytes.backing_uuid,
                        size: bytes.backing_size.get(),
                        content: bytes.backing_content.get(),
                    },
                    reach: bytes.backing_reach.get(),
                })
            }
            _ => return fail(ErrorKind::TooNew, "an unknown format of the backing image"),
        };
        let (sequence, generation) = (bytes.sequence.get(), bytes.generation.get());
        if sequence.max(generation) > LAST_NUMBER {
            return fail(ErrorKind::Corrupt, "the superblock's numbers are higher than anybody counts");
        }
        let flags = bytes.flags.get();
        let layout = Layout {
            zone_table: bytes.zone_table.get(),
            zone_entries: bytes.zone_entries.get(),
            l1: bytes.l1.get(),
            l1_entries: bytes.l1_entries.get(),
            zones: bytes.zones.get(),
        };
        let (size, max_size) = (bytes.size.get(), bytes.max_size.get());
        if size == 0 || !size.is_multiple_of(512) || !layout.is_sound(size, max_size) {
            return fail(ErrorKind::Corrupt, "the superblock's sizes and places contradict each other");
        }
        Ok(Self {
            sequence,
            generation,
            uuid: bytes.uuid,
            secret: Secret(bytes.secret),
            size,
            max_size,
            compatible: bytes.compatible.get(),
            autoclear: bytes.autoclear.get(),
            flags: Flags { dirty: flags & 1 != 0, corrupt: flags & 2 != 0 },
            backing,
            layout,
        })
    }

    /// The newer of the sound copies.
    ///
    /// # Errors
    /// As for the first, if none is sound.
    pub(in crate::selfie) fn choose(copies: [&[u8; SUPERBLOCK]; 2]) -> Result<Self> {
        match copies.map(Self::decode) {
            [Ok(first), Ok(second)] => Ok(if first.sequence >= second.sequence { first } else { second }),
            [Ok(only), Err(error)] | [Err(error), Ok(only)] => {
                // A newer version may have written the other one.
                if error.kind() == ErrorKind::TooNew { Err(error) } else { Ok(only) }
            }
            [Err(first), Err(_)] => Err(first),
        }
    }

    /// A backing image for a disk of `size` bytes, which sees no more of it than that.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a path that does not fit.
    pub(in crate::selfie) fn over(backing: &Backing, size: u64) -> Result<Backing> {
        if backing.path.is_empty() || backing.path.len() > MAX_PATH || backing.path.contains('\0') {
            let why = format!("the path of a backing image has 1 to {MAX_PATH} bytes");
            return Err(Error::new(ErrorKind::Invalid, Operation::Open).because(why));
        }
        Ok(Backing { reach: size.min(backing.identity.size), ..backing.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn superblock(sequence: u64) -> Superblock {
        Superblock {
            sequence,
            generation: 3,
            uuid: [1; 16],
            secret: Secret([2; 16]),
            size: 10 << 30,
            max_size: 16 << 40,
            compatible: 0,
            autoclear: 0,
            flags: Flags { dirty: true, corrupt: false },
            backing: Some(Backing {
                path: "base.raw".to_owned(),
                format: BackingFormat::Raw,
                identity: Identity { uuid: [0; 16], size: 5, content: 6 },
                reach: 4,
            }),
            layout: Layout::new(16 << 40).unwrap(),
        }
    }

    /// The copy with its checksum made right again.
    fn resealed(mut raw: [u8; SUPERBLOCK]) -> [u8; SUPERBLOCK] {
        let sum = crc32c::crc32c(&raw[..SUPERBLOCK - 4]);
        raw[SUPERBLOCK - 4..].copy_from_slice(&sum.to_le_bytes());
        raw
    }

    #[test]
    fn the_newer_sound_copy_counts() {
        let (old, new) = (superblock(8), superblock(9));
        assert_eq!(Superblock::choose([&old.encode(), &new.encode()]).unwrap(), new);
        assert_eq!(Superblock::choose([&new.encode(), &old.encode()]).unwrap(), new);
        for torn in [512, 1024, 4095] {
            let mut half = new.encode();
            half[torn..].fill(0);
            assert_eq!(Superblock::choose([&old.encode(), &half]).unwrap(), old);
        }
        let error = Superblock::choose([&[0; SUPERBLOCK], &[0; SUPERBLOCK]]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotThisFormat);
    }

    #[test]
    fn what_is_newer_than_us_is_left_alone() {
        for (at, value) in [(8, 2), (10, 13), (13, 9), (88, 1)] {
            let mut raw = superblock(1).encode();
            raw[at] = value;
            let error = Superblock::choose([&resealed(raw), &superblock(0).encode()]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TooNew, "{at}");
        }
    }

    #[test]
    fn no_contradiction_is_believed() {
        // The two numbers, the size, the size that it can grow to, the zone table's entries and place, the L1 table, the zones.
        for (at, value) in [
            (16, u64::MAX),
            (24, u64::MAX),
            (64, u64::MAX),
            (64, 0),
            (64, 513),
            (72, u64::MAX),
            (72, 1),
            (108, u64::MAX),
            (112, 0),
            (112, u64::MAX - 65535),
            (120, 65536),
            (136, 0),
            (136, u64::MAX - 65535),
            (136, 1),
        ] {
            let mut raw = superblock(1).encode();
            raw[at..at + 8].copy_from_slice(&value.to_le_bytes());
            let error = Superblock::decode(&resealed(raw)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{at} {value:#x}");
        }
    }

    #[test]
    fn clusters_and_zones_find_each_other() {
        let layout = Layout::new(1 << 30).unwrap();
        assert_eq!((layout.zone_entries, layout.l1_entries), (96, 4));
        for number in [0, 1, 95] {
            let first = layout.zone(number).unwrap();
            assert_eq!(layout.slot(first), Some((number, 0)));
            assert_eq!(layout.slot(Cluster(first.0 + 1023)), Some((number, 1023)));
        }
        assert_eq!((layout.zone(96), layout.slot(Cluster(0))), (None, None));
        assert_eq!(layout.slot(Cluster(layout.zone(95).unwrap().0 + 1024)), None);
        assert!(Layout::new(0).is_err() && Layout::new(u64::MAX).is_err());
    }
}
