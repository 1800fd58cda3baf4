//! The index by itself, on a real file past the page cache: how fast it takes fingerprints, and how fast it finds them.

use std::sync::Arc;
use std::time::Instant;

use sky_devices::block::simulated::Random;
use sky_devices::block::{FileOptions, FileStorage, Storage};
use sky_devices::idedup::FingerprintIndex;

use crate::error::Result;
use crate::progress;
use crate::results::Figures;
use crate::results::selfie::{Folder, failed};

/// Fingerprints of the large index. What matters is how many of them come to a byte of memory.
const LARGE: u32 = 10_000_000;
/// Bytes that each takes.
const ENTRY: usize = 40;
/// The study that preceded this code: a million of them, 8 MiB of memory, durable after each 50,000.
const SMALL: u32 = 1_000_000;
const SMALL_MEMORY: usize = 8 << 20;
const DURABLE: u32 = 50_000;
/// Memory while the large index is filled, which is not measured.
const FILLING: usize = 1 << 30;
const HITS: u32 = 20_000;
const MISSES: u32 = 200_000;

/// Fingerprint number `number`.
fn fingerprint(number: u32) -> [u8; 32] {
    let mut random = Random::new(u64::from(number) << 32);
    let mut bytes = [0; 32];
    bytes.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&random.bits().to_le_bytes()));
    bytes
}

/// An index on a file, and the file.
struct Measured {
    file: Arc<FileStorage>,
    index: FingerprintIndex,
    _folder: Folder,
    /// Fingerprints that it holds, from number 0 on.
    entries: u32,
}

impl Measured {
    fn new(entries: u32, memory: usize) -> Result<Self> {
        let folder = Folder::new()?;
        let options = FileOptions::new(folder.path("index"));
        let file = Arc::new(FileStorage::create(options).map_err(failed)?);
        let storage = Arc::clone(&file) as Arc<dyn Storage>;
        let index = FingerprintIndex::create(storage, entries, memory).map_err(failed)?;
        Ok(Self { file, index, _folder: folder, entries: 0 })
    }

    /// Inserts `count` more, durable after each `durable`. Answers how many seconds that took.
    fn insert(&mut self, count: u32, durable: u32) -> Result<f64> {
        let begun = Instant::now();
        for number in self.entries..self.entries + count {
            self.index.insert(fingerprint(number), number + 1).map_err(failed)?;
            if (number + 1 - self.entries).is_multiple_of(durable) {
                self.index.make_durable().map_err(failed)?;
            }
        }
        self.entries += count;
        self.index.make_durable().map_err(failed)?;
        Ok(begun.elapsed().as_secs_f64())
    }

    /// Brings all of them to their buckets: what inserting has put off. Answers how many seconds that took.
    fn settle(&mut self) -> Result<f64> {
        let begun = Instant::now();
        self.index.settle().map_err(failed)?;
        Ok(begun.elapsed().as_secs_f64())
    }

    /// Has other memory from now on, and has seen each bucket once.
    fn warm(mut self, memory: usize) -> Result<Self> {
        self.index = self.index.with_memory(memory).map_err(failed)?;
        let step = u64::MAX / self.index.buckets();
        let mut first = [0; 32];
        for bucket in 0..self.index.buckets() {
            first[..8].copy_from_slice(&(bucket * step + step / 2).to_le_bytes());
            self.index.find(first).map_err(failed)?;
        }
        Ok(self)
    }

    /// Microseconds and KiB read for each look-up of a fingerprint that is there, or is not.
    fn look_up(&mut self, count: u32, there: bool) -> Result<[f64; 2]> {
        let mut random = Random::new(7);
        let mut choose = || u32::try_from(random.below(self.entries.into())).unwrap_or(0);
        let numbers: Vec<u32> = (0..count).map(|_| choose()).collect();
        let absent = u32::MAX / 2;
        let names: Vec<_> = numbers
            .iter()
            .map(|number| fingerprint(if there { *number } else { absent + *number }))
            .collect();
        let (begun, before) = (Instant::now(), self.file.counts().read_bytes);
        for (name, number) in names.into_iter().zip(&numbers) {
            let found = self.index.find(name).map_err(failed)?;
            // One in some 10,000 buckets has lost its oldest.
            if found.is_some_and(|block| !there || block != number + 1) {
                return Err(failed(format!("fingerprint {number} is found where it is not")));
            }
        }
        let microseconds = begun.elapsed().as_secs_f64() * 1e6;
        let read = (self.file.counts().read_bytes - before) as f64 / 1024.0;
        Ok([microseconds, read].map(|value| value / f64::from(count)))
    }

    /// Hits and misses, under `prefix`.
    fn look_ups(&mut self, figures: &mut Figures, prefix: &str) -> Result<()> {
        let [hit, hit_kib] = self.look_up(HITS, true)?;
        let [miss, miss_kib] = self.look_up(MISSES, false)?;
        for (name, value) in
            [("hit_us", hit), ("hit_kib", hit_kib), ("miss_us", miss), ("miss_kib", miss_kib)]
        {
            figures.insert(format!("{prefix}.{name}"), value);
        }
        Ok(())
    }
}

pub(super) fn measure() -> Result<Figures> {
    let mut figures = Figures::new();
    let mut small = Measured::new(SMALL, SMALL_MEMORY)?;
    let inserting = small.insert(SMALL, DURABLE)?;
    // While some of them are in runs.
    small.look_ups(&mut figures, "index.study")?;
    let seconds = inserting + small.settle()?;
    figures.insert("index.study.inserts_per_second".into(), f64::from(SMALL) / seconds);
    drop(small);
    progress::note("filling an index of 10 million fingerprints");
    let need = LARGE as usize * ENTRY;
    // A tenth is left for what is inserted under measurement.
    let mut large = Measured::new(LARGE, FILLING)?;
    large.insert(LARGE / 10 * 9, u32::MAX)?;
    for (prefix, memory, inserts) in [("index", need / 100, 300_000), ("index.10pct", need / 10, 700_000)] {
        large = large.warm(memory)?;
        large.look_ups(&mut figures, prefix)?;
        let seconds = large.insert(inserts, DURABLE)? + large.settle()?;
        figures.insert(format!("{prefix}.inserts_per_second"), f64::from(inserts) / seconds);
    }
    Ok(figures)
}
