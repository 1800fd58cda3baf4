//! What a block costs the processor, by what becomes of it: on a medium that is memory, so that nobody waits.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use sky_devices::block::{BlockDevice, Storage};
use sky_devices::idedup::{CreateOptions, Hints, Idedup, OpenOptions, create};
use sky_devices::io_class::IoTag;

use super::memory::Memory;
use super::streams::{BATCH, BLOCK, REQUEST, Work, request};
use crate::error::Result;
use crate::results::Figures;
use crate::results::selfie::failed;

/// Bytes of a file.
const FILE: u64 = 64 << 20;
/// Bytes of the image: four files, and what it needs beside them.
const MEDIUM: usize = 320 << 20;
/// Requests of a file.
const REQUESTS: u64 = FILE / REQUEST as u64;
/// The best of several, for each request: other work on the machine can only make it slower.
const ROUNDS: usize = 8;

/// How long each of the requests took that make up a file, in microseconds.
type Times = Vec<f64>;

/// Does one after the other.
fn each(count: u64, mut work: impl FnMut(u64) -> Result<()>) -> Result<Times> {
    (0..count)
        .map(|number| {
            let begun = Instant::now();
            work(number)?;
            Ok(begun.elapsed().as_secs_f64() * 1e6)
        })
        .collect()
}

/// An empty image in memory.
fn image(medium: &Arc<Memory>, hints: Option<Hints>) -> Result<Idedup> {
    let options = CreateOptions { capacity: Some(3 * FILE), ..CreateOptions::new(4 * FILE) };
    create(&**medium, &options).map_err(failed)?;
    let options = OpenOptions { hints, ..OpenOptions::default() };
    Idedup::open(Arc::clone(medium) as Arc<dyn Storage>, options).map_err(failed)
}

fn place(file: u64, number: u64) -> u64 {
    file * FILE + number * REQUEST as u64
}

/// Writes a file and flushes it.
fn write(image: &Idedup, file: u64, data: &[Vec<u8>], tags: &[IoTag]) -> Result<Times> {
    each(REQUESTS + 1, |number| match usize::try_from(number).ok().and_then(|at| data.get(at)) {
        Some(bytes) => image.write(place(file, number), bytes, tags).map_err(failed),
        None => image.flush().map_err(failed),
    })
}

fn read(image: &Idedup, file: u64) -> Result<Times> {
    let mut bytes = vec![0; REQUEST];
    each(REQUESTS, |number| image.read(place(file, number), &mut bytes, &[]).map_err(failed))
}

/// One round: names and times.
fn round(medium: &Arc<Memory>, data: &[Vec<u8>], noise: &[Vec<u8>]) -> Result<Vec<(&'static str, Times)>> {
    let tags = |work: Work| (0..BATCH).map(|number| work.tag(number)).collect::<Vec<_>>();
    let request = |number: u64| &data[usize::try_from(number).unwrap_or(0)];
    let mut found = Vec::new();
    let mut tell = |name, times| found.push((name, times));
    let hash = |block: &[u8]| _ = black_box(blake3::hash(block));
    tell(
        "blake3",
        each(REQUESTS, |number| {
            request(number).chunks_exact(BLOCK).for_each(hash);
            Ok(())
        })?,
    );
    tell("medium", each(REQUESTS, |number| medium.write(place(1, number), request(number)).map_err(failed))?);
    let disk = image(medium, Some(Hints::default()))?;
    tell("new", write(&disk, 0, data, &[])?);
    tell("duplicate", write(&disk, 1, data, &[])?);
    tell("unique", write(&disk, 2, noise, &tags(Work::Encrypt))?);
    tell("read", read(&disk, 0)?);
    // All of the file is remembered: it is no longer than that.
    tell("copy", write(&disk, 3, data, &tags(Work::Copy))?);
    let stats = disk.stats();
    let file = FILE / BLOCK as u64;
    let counts = (stats.answered_copies, stats.unique_blocks, stats.duplicate_blocks);
    if counts != (file, file, 2 * file) {
        return Err(failed(format!("copies, unique and duplicate blocks are {counts:?}")));
    }
    drop(disk);
    let disk = image(medium, None)?;
    tell("new_plain", write(&disk, 0, data, &[])?);
    tell("read_plain", read(&disk, 0)?);
    Ok(found)
}

pub(super) fn measure() -> Result<Figures> {
    let medium = Arc::new(Memory::new(MEDIUM));
    let content =
        |work: Work| (0..REQUESTS).map(|number| request(work.seed(), number * BATCH)).collect::<Vec<_>>();
    let (data, noise) = (content(Work::Copy), content(Work::Encrypt));
    let mut best: BTreeMap<&str, Times> = BTreeMap::new();
    for _ in 0..ROUNDS {
        for (name, times) in round(&medium, &data, &noise)? {
            let best = best.entry(name).or_insert_with(|| times.clone());
            best.iter_mut().zip(times).for_each(|(best, time)| *best = best.min(time));
        }
    }
    let of = |name: &str| {
        best.get(name).map_or(f64::NAN, |times| times.iter().sum::<f64>() / (FILE / BLOCK as u64) as f64)
    };
    let mut figures = Figures::new();
    // What a new block costs more where blocks are remembered: the short name, and to see that nothing has it.
    let short_name = of("new") - of("new_plain");
    figures.insert("cpu_us.short_name".into(), short_name);
    let (blake3, medium) = (of("blake3"), of("medium"));
    for (name, others) in [
        ("new", blake3 + short_name + medium),
        ("duplicate", blake3 + short_name),
        ("unique", medium),
        ("copy", short_name),
    ] {
        figures.insert(format!("cpu_us.{name}_all"), of(name));
        figures.insert(format!("cpu_us.{name}"), of(name) - others);
    }
    for name in ["blake3", "medium", "read", "read_plain"] {
        figures.insert(format!("cpu_us.{name}"), of(name));
    }
    Ok(figures)
}
