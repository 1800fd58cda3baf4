//! How long Selfie takes beside the others, in rounds in which all take turns.

use super::fio::{Found, Load};
use super::image::{Kind, RAW_SIZE, Served};
use crate::error::Result;
use crate::progress;
use crate::results::Figures;

/// Rounds of every comparison.
const ROUNDS: usize = 5;
/// And of those of reads, which are short.
const READ_ROUNDS: usize = 11;
/// Writes of a round, over all threads.
const WRITES: u64 = 4000;

/// Runs a load on a new image of each kind, round by round.
fn rounds(kinds: &[Kind], load: Load) -> Result<Vec<Vec<Found>>> {
    (0..ROUNDS)
        .map(|round| {
            // Nobody is always first.
            let mut found = vec![None; kinds.len()];
            for step in 0..kinds.len() {
                let at = (round + step) % kinds.len();
                let Some(&kind) = kinds.get(at) else { continue };
                let served = Served::new(kind)?;
                // What an image needs only once is not what is asked here.
                Load { requests: 64 / u64::from(load.threads), seed: 64, ..load }.run(&served)?;
                found[at] = Some(load.run(&served)?);
            }
            Ok(found.into_iter().flatten().collect())
        })
        .collect()
}

/// The median of what `figure` says of each round.
fn median(rounds: &[Vec<Found>], figure: impl Fn(&[Found]) -> Option<f64>) -> f64 {
    let mut values: Vec<f64> = rounds.iter().filter_map(|found| figure(found)).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).map_or(f64::NAN, |value| (value * 1000.0).round() / 1000.0)
}

/// Random writes that allocate, each with a flush, by one writer and by eight.
pub(super) fn writes() -> Result<Figures> {
    let mut figures = Figures::new();
    for threads in [1, 8] {
        progress::note(&format!("{threads} writers, {ROUNDS} rounds"));
        let found = rounds(&Kind::ALL, Load::allocating(threads, WRITES / u64::from(threads)))?;
        let pattern = format!("4k_rand_t{threads}");
        for (at, kind) in Kind::ALL.iter().enumerate() {
            let name = kind.name();
            figures
                .insert(format!("{name}.{pattern}_p50_us"), median(&found, |round| Some(round.get(at)?.p50)));
            figures
                .insert(format!("{name}.{pattern}_iops"), median(&found, |round| Some(round.get(at)?.iops)));
            if *kind != Kind::Selfie {
                let p50 = median(&found, |round| Some(round.get(at)?.p50 / round.first()?.p50));
                let iops = median(&found, |round| Some(round.first()?.iops / round.get(at)?.iops));
                figures.insert(format!("vs_{name}.{pattern}"), p50);
                figures.insert(format!("vs_{name}.{pattern}_iops"), iops);
            }
        }
    }
    Ok(figures)
}

/// The same by one writer with data that does not compress.
pub(super) fn incompressible() -> Result<Figures> {
    let load = Load { compressible_percent: 0, ..Load::allocating(1, WRITES) };
    let found = rounds(&[Kind::Selfie, Kind::Qcow2], load)?;
    let ratio = median(&found, |round| Some(round.get(1)?.p50 / round.first()?.p50));
    Ok(Figures::from([("incompressible_vs_qcow2".into(), ratio)]))
}

/// Reads of a disk that was written from beginning to end, against a raw one behind the server that its users have, and
/// behind ours.
pub(super) fn reads() -> Result<Figures> {
    let write = Load {
        pattern: "write",
        block: 1 << 20,
        align: 1 << 20,
        depth: 8,
        span: Some((0, RAW_SIZE)),
        ..Load::allocating(1, RAW_SIZE >> 20)
    };
    let kinds = [Kind::Selfie, Kind::RawWritten, Kind::RawSky];
    let served = kinds.iter().map(|&kind| Served::new(kind)).collect::<Result<Vec<_>>>()?;
    served.iter().try_for_each(|served| write.run(served).map(drop))?;
    let mut figures = Figures::new();
    for (key, pattern, block, requests) in
        [("seq", "read", 262_144, RAW_SIZE / 262_144), ("rand", "randread", 4096, 20_000)]
    {
        let load = Load { pattern, block, align: block, requests, ..write };
        let mut found = Vec::new();
        for round in 0..READ_ROUNDS {
            let mut results = vec![None; served.len()];
            for step in 0..served.len() {
                let at = (round + step) % served.len();
                results[at] = Some(load.run(&served[at])?);
            }
            found.push(results.into_iter().flatten().collect());
        }
        for (at, name) in [(1, "read_vs_raw"), (2, "read_vs_raw_sky")] {
            let ratio = median(&found, |round| Some(round.first()?.iops / round.get(at)?.iops));
            figures.insert(format!("{name}.{key}"), ratio);
        }
    }
    Ok(figures)
}
