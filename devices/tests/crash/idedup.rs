//! iDedup, in several of the ways that it can be made and opened.
//!
//! The oracle's sectors say where they belong, so no two blocks of its disk are equal. The copies come from here: behind
//! the disk that is tested lies a second one, to which every change is copied.

use std::sync::Arc;

use sky_devices::block::simulated::{SimulatedDisk, SimulatedOptions};
use sky_devices::block::{BlockDevice, MemoryDisk, Storage};
use sky_devices::idedup::{CreateOptions, Idedup as Engine, OpenOptions, Verify, check, create};

use super::subject::{Image, Outcome, Subject, said};

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
}

const BLOCK: u64 = 4096;

impl Subject for Idedup {
    fn name(&self) -> &'static str {
        match self {
            Self::Fingerprints => "idedup",
            Self::SmallSectors => "idedup-small-sectors",
            Self::Collisions => "idedup-collisions",
            Self::Tight => "idedup-tight",
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
        let options = OpenOptions {
            // Every now and then claims go to their buckets.
            index_memory: 16 << 10,
            hints: if *self == Self::Tight { None } else { OpenOptions::default().hints },
            ..OpenOptions::default()
        };
        let image = Engine::open(Arc::clone(disk) as Arc<dyn Storage>, options).map_err(said)?;
        let mirror = image.geometry().size / 2;
        Ok(Box::new(IdedupImage { image, mirror }))
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

struct IdedupImage {
    image: Engine,
    /// Where the copy of the disk begins.
    mirror: u64,
}

impl IdedupImage {
    fn twice(&self, change: impl Fn(u64) -> sky_devices::block::Result<()>) -> Outcome<()> {
        change(0).and_then(|()| change(self.mirror)).map_err(said)
    }
}

impl Image for IdedupImage {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Outcome<()> {
        self.image.read(offset, buffer, &[]).map_err(said)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Outcome<()> {
        self.twice(|from| self.image.write(from + offset, data, &[]))
    }

    fn flush(&self) -> Outcome<()> {
        self.image.flush().map_err(said)
    }

    fn discard(&self, offset: u64, length: u64) -> Outcome<()> {
        self.twice(|from| self.image.discard(from + offset, length))
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> Outcome<()> {
        self.twice(|from| self.image.write_zeroes(from + offset, length, unmap))
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        self.image.close().map_err(said)
    }
}
