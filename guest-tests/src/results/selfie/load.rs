//! Load on a disk: random writes, each followed by a flush, from several threads; and what they cost.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sky_devices::block::simulated::Random;
use sky_devices::block::{
    BlockDevice, FileOptions, FileStorage, RawFile, RawOptions, Storage, StorageCounts,
};
use sky_devices::selfie::{CreateOptions, OpenOptions, Selfie, create};

use crate::error::{Error, Result};
use crate::paths;
use crate::results::Figures;

pub(super) const BLOCK: u64 = 4096;
pub(super) const CLUSTER: u64 = 65536;
/// Size of the disks that are written to.
pub(super) const SIZE: u64 = 8 << 30;
/// Requests that are counted.
const REQUESTS: u64 = 4000;

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Compresses well.
    Text,
    /// Does not.
    Noise,
}

/// A folder for images that goes when it is dropped.
#[derive(Debug)]
pub(in crate::results) struct Folder(tempfile::TempDir);

impl Folder {
    pub(in crate::results) fn new() -> Result<Self> {
        let target = paths::target();
        std::fs::create_dir_all(&target).map_err(Error::file("create", &target))?;
        let folder = tempfile::Builder::new().prefix("images-").tempdir_in(&target);
        Ok(Self(folder.map_err(Error::file("create a folder in", &target))?))
    }

    pub(in crate::results) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// Errors of the block layer as ours.
pub(in crate::results) fn failed(error: impl std::fmt::Display) -> Error {
    Error::Missing(format!("an image that works: {error}"))
}

/// A new image of [`SIZE`] bytes, and the file that it lies in.
pub(super) fn selfie(path: &Path, size: u64, options: OpenOptions) -> Result<(Arc<FileStorage>, Selfie)> {
    let storage = FileStorage::create(FileOptions::new(path)).map_err(failed)?;
    create(&storage, &CreateOptions::new(size)).map_err(failed)?;
    drop(storage);
    let storage = Arc::new(FileStorage::open(FileOptions::new(path)).map_err(failed)?);
    let image = Selfie::open(Arc::clone(&storage) as Arc<dyn Storage>, options, None).map_err(failed)?;
    Ok((storage, image))
}

/// A raw image all of whose blocks have been written.
pub(super) fn raw(path: &Path, size: u64) -> Result<RawFile> {
    let file = std::fs::File::create(path).map_err(Error::file("create", path))?;
    file.set_len(size).map_err(Error::file("enlarge", path))?;
    drop(file);
    let raw = RawFile::open(RawOptions::new(path)).map_err(failed)?;
    let piece = content(Content::Text, 1 << 20, &mut Random::new(1));
    for at in (0..size).step_by(piece.len()) {
        raw.write(at, &piece, &[]).map_err(failed)?;
    }
    raw.flush().map_err(failed)?;
    Ok(raw)
}

pub(super) fn content(kind: Content, length: u64, random: &mut Random) -> Vec<u8> {
    let words = (0..length.div_ceil(8)).map(|_| match kind {
        Content::Text => u64::from_le_bytes(*b"a text. ") + (random.bits() & 7),
        Content::Noise => random.bits(),
    });
    words.flat_map(u64::to_le_bytes).collect()
}

/// Writes `count` pieces of `length` bytes at random places, each into a cluster of its own, and flushes after each,
/// from `threads` threads. Gives how long each took with its flush.
pub(super) fn write(
    disk: &dyn BlockDevice,
    threads: u64,
    count: u64,
    length: u64,
    kind: Content,
) -> Result<Vec<Duration>> {
    let clusters = disk.geometry().size / CLUSTER;
    // A walk through all clusters, each once, in an order that looks random: their number is a power of two, and the
    // step is odd, near the golden ratio of it.
    let step = (clusters * 79 / 128) | 1;
    let next = AtomicU64::new(0);
    let worker = |seed: u64| -> Result<Vec<Duration>> {
        let mut random = Random::new(seed);
        let data = content(kind, length.max(BLOCK * 64), &mut random);
        let mut times = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return Ok(times);
            }
            let cluster = number * step % clusters;
            let inside =
                if length < CLUSTER { random.below((CLUSTER - length) / BLOCK + 1) * BLOCK } else { 0 };
            let from = usize::try_from(random.below(data.len() as u64 - length + 1) / 512 * 512).unwrap_or(0);
            let piece = &data[from..from + usize::try_from(length).unwrap_or(0)];
            let started = Instant::now();
            disk.write(cluster * CLUSTER + inside, piece, &[]).map_err(failed)?;
            disk.flush().map_err(failed)?;
            times.push(started.elapsed());
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|seed| scope.spawn(move || worker(seed + 1))).collect();
        let mut times = Vec::new();
        for thread in threads {
            let result = thread.join().map_err(|_| Error::Missing("a thread that does not panic".into()))?;
            times.extend(result?);
        }
        Ok(times)
    })
}

/// What requests cost the image's file, for each: writes and flushes for its sake, and those for zeros, summaries and
/// the zone table.
fn cost(folder: &Folder, length: u64, kind: Content) -> Result<[f64; 4]> {
    let path = folder.path("counted.selfie");
    let (storage, image) = selfie(&path, SIZE, OpenOptions::default())?;
    let before = storage.counts();
    write(&image, 1, REQUESTS, length, kind)?;
    let (after, stats) = (storage.counts(), image.stats());
    drop(image);
    std::fs::remove_file(&path).map_err(Error::file("remove", &path))?;
    let each = |count: u64| count as f64 / REQUESTS as f64;
    let StorageCounts { writes, flushes, .. } = after;
    let upkeep_writes = (writes - before.writes).saturating_sub(stats.writes);
    let upkeep_flushes = (flushes - before.flushes).saturating_sub(stats.syncs);
    Ok([stats.writes, stats.syncs, upkeep_writes, upkeep_flushes].map(each))
}

/// Writes and flushes of a request that allocates, without a server in between.
pub(super) fn counts() -> Result<Figures> {
    let folder = Folder::new()?;
    let small = cost(&folder, BLOCK, Content::Text)?;
    let large = cost(&folder, CLUSTER, Content::Text)?;
    let noise = cost(&folder, BLOCK, Content::Noise)?;
    Ok([
        ("writes_per_alloc_4k", small[0]),
        ("flushes_per_alloc_4k", small[1]),
        ("upkeep_writes_per_alloc_4k", small[2]),
        ("upkeep_flushes_per_alloc_4k", small[3]),
        ("writes_per_alloc_64k", large[0]),
        ("flushes_per_alloc_64k", large[1]),
        ("writes_per_incompressible_4k", noise[0]),
        ("flushes_per_incompressible_4k", noise[1]),
    ]
    .into_iter()
    .map(|(key, value)| (format!("engine.{key}"), value))
    .collect())
}
