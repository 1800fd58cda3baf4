//! Selfie, in several of the ways that it can be opened.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex};

use sky_devices::block::simulated::{Random, SimulatedDisk, SimulatedOptions};
use sky_devices::block::{BlockDevice, MemoryDisk, Storage};
use sky_devices::selfie::{
    Backing, BackingFormat, Chore, CreateOptions, Identity, OpenOptions, Selfie as Engine, Zeroing, check,
    create,
};

use super::subject::{Image, Outcome, Subject, said};

/// Selfie images, opened in one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Selfie {
    /// Blocks carry their mappings.
    Embedded,
    /// All mappings go through the tables, because the disk writes no whole block atomically.
    SmallSectors,
    /// Data is durable before the tables speak of it.
    Ordered,
    /// Zones are holes.
    Sparse,
    /// The disk gives no space back, so what is not written over keeps its bytes.
    NoHoles,
    /// What its thread does is done between any two steps, or not for long.
    Tended,
    /// So it is, and its zones are nearly used up: they become full, and free, and are used again.
    Worn,
    /// So it is, and it has so many zones that they are described in more than one sector.
    Long,
}

const CLUSTER: u64 = 65536;
/// Clusters behind the disk that is worked with, to wear zones out with.
const SPARE: u64 = 64;
/// Clusters of a zone.
const SLOTS: u64 = 1024;
/// Zones of a long image of which something behind the disk is the last that lives; of the others it is something on
/// the disk. Sector 1 of the zone table begins with zone 32.
const KEPT: u64 = 28;
const LONG: u64 = 35;

impl Subject for Selfie {
    fn name(&self) -> &'static str {
        match self {
            Self::Embedded => "selfie",
            Self::SmallSectors => "selfie-small-sectors",
            Self::Ordered => "selfie-ordered",
            Self::Sparse => "selfie-sparse",
            Self::NoHoles => "selfie-no-holes",
            Self::Tended => "selfie-tended",
            Self::Worn => "selfie-worn",
            Self::Long => "selfie-long",
        }
    }

    fn disk(&self) -> SimulatedOptions {
        match self {
            Self::SmallSectors => SimulatedOptions { atomic_write: 512, ..SimulatedOptions::file() },
            Self::NoHoles => SimulatedOptions { holes: false, ..SimulatedOptions::file() },
            _ => SimulatedOptions::file(),
        }
    }

    fn has_chores(&self) -> bool {
        matches!(self, Self::Tended | Self::Worn | Self::Long)
    }

    fn takes_parent(&self) -> bool {
        *self != Self::Long
    }

    fn create(&self, disk: &Arc<SimulatedDisk>, size: u64, parent: bool) -> Outcome<()> {
        create_image(disk, size, size, parent)
    }

    fn made(&self, size: u64, parent: bool) -> Outcome<Arc<SimulatedDisk>> {
        if !matches!(self, Self::Worn | Self::Long) {
            let disk = Arc::new(SimulatedDisk::new(self.disk()));
            return self.create(&disk, size, parent).map(|()| disk);
        }
        static MADE: Mutex<BTreeMap<(&str, u64, bool), SimulatedDisk>> = Mutex::new(BTreeMap::new());
        let mut made = MADE.lock().unwrap();
        let key = (self.name(), size, parent);
        let used = match made.entry(key) {
            Entry::Occupied(used) => used.into_mut(),
            Entry::Vacant(place) => place.insert(self.used(size, parent)?),
        };
        Ok(Arc::new(used.copy_as(self.disk())))
    }

    fn open(&self, disk: &Arc<SimulatedDisk>, parent: Option<&Arc<MemoryDisk>>) -> Outcome<Box<dyn Image>> {
        let options = OpenOptions {
            background: false,
            tended: self.has_chores(),
            ordered: *self == Self::Ordered,
            // Few workloads write as much between two flushes as by default.
            stream: match self {
                Self::Tended => 3,
                Self::Worn => 12,
                _ => 32,
            },
            zeroing: if *self == Self::Sparse { Zeroing::Sparse } else { Zeroing::Written },
            ..OpenOptions::default()
        };
        let storage = Arc::clone(disk) as Arc<dyn Storage>;
        let backing = parent.map(|parent| Arc::clone(parent) as Arc<dyn BlockDevice>);
        Ok(Box::new(SelfieImage(Engine::open(storage, options, backing).map_err(said)?)))
    }

    fn check(&self, disk: &Arc<SimulatedDisk>, _parent: bool) -> Outcome<()> {
        let report = check(&**disk).map_err(said)?;
        if report.is_clean() { Ok(()) } else { Err(format!("{report:?}")) }
    }
}

/// An image of `size` bytes, of which `seen` may lie over a parent.
fn create_image(disk: &SimulatedDisk, size: u64, seen: u64, parent: bool) -> Outcome<()> {
    let backing = parent.then(|| Backing {
        path: "parent.img".to_owned(),
        format: BackingFormat::Raw,
        identity: Identity { size: seen, ..Identity::default() },
        reach: seen,
    });
    // An image that can grow to terabytes has tables to match, which every crash state would have to read.
    let options = CreateOptions { max_size: Some(1 << 28), backing, ..CreateOptions::new(size) };
    create(disk, &options).map_err(said)
}

impl Selfie {
    /// A disk with an image that was used much, of which nothing is to be seen.
    fn used(self, size: u64, parent: bool) -> Outcome<SimulatedDisk> {
        let disk = Arc::new(SimulatedDisk::new(SimulatedOptions { record: false, ..self.disk() }));
        let spare = size.next_multiple_of(CLUSTER);
        create_image(&disk, spare + (SPARE + KEPT) * CLUSTER, size, parent)?;
        let storage = Arc::clone(&disk) as Arc<dyn Storage>;
        let below = parent.then(|| {
            let bytes = vec![0; usize::try_from(size).unwrap()];
            Arc::new(MemoryDisk::from_bytes(bytes, true).unwrap()) as Arc<dyn BlockDevice>
        });
        // All of it into one zone after the other.
        let options = OpenOptions { background: false, stream: u64::MAX, ..OpenOptions::default() };
        let image = Engine::open(storage, options, below).map_err(said)?;
        let text = [b'x'; 4096];
        let mut noise = [0; 4096];
        let mut random = Random::new(size);
        noise.chunks_mut(8).for_each(|word| word.copy_from_slice(&random.bits().to_le_bytes()));
        let worn = SLOTS - 4 - random.below(8);
        let zones = if self == Self::Long { LONG } else { 0 };
        for at in 0..zones * SLOTS + worn {
            let cluster = at % SPARE;
            if cluster == 0 {
                image.discard(spare, SPARE * CLUSTER).and_then(|()| image.flush()).map_err(said)?;
            }
            let last_one_living = at / (SLOTS - 1);
            if at % (SLOTS - 1) != 0 || last_one_living >= zones {
                image.write(spare + cluster * CLUSTER, &text, &[]).map_err(said)?;
            } else if last_one_living < KEPT {
                image.write(spare + (SPARE + last_one_living) * CLUSTER, &text, &[]).map_err(said)?;
            } else {
                // On the disk, where it is zeros, as nothing would be.
                let offset = (last_one_living - KEPT) * CLUSTER;
                image.write(offset, &text, &[]).map_err(said)?;
                image.write_zeroes(offset, 4096, false).map_err(said)?;
            }
        }
        for at in 0..worn {
            let cluster = at % SPARE;
            if cluster == 0 {
                image.discard(spare, SPARE * CLUSTER).and_then(|()| image.flush()).map_err(said)?;
            }
            image.write(spare + cluster * CLUSTER, &noise, &[]).map_err(said)?;
        }
        image.discard(spare, SPARE * CLUSTER).and_then(|()| image.flush()).map_err(said)?;
        image.close().map_err(said)?;
        Arc::into_inner(disk).ok_or_else(|| "somebody still has the disk".to_owned())
    }
}

struct SelfieImage(Engine);

impl Image for SelfieImage {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Outcome<()> {
        self.0.read(offset, buffer, &[]).map_err(said)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Outcome<()> {
        self.0.write(offset, data, &[]).map_err(said)
    }

    fn flush(&self) -> Outcome<()> {
        self.0.flush().map_err(said)
    }

    fn discard(&self, offset: u64, length: u64) -> Outcome<()> {
        self.0.discard(offset, length).map_err(said)
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> Outcome<()> {
        self.0.write_zeroes(offset, length, unmap).map_err(said)
    }

    fn chore(&self, number: u64) -> Outcome<()> {
        let chores = [Chore::WriteZeroes, Chore::CollectFull, Chore::CollectAll, Chore::FreeZones];
        self.0.chore(chores[(number % 4) as usize]).map_err(said)
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        self.0.close().map_err(said)
    }
}
