//! Figures 5 to 8 of the paper, measured here: throughput of writes that are each flushed, by requests of several sizes
//! from several threads; and a file that is read and written back.

use std::time::{Duration, Instant};

use super::device::Device;
use super::fio::{Found, Load};
use super::image::{Kind, RAW_SIZE, Served};
use crate::error::{Error, Result};
use crate::progress;
use crate::results::Figures;
use crate::results::chart::Point;

/// Rounds of everything, at most: where the disk is slow there are fewer, but one.
const ROUNDS: usize = 3;
/// How long the rounds of a figure may take.
const BUDGET: Duration = Duration::from_secs(100);
/// Bytes of a disk, as in the paper.
const SIZE: u64 = 300 << 30;
/// Bytes of the block device. Images that grow on it need less.
const DEVICE: u64 = 2 << 30;
/// As in the paper.
pub(super) const THREADS: [&str; 5] = ["1", "2", "4", "8", "16"];
/// What a run writes at most, in requests and in bytes, and how long it may take.
const REQUESTS: u64 = 2048;
const BYTES: u64 = 128 << 20;
const LIMIT: Duration = Duration::from_millis(300);

/// Kinds that a block device can hold. Of QED's images the file system below has to tell what was written.
const ON_DEVICE: [Kind; 4] = [Kind::Selfie, Kind::Qcow2, Kind::Qcow2Lazy, Kind::RawWritten];
const IN_FILE: [Kind; 6] =
    [Kind::Selfie, Kind::Qcow2, Kind::Qcow2Lazy, Kind::Qed, Kind::RawWritten, Kind::RawSparse];

/// Sequential writes of new images on a block device.
pub(super) fn sequential_on_device() -> Result<Figures> {
    on_device("selfie-fig5", "write", &[("64k", 64 << 10), ("512k", 512 << 10), ("4m", 4 << 20)])
}

/// Writes at random places.
pub(super) fn random_on_device() -> Result<Figures> {
    on_device("selfie-fig6", "randwrite", &[("4k", 4 << 10), ("512k", 512 << 10), ("4m", 4 << 20)])
}

/// Sequential writes of new images in files.
pub(super) fn sequential_in_file() -> Result<Figures> {
    let blocks = [("64k", 64 << 10), ("512k", 512 << 10), ("4m", 4 << 20)];
    sweep("selfie-fig7", "write", &blocks, &IN_FILE, None)
}

/// Writes at random places of images in files, of which the paper only tells.
pub(super) fn random_in_file() -> Result<Figures> {
    sweep("selfie-fig7-random", "randwrite", &[("4k", 4 << 10), ("64k", 64 << 10)], &IN_FILE, None)
}

fn on_device(figure: &str, pattern: &'static str, blocks: &[(&str, u64)]) -> Result<Figures> {
    let Some(device) = Device::new(DEVICE)? else {
        progress::note("no loop device can be had here; root can: left out");
        return Ok(Figures::new());
    };
    sweep(figure, pattern, blocks, &ON_DEVICE, Some(&device))
}

/// For each size of requests, round and kind a new image, to which more and more threads write.
fn sweep(
    figure: &str,
    pattern: &'static str,
    blocks: &[(&str, u64)],
    kinds: &[Kind],
    device: Option<&Device>,
) -> Result<Figures> {
    let mut found = vec![vec![[const { Vec::new() }; THREADS.len()]; kinds.len()]; blocks.len()];
    let rounds = in_rounds(figure, |round| {
        for (&(_, block), found) in blocks.iter().zip(&mut found) {
            // Nobody is always first.
            for at in (0..kinds.len()).map(|step| (round + step) % kinds.len()) {
                let rates = series(kinds[at], pattern, block, device)?;
                rates.into_iter().zip(&mut found[at]).for_each(|(rate, rates)| rates.push(rate));
            }
        }
        Ok(())
    })?;
    let mut figures = Figures::from([(format!("{figure}.rounds"), rounds)]);
    for ((panel, _), found) in blocks.iter().zip(&found) {
        for (kind, found) in kinds.iter().zip(found) {
            for (threads, rates) in THREADS.iter().zip(found) {
                let key = format!("{figure}.{panel}.{}.{threads}", kind.name());
                Point::of(rates).into_iter().for_each(|point| point.store(&mut figures, &key));
            }
        }
    }
    Ok(figures)
}

/// Does all rounds, or those that there is time for. Says how many.
fn in_rounds(figure: &str, mut measure: impl FnMut(usize) -> Result<()>) -> Result<f64> {
    let started = Instant::now();
    let mut done = 0;
    for round in 0..ROUNDS {
        progress::note(&format!("{figure}, round {}", round + 1));
        measure(round)?;
        done += 1;
        let next = started.elapsed() / done * (done + 1);
        if next > BUDGET {
            break;
        }
    }
    Ok(f64::from(done))
}

/// MB/s of each number of threads on a new image.
fn series(kind: Kind, pattern: &'static str, block: u64, device: Option<&Device>) -> Result<Vec<f64>> {
    let written = kind == Kind::RawWritten;
    let size = match (written, device) {
        (true, Some(_)) => DEVICE,
        (true, None) => RAW_SIZE,
        (false, _) => SIZE,
    };
    let served = Served::with(kind, size, device.map(Device::path))?;
    let load = Load { pattern, block, align: block, limit: LIMIT, ..Load::allocating(1, 0) };
    // What an image needs only once is not what is asked here.
    let mut loads = vec![Load { requests: (BYTES / 8 / block).min(REQUESTS / 8), seed: 99, ..load }];
    for (number, threads) in (1..).zip(THREADS) {
        let threads: u32 = threads.parse().map_err(|_| Error::Missing("a number of threads".into()))?;
        // Sequential runs have a part of the disk each. What has been written all over has no new parts.
        let part = size / (THREADS.len() as u64 + 1) / BYTES * BYTES;
        let span = (pattern == "write" && !written).then_some((number * part, part));
        let requests = ((BYTES / block).min(REQUESTS) / u64::from(threads)).max(2);
        loads.push(Load { threads, requests, span, seed: number, ..load });
    }
    let found = Load::run_all(&loads, &served)?;
    Ok(found.iter().skip(1).map(|found| rate(found, block)).collect())
}

fn rate(found: &Found, block: u64) -> f64 {
    found.count * block as f64 / 1e6 / found.seconds
}

/// What figure 8 compares: names in keys, kinds, how much of the data compresses.
const COPIES: [(&str, Kind, u32); 8] = [
    ("selfie_100", Kind::Selfie, 100),
    ("selfie_50", Kind::Selfie, 50),
    ("selfie_0", Kind::Selfie, 0),
    ("qcow2", Kind::Qcow2, 50),
    ("qcow2_lazy", Kind::Qcow2Lazy, 50),
    ("qed", Kind::Qed, 50),
    ("raw_written", Kind::RawWritten, 50),
    ("raw_sparse", Kind::RawSparse, 50),
];

/// Reads a file of a quarter of a GiB and writes it back to another place, with one flush at the end: seconds of each. Where it
/// lay is written first, which is not counted.
pub(super) fn copy() -> Result<Figures> {
    const BLOCK: u64 = 1 << 20;
    const LENGTH: u64 = RAW_SIZE / 4;
    let mut times = vec![(Vec::new(), Vec::new()); COPIES.len()];
    let rounds = in_rounds("selfie-fig8", |round| {
        for at in (0..COPIES.len()).map(|step| (round + step) % COPIES.len()) {
            let (_, kind, percent) = COPIES[at];
            let served = Served::with(kind, RAW_SIZE, None)?;
            // Of a hundred clusters so many compress, all of each.
            let (compressible_percent, piece) = match percent {
                100 => (50, 4096),
                other => (other, 2 * 65536),
            };
            let load = Load {
                pattern: "write",
                block: BLOCK,
                align: BLOCK,
                depth: 8,
                compressible_percent,
                piece,
                span: Some((0, LENGTH)),
                ..Load::allocating(1, LENGTH / BLOCK)
            };
            let read = Load { pattern: "read", ..load };
            let back = Load { span: Some((LENGTH, LENGTH)), ..load };
            let [_, read, back] = Load::run_all(&[load, read, back], &served)?[..] else { continue };
            times[at].0.push(read.seconds);
            times[at].1.push(back.seconds);
        }
        Ok(())
    })?;
    let mut figures = Figures::from([("selfie-fig8.rounds".into(), rounds)]);
    for ((name, ..), (reads, writes)) in COPIES.iter().zip(&times) {
        for (panel, seconds) in [("read", reads), ("write", writes)] {
            let key = format!("selfie-fig8.{panel}.{name}.seconds");
            Point::of(seconds).into_iter().for_each(|point| point.store(&mut figures, &key));
        }
    }
    Ok(figures)
}
