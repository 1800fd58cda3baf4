//! Times, each beside what it is compared with: rounds take turns, and the median of all counts.

use std::ops::Range;
use std::time::{Duration, Instant};

use sky_devices::block::simulated::Random;
use sky_devices::block::{BlockDevice, Cache, RawFile, RawOptions};
use sky_devices::selfie::{OpenOptions, Zeroing};

use super::load::{BLOCK, CLUSTER, Content, Folder, SIZE, content, failed, raw, selfie, write};
use crate::error::{Error, Result};
use crate::results::Figures;

const ROUNDS: usize = 5;
const PAGE: usize = 4096;
/// Requests of a round, for each thread.
const REQUESTS: u64 = 1000;
/// Bytes that are read of one disk before it is the other one's turn.
const PART: usize = 64 << 20;
/// Size of raw images, all of which has to be written first, and of disks that are read.
const WRITTEN: u64 = 2 << 30;

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(f64::NAN, Duration::as_secs_f64)
}

/// Times of a round on a new image, which is removed afterwards.
fn on_selfie(folder: &Folder, options: &OpenOptions, threads: u64) -> Result<Vec<Duration>> {
    let path = folder.path("round.selfie");
    let (_, image) = selfie(&path, SIZE, options.clone())?;
    let times = write(&image, threads, REQUESTS * threads, BLOCK, Content::Text)?;
    drop(image);
    std::fs::remove_file(&path).map_err(Error::file("remove", &path))?;
    Ok(times)
}

/// Random writes of 4 KiB, each flushed, against a raw image that is written all over.
pub(super) fn against_raw() -> Result<Figures> {
    let folder = Folder::new()?;
    let raw = raw(&folder.path("written.raw"), WRITTEN)?;
    let mut figures = Figures::new();
    for threads in [1, 8] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            ours.extend(on_selfie(&folder, &OpenOptions::default(), threads)?);
            theirs.extend(write(&raw, threads, REQUESTS * threads, BLOCK, Content::Text)?);
        }
        figures.insert(format!("engine.vs_raw_written.4k_rand_t{threads}"), median(theirs) / median(ours));
    }
    Ok(figures)
}

/// What each of the format's ideas is worth: without it, on the same engine.
pub(super) fn ablation() -> Result<Figures> {
    let folder = Folder::new()?;
    let all = OpenOptions::default();
    let ways = [
        ("all", all.clone()),
        ("tables", OpenOptions { embed: false, ..all.clone() }),
        ("ordered_tables", OpenOptions { embed: false, ordered: true, ..all.clone() }),
        ("allocated", OpenOptions { zeroing: Zeroing::Allocated, ..all.clone() }),
        ("sparse", OpenOptions { zeroing: Zeroing::Sparse, ..all }),
    ];
    let mut figures = Figures::new();
    for threads in [1, 8] {
        let mut times = vec![Vec::new(); ways.len()];
        for _ in 0..ROUNDS {
            for ((_, options), times) in ways.iter().zip(&mut times) {
                times.extend(on_selfie(&folder, options, threads)?);
            }
        }
        for ((name, _), times) in ways.iter().zip(times) {
            figures.insert(format!("ablation.{name}.t{threads}_us"), median(times) * 1e6);
        }
    }
    Ok(figures)
}

/// All but a page of `memory`, on a page boundary as the memory of guests is: it need not be copied.
fn aligned(memory: &mut [u8]) -> &mut [u8] {
    let (start, length) = (memory.as_ptr().align_offset(PAGE), memory.len() - PAGE);
    &mut memory[start..start + length]
}

/// Reads a part of a disk from its beginning to its end, a MiB at a time.
fn read_through(disk: &dyn BlockDevice, part: Range<u64>) -> Result<Vec<Duration>> {
    let mut memory = vec![0; (1 << 20) + PAGE];
    let buffer = aligned(&mut memory);
    let mut times = Vec::new();
    for at in part.step_by(buffer.len()) {
        let started = Instant::now();
        disk.read(at, buffer, &[]).map_err(failed)?;
        times.push(started.elapsed());
    }
    Ok(times)
}

/// Reads blocks anywhere.
fn read_around(disk: &dyn BlockDevice, seed: u64) -> Result<Vec<Duration>> {
    let (mut random, mut memory) = (Random::new(seed), vec![0; 2 * PAGE]);
    let buffer = aligned(&mut memory);
    let mut times = Vec::new();
    for _ in 0..4 * REQUESTS {
        let at = random.below(WRITTEN / BLOCK) * BLOCK;
        let started = Instant::now();
        disk.read(at, buffer, &[]).map_err(failed)?;
        times.push(started.elapsed());
    }
    Ok(times)
}

/// Reads of a disk that was written from its beginning to its end, against a raw image, both past the page cache.
pub(super) fn reads() -> Result<Figures> {
    let folder = Folder::new()?;
    let (_, image) = selfie(&folder.path("read.selfie"), WRITTEN, OpenOptions::default())?;
    let piece = content(Content::Text, 16 * CLUSTER, &mut Random::new(1));
    for at in (0..WRITTEN).step_by(piece.len()) {
        image.write(at, &piece, &[]).map_err(failed)?;
    }
    image.flush().map_err(failed)?;
    drop(raw(&folder.path("read.raw"), WRITTEN)?);
    let options = RawOptions { cache: Cache::Direct, ..RawOptions::new(folder.path("read.raw")) };
    let direct = RawFile::open(options);
    let raw = direct.map_err(failed)?;
    let (mut ours, mut theirs) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    for round in 0..ROUNDS as u64 {
        for from in (0..WRITTEN).step_by(PART) {
            let part = from..from + PART as u64;
            ours.0.extend(read_through(&image, part.clone())?);
            theirs.0.extend(read_through(&raw, part)?);
        }
        ours.1.extend(read_around(&image, round)?);
        theirs.1.extend(read_around(&raw, round)?);
    }
    Ok(Figures::from([
        ("engine.read_vs_raw.seq".into(), median(theirs.0) / median(ours.0)),
        ("engine.read_vs_raw.rand".into(), median(theirs.1) / median(ours.1)),
    ]))
}
