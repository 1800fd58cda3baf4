//! What the cache itself costs: 4 KiB that is there, and 4 KiB that is not, with both tiers in memory, against the same
//! copies without a cache.

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use sky_devices::block::simulated::Random;
use sky_devices::block::{self, BlockDevice, MemoryDisk, Storage, StorageProperties};
use sky_devices::icache::{ICache, OpenOptions, create};
use sky_devices::io_class::BLOCK_SIZE;

use super::replay::{failed, tag};
use super::trace::BLOCK;
use crate::error::{Error, Result};
use crate::results::Figures;

/// Of the fast tier, in bytes: more than a processor caches.
const FAST: usize = 192 << 20;
const SLOW: usize = 1 << 30;
/// Blocks that hits are among: all of them stay.
const RESIDENT: u64 = 32 << 10;
/// Blocks that fill a cache, so that every further miss has to evict one.
const FILLING: u64 = 48 << 10;
/// Blocks that a thread reads at a time.
const BATCH: usize = 8192;
/// Times that everything is measured, of which the shortest counts: other work on the machine can only make it longer.
const ROUNDS: usize = 8;
const THREADS: [usize; 2] = [1, 2];

/// A disk in memory, as what a cache lies on.
#[derive(Debug)]
struct Fast(MemoryDisk);

impl Storage for Fast {
    fn properties(&self) -> StorageProperties {
        StorageProperties { alignment: 512, atomic_write: 4096, growable: false, read_only: false }
    }

    fn size(&self) -> u64 {
        self.0.geometry().size
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> block::Result<()> {
        self.0.read(offset, buffer, &[])
    }

    fn write(&self, offset: u64, data: &[u8]) -> block::Result<()> {
        self.0.write(offset, data, &[])
    }

    fn sync(&self) -> block::Result<()> {
        Ok(())
    }

    fn punch(&self, _offset: u64, _length: u64) -> block::Result<bool> {
        Ok(false)
    }

    fn grow(&self, size: u64) -> block::Result<()> {
        let more = size.saturating_sub(self.size());
        let error = block::Error::new(block::ErrorKind::Unsupported, block::Operation::Grow);
        Err(error.at(self.size(), more))
    }
}

/// A disk of ones.
fn memory(size: usize) -> Result<MemoryDisk> {
    MemoryDisk::from_bytes(vec![1; size], false).map_err(failed)
}

fn cache() -> Result<ICache> {
    let (fast, slow) = (Fast(memory(FAST)?), memory(SLOW)?);
    create(&fast, slow.geometry().size).map_err(failed)?;
    let options = OpenOptions { sequential: None, ..OpenOptions::default() };
    ICache::open(Arc::new(fast), Arc::new(slow), options).map_err(failed)
}

/// Reads a block into the buffer.
type Read<'a> = &'a (dyn Fn(u64, &mut [u8]) -> block::Result<()> + Sync);

/// Seconds until each list of blocks has been read, by a thread of its own.
fn seconds(read: Read<'_>, lists: &[&[u64]]) -> Result<f64> {
    let work = |list: &[u64]| {
        let mut buffer = [0; BLOCK_SIZE];
        list.iter().try_for_each(|&number| read(number, &mut buffer))
    };
    let started = Instant::now();
    thread::scope(|scope| {
        let threads: Vec<_> = lists.iter().map(|list| scope.spawn(move || work(list))).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(done) => done.map_err(failed),
            Err(_) => Err(Error::Missing("a thread of the benchmark has died".into())),
        })
    })?;
    Ok(started.elapsed().as_secs_f64())
}

/// Numbers below `most` in random order, so many lists of a batch.
fn lists(order: &[u64], round: usize, threads: usize) -> Vec<&[u64]> {
    let batches: Vec<&[u64]> = order.chunks_exact(BATCH).collect();
    (0..threads).map(|thread| batches[(round * threads + thread) % batches.len()]).collect()
}

fn shuffled(range: std::ops::Range<u64>) -> Vec<u64> {
    let mut random = Random::new(1);
    let mut numbers: Vec<u64> = range.collect();
    for last in (1..numbers.len()).rev() {
        let other = random.below(last as u64 + 1);
        numbers.swap(last, usize::try_from(other).unwrap_or(0));
    }
    numbers
}

/// The shortest of the rounds, as seconds. `order` has enough for all rounds where blocks must be new each time.
fn shortest(read: Read<'_>, order: &[u64], threads: usize) -> Result<f64> {
    let mut shortest = f64::INFINITY;
    for round in 0..ROUNDS {
        shortest = shortest.min(seconds(read, &lists(order, round, threads))?);
    }
    Ok(shortest)
}

/// Microseconds of a hit and a miss, with and without a cache.
pub(super) fn measure() -> Result<Figures> {
    let tags = [tag(4)];
    let mut figures = Figures::new();
    let (fast, slow) = (memory(FAST)?, memory(SLOW)?);
    let resident = shuffled(0..RESIDENT);
    let hits = cache()?;
    seconds(&|block, buffer| hits.read(block * BLOCK, buffer, &tags), &[&resident])?;
    for threads in THREADS {
        let copy = |block: u64, buffer: &mut [u8]| fast.read(block * BLOCK, buffer, &[]);
        let hit = |block: u64, buffer: &mut [u8]| hits.read(block * BLOCK, buffer, &tags);
        let least = shortest(&copy, &resident, threads)?;
        store(&mut figures, "hit", threads, shortest(&hit, &resident, threads)?, least);
    }
    for threads in THREADS {
        // Each block once, in a cache that is full.
        let misses = cache()?;
        let order = shuffled(0..SLOW as u64 / BLOCK);
        let (filling, order) = order.split_at(usize::try_from(FILLING).unwrap_or(0));
        let miss = |block: u64, buffer: &mut [u8]| misses.read(block * BLOCK, buffer, &tags);
        seconds(&miss, &[filling])?;
        // What has to be done at least: the block is read, and kept somewhere.
        let copy = |block: u64, buffer: &mut [u8]| {
            slow.read(block * BLOCK, buffer, &[])?;
            fast.write(block % FILLING * BLOCK, buffer, &[])
        };
        let least = shortest(&copy, order, threads)?;
        store(&mut figures, "miss", threads, shortest(&miss, order, threads)?, least);
    }
    let bytes = ICache::bytes_per_block(64 << 30).map_err(failed)?;
    figures.insert("bytes_per_block".into(), bytes as f64);
    Ok(figures)
}

/// Both times of a batch, as microseconds of a block and thread, and what is more with a cache.
fn store(figures: &mut Figures, what: &str, threads: usize, cached: f64, copied: f64) {
    let micros = |seconds: f64| seconds * 1e6 / BATCH as f64;
    let end = if threads == 1 { String::new() } else { format!("_t{threads}") };
    figures.insert(format!("{what}_us{end}"), micros(cached - copied));
    figures.insert(format!("{what}_memcpy_us{end}"), micros(copied));
    figures.insert(format!("{what}_per_second_t{threads}"), (BATCH * threads) as f64 / cached);
}
