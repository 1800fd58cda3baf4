//! iDedup, in several of the ways that it can be made and opened.
//!
//! The oracle's sectors say where they belong, so no two blocks of its disk are equal. The copies come from here: behind
//! the disk that is tested lies a second one, to which every change is copied.

use std::sync::Arc;

use sky_devices::block::simulated::{SimulatedDisk, SimulatedOptions};
use sky_devices::block::{BlockDevice, Geometry, MemoryDisk, Storage};
use sky_devices::idedup::{CreateOptions, Idedup as Engine, OpenOptions, Reread, Verify, check, create};
use sky_devices::io_class::IoTag;

use super::subject::{Image, Outcome, Subject, said};
use super::together::Crowded;

/// iDedup images, made and opened in one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Idedup {
    /// Fingerprints decide.
    Fingerprints,
    /// The same on a disk that tears blocks, and without holes.
    SmallSectors,
    /// Nearly all fingerprints are the same, and blocks are compared.
    Collisions,
    /// Hardly more blocks than the disk has, and the shortest journal that there can be.
    Tight,
    /// Garbage is collected now and then.
    Collected,
}

const BLOCK: u64 = 4096;

impl Subject for Idedup {
    fn name(&self) -> &'static str {
        match self {
            Self::Fingerprints => "idedup",
            Self::SmallSectors => "idedup-small-sectors",
            Self::Collisions => "idedup-collisions",
            Self::Tight => "idedup-tight",
            Self::Collected => "idedup-collected",
        }
    }

    fn disk(&self) -> SimulatedOptions {
        match self {
            Self::SmallSectors => {
                SimulatedOptions { atomic_write: 512, holes: false, ..SimulatedOptions::file() }
            }
            _ => SimulatedOptions::file(),
        }
    }

    fn has_chores(&self) -> bool {
        *self == Self::Collected
    }

    fn takes_parent(&self) -> bool {
        false
    }

    fn create(&self, disk: &Arc<SimulatedDisk>, size: u64, _parent: bool) -> Outcome<()> {
        let verify = match self {
            Self::Collisions => Verify::Compare { bits: 3 },
            _ => Verify::Fingerprint,
        };
        let mirrored = 2 * size.next_multiple_of(BLOCK);
        let tight = *self == Self::Tight;
        let options = CreateOptions {
            verify,
            capacity: tight.then_some(mirrored / 2 + 70 * BLOCK),
            journal: if tight { 16 * BLOCK } else { 40 * BLOCK },
            ..CreateOptions::new(mirrored)
        };
        create(&**disk, &options).map_err(said)
    }

    fn open(&self, disk: &Arc<SimulatedDisk>, _parent: Option<&Arc<MemoryDisk>>) -> Outcome<Box<dyn Image>> {
        Ok(Box::new(self.mirrored(Arc::clone(disk) as Arc<dyn Storage>)?))
    }

    fn check(&self, disk: &Arc<SimulatedDisk>, _parent: bool) -> Outcome<()> {
        let storage = Arc::clone(disk) as Arc<dyn Storage>;
        let report = check(&storage).map_err(said)?;
        if !report.is_clean() {
            return Err(format!("{report:?}"));
        }
        // What is mapped is what is not zeros, and what nothing leads to is free, however the disk came here.
        let options = OpenOptions { read_only: true, hints: None, ..OpenOptions::default() };
        let image = Engine::open(storage, options).map_err(said)?;
        let mut distinct = std::collections::HashSet::new();
        let (mut mapped, mut block) = (0, vec![0; BLOCK as usize]);
        for offset in (0..image.geometry().size).step_by(BLOCK as usize) {
            image.read(offset, &mut block, &[]).map_err(said)?;
            if block.iter().any(|&byte| byte != 0) {
                mapped += 1;
                // Two that differ may be counted as one; the bound below holds all the same.
                distinct.insert(crc32c::crc32c(&block));
            }
        }
        let stats = image.stats();
        let total = report.used_blocks + report.free_blocks;
        if mapped != report.mapped_blocks
            || report.used_blocks < distinct.len() as u64
            || report.used_blocks > report.mapped_blocks
            || (stats.used_blocks, stats.free_blocks) != (report.used_blocks, report.free_blocks)
            || (*self == Self::Tight && total != image.geometry().size / 2 / BLOCK + 70)
        {
            return Err(format!("{mapped} mapped, {} different: {report:?}", distinct.len()));
        }
        Ok(())
    }
}

impl Idedup {
    fn mirrored(&self, storage: Arc<dyn Storage>) -> Outcome<IdedupImage> {
        let options = OpenOptions {
            // Every now and then claims go to their buckets.
            index_memory: 16 << 10,
            hints: if *self == Self::Tight { None } else { OpenOptions::default().hints },
            ..OpenOptions::default()
        };
        let image = Engine::open(storage, options).map_err(said)?;
        let mirror = image.geometry().size / 2;
        Ok(IdedupImage { image, mirror })
    }
}

impl Crowded for Idedup {
    type Engine = IdedupImage;

    fn copies(&self) -> u64 {
        2
    }

    fn engine(
        &self,
        storage: Arc<dyn Storage>,
        _backing: Option<Arc<dyn BlockDevice>>,
        _seed: u64,
    ) -> Outcome<IdedupImage> {
        self.mirrored(storage)
    }

    fn alongside(&self, image: &IdedupImage, seed: u64) -> Outcome<()> {
        if self.has_chores() { (0..3).try_for_each(|more| Image::chore(image, seed + more)) } else { Ok(()) }
    }

    /// What was counted while threads came and went is what is counted from the map.
    fn afterwards(&self, image: &IdedupImage, disk: &Arc<SimulatedDisk>) -> Outcome<()> {
        image.image.flush().map_err(said)?;
        let (stats, report) =
            (image.image.stats(), check(&(Arc::clone(disk) as Arc<dyn Storage>)).map_err(said)?);
        let live = (stats.mapped_blocks, stats.used_blocks, stats.free_blocks);
        let counted = (report.mapped_blocks, report.used_blocks, report.free_blocks);
        if live == counted { Ok(()) } else { Err(format!("{live:?}, but {counted:?}")) }
    }
}

/// Both disks as one device, where every change goes to both.
impl BlockDevice for IdedupImage {
    fn geometry(&self) -> Geometry {
        self.image.geometry()
    }

    fn read(&self, offset: u64, buffer: &mut [u8], tags: &[IoTag]) -> sky_devices::block::Result<()> {
        self.image.read(offset, buffer, tags)
    }

    fn write(&self, offset: u64, data: &[u8], tags: &[IoTag]) -> sky_devices::block::Result<()> {
        self.twice(|from| self.image.write(from + offset, data, tags))
    }

    fn flush(&self) -> sky_devices::block::Result<()> {
        self.image.flush()
    }

    fn discard(&self, offset: u64, length: u64) -> sky_devices::block::Result<()> {
        self.twice(|from| self.image.discard(from + offset, length))
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> sky_devices::block::Result<()> {
        self.twice(|from| self.image.write_zeroes(from + offset, length, unmap))
    }
}

#[derive(Debug)]
pub(super) struct IdedupImage {
    image: Engine,
    /// Where the copy of the disk begins.
    mirror: u64,
}

impl IdedupImage {
    fn twice(
        &self,
        change: impl Fn(u64) -> sky_devices::block::Result<()>,
    ) -> sky_devices::block::Result<()> {
        change(0).and_then(|()| change(self.mirror))
    }
}

impl Image for IdedupImage {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Outcome<()> {
        BlockDevice::read(self, offset, buffer, &[]).map_err(said)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Outcome<()> {
        BlockDevice::write(self, offset, data, &[]).map_err(said)
    }

    fn flush(&self) -> Outcome<()> {
        BlockDevice::flush(self).map_err(said)
    }

    fn discard(&self, offset: u64, length: u64) -> Outcome<()> {
        BlockDevice::discard(self, offset, length).map_err(said)
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> Outcome<()> {
        BlockDevice::write_zeroes(self, offset, length, unmap).map_err(said)
    }

    fn chore(&self, number: u64) -> Outcome<()> {
        let how = [Reread::Nothing, Reread::Unnamed, Reread::Everything][(number % 3) as usize];
        self.image.collect(how, &mut |_| true).map(|_| ()).map_err(said)
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        self.image.close().map_err(said)
    }
}
