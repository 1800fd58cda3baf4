//! A file that is copied, and one that is encrypted, in simulated time: with hints, without, and on a B-tree.
//!
//! ```text
//!   copy:     read 512 KiB of the file ─▶ write the same elsewhere, tagged as a copy      (nothing new is stored)
//!   encrypt:  read 512 KiB of the file ─▶ write as much noise elsewhere, tagged as unique (all of it is stored)
//! ```
//!
//! The file is there when the clock starts, and nothing of it or of the index is in memory. All three have the same
//! memory, a hundredth or a tenth of what the fingerprints of all blocks take that are stored in the end; with hints,
//! the blocks that are remembered take their part of it. A processor's time is not in it.

use std::sync::Arc;
use std::time::Duration;

use sky_devices::block::simulated::{Latency, Random, SimulatedDisk, SimulatedOptions};
use sky_devices::block::{BlockDevice, Storage};
use sky_devices::idedup::{CreateOptions, Hints, Idedup, OpenOptions, create};
use sky_devices::io_class::{IoTag, Source, Unique};

use super::btree::Btree;
use crate::error::Result;
use crate::results::Figures;
use crate::results::chart::Point;
use crate::results::selfie::failed;

pub(super) const BLOCK: usize = 4096;
/// Bytes of the file.
const FILE: u64 = 500 << 20;
const BLOCKS: u64 = FILE / BLOCK as u64;
/// Bytes that are read, and then written, at a time.
pub(super) const REQUEST: usize = 512 << 10;
/// Blocks of one request.
pub(super) const BATCH: u64 = (REQUEST / BLOCK) as u64;
/// Bytes of a fingerprint and of where it leads.
const ENTRY: u64 = 40;
/// Bytes that a remembered block takes, as its option says.
const REMEMBERED: usize = 150;

/// Parts of the memory that all fingerprints would need, by their names in keys.
pub(super) const MEMORY: [&str; 2] = ["1pct", "10pct"];
const DIVISORS: [u64; 2] = [100, 10];

/// What is done with the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Copy,
    Encrypt,
}

impl Work {
    fn name(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Encrypt => "encrypt",
        }
    }

    /// Blocks that are stored in the end.
    fn stored(self) -> u64 {
        match self {
            Self::Copy => BLOCKS,
            Self::Encrypt => 2 * BLOCKS,
        }
    }

    fn memory(self, divisor: u64) -> usize {
        usize::try_from(self.stored() * ENTRY / divisor).unwrap_or(usize::MAX)
    }

    /// Seed of the content of the file that is written.
    pub(super) fn seed(self) -> u64 {
        match self {
            Self::Copy => 1,
            Self::Encrypt => 1 << 40,
        }
    }

    /// What the guest is known to do. The tags say it of every block, also where nobody follows them.
    pub(super) fn tag(self, number: u64) -> IoTag {
        let source =
            |path: &str| Some(Source { path: path.into(), file_size: FILE, offset: number * BLOCK as u64 });
        match self {
            Self::Copy => IoTag { copied_from: source("/a"), ..IoTag::default() },
            Self::Encrypt => {
                let unique = Unique { program: true, extension: true, entropy: true };
                IoTag { source: source("/a.gpg"), unique, ..IoTag::default() }
            }
        }
    }
}

/// The name of a disk in keys, and how long it takes.
type Disk = (&'static str, fn() -> Latency);

/// The disks that time is told by.
const DISKS: [Disk; 4] = [
    ("hdd_5400", Latency::hdd_5400),
    ("hdd_7200", Latency::hdd_7200),
    ("paper_ssd", Latency::paper_ssd),
    ("ssd", Latency::ssd),
];

/// Block `number` of a file of noise.
fn noise(seed: u64, number: u64, block: &mut [u8]) {
    let mut random = Random::new(seed + (number << 16));
    block.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&random.bits().to_le_bytes()));
}

pub(super) fn request(seed: u64, first: u64) -> Vec<u8> {
    let mut bytes = vec![0; REQUEST];
    (first..).zip(bytes.chunks_exact_mut(BLOCK)).for_each(|(number, block)| noise(seed, number, block));
    bytes
}

fn options(latency: Latency) -> SimulatedOptions {
    SimulatedOptions { latency, record: false, ..SimulatedOptions::file() }
}

/// A closed image with the file at its beginning.
fn image() -> Result<SimulatedDisk> {
    let disk = Arc::new(SimulatedDisk::new(options(Latency::default())));
    create(&*disk, &CreateOptions::new(4 * FILE)).map_err(failed)?;
    let storage = Arc::clone(&disk) as Arc<dyn Storage>;
    let image = Idedup::open(storage, OpenOptions::default()).map_err(failed)?;
    for first in (0..BLOCKS).step_by(REQUEST / BLOCK) {
        image.write(first * BLOCK as u64, &request(Work::Copy.seed(), first), &[]).map_err(failed)?;
    }
    image.close().map_err(failed)?;
    Ok(disk.copy())
}

/// The time that our engine takes.
fn ours(disk: &SimulatedDisk, latency: Latency, work: Work, divisor: u64, hinted: bool) -> Result<Duration> {
    let disk = Arc::new(disk.copy_as(options(latency)));
    let memory = work.memory(divisor);
    // One request and some more, so that the order of reads and writes does not matter; more if there is more.
    let remembered = (memory / 2 / REMEMBERED).max(REQUEST / BLOCK + 32);
    let hints = hinted.then(|| Hints { remembered, ..Hints::default() });
    let index_memory = if hinted { memory.saturating_sub(remembered * REMEMBERED) } else { memory };
    let options = OpenOptions { hints, index_memory, ..OpenOptions::default() };
    let image = Idedup::open(Arc::clone(&disk) as Arc<dyn Storage>, options).map_err(failed)?;
    let started = disk.simulated_time();
    let mut bytes = vec![0; REQUEST];
    for first in (0..BLOCKS).step_by(REQUEST / BLOCK) {
        let offset = first * BLOCK as u64;
        image.read(offset, &mut bytes, &[]).map_err(failed)?;
        if work == Work::Encrypt {
            bytes = request(work.seed(), first);
        }
        let tags: Vec<IoTag> = (first..first + BATCH).map(|number| work.tag(number)).collect();
        image.write(FILE + offset, &bytes, &tags).map_err(failed)?;
    }
    image.flush().map_err(failed)?;
    let took = disk.simulated_time().saturating_sub(started);
    let stats = image.stats();
    let followed = match work {
        Work::Copy => stats.answered_copies,
        Work::Encrypt => stats.unique_blocks,
    };
    let expected = (work.stored(), if hinted { BLOCKS } else { 0 });
    if (stats.used_blocks, followed) != expected {
        return Err(failed(format!("blocks stored and hints followed are not {expected:?}: {stats:?}")));
    }
    Ok(took)
}

/// The time that a B-tree takes, which holds the file's fingerprints. Its disk is as ours: the index, then the data.
fn theirs(tree: &Btree, latency: Latency, work: Work, divisor: u64) -> Result<Duration> {
    let size = 4 * FILE;
    let disk = SimulatedDisk::new(SimulatedOptions { size, capacity: None, ..options(latency) });
    let mut tree = tree.clone();
    tree.cool(work.memory(divisor));
    // Behind more nodes than there will be.
    let data = 64 << 20;
    let mut bytes = vec![0; REQUEST];
    for first in (0..BLOCKS).step_by(REQUEST / BLOCK) {
        let offset = first * BLOCK as u64;
        disk.read(data + offset, &mut bytes).map_err(failed)?;
        let mut new = 0;
        for number in first..first + BATCH {
            new += u64::from(!tree.find_or_insert(&disk, key(work.seed(), number))?);
        }
        let expected = if work == Work::Copy { 0 } else { BATCH };
        if new != expected {
            return Err(failed(format!("{new} new blocks among {BATCH} and not {expected}")));
        }
        if new > 0 {
            disk.write(data + FILE + offset, &bytes).map_err(failed)?;
        }
    }
    tree.commit(&disk)?;
    Ok(disk.simulated_time())
}

/// What stands for the fingerprint of a block: as even, and as certainly another one for another block.
fn key(seed: u64, number: u64) -> u64 {
    Random::new(seed + (number << 16)).bits()
}

pub(super) fn measure() -> Result<Figures> {
    let disk = image()?;
    let mut tree = Btree::new();
    let untimed = SimulatedDisk::new(options(Latency::default()));
    for number in 0..BLOCKS {
        tree.find_or_insert(&untimed, key(Work::Copy.seed(), number))?;
    }
    let mut figures = Figures::new();
    for work in [Work::Copy, Work::Encrypt] {
        let name = work.name();
        for (memory, divisor) in MEMORY.into_iter().zip(DIVISORS) {
            let (mut least, mut least_plain) = (f64::INFINITY, f64::INFINITY);
            for (disk_name, latency) in DISKS {
                let latency = latency();
                let hinted = ours(&disk, latency, work, divisor, true)?.as_secs_f64();
                let plain = ours(&disk, latency, work, divisor, false)?.as_secs_f64();
                let btree = theirs(&tree, latency, work, divisor)?.as_secs_f64();
                for (series, seconds) in [("hinted", hinted), ("plain", plain), ("btree", btree)] {
                    let key = format!("idedup-{name}.{disk_name}.{series}.{memory}");
                    Point::of(&[seconds]).into_iter().for_each(|point| point.store(&mut figures, &key));
                }
                figures.insert(format!("{name}.{disk_name}.speedup_{memory}"), btree / hinted);
                figures.insert(format!("{name}.{disk_name}.speedup_over_plain_{memory}"), plain / hinted);
                (least, least_plain) = (least.min(btree / hinted), least_plain.min(plain / hinted));
            }
            figures.insert(format!("{name}.speedup_{memory}"), least);
            figures.insert(format!("{name}.speedup_over_plain_{memory}"), least_plain);
        }
    }
    Ok(figures)
}
