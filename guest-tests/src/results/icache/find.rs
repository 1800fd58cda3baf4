//! `find` of a name that is not there, in the sources of a kernel, between scans that read all of them.

use sky_devices::block::simulated::{Latency, Seek};

use super::policies::Classless;
use super::replay::{Disks, METADATA, NoCache, Ours, System, Theirs};
use super::trace::{BLOCK, Phase, Trace};
use super::workloads::Workload;
use crate::error::{Error, Result};
use crate::progress;
use crate::results::Figures;

/// Sizes of the cache, in MiB.
pub(super) const SIZES: [&str; 9] = ["8", "16", "24", "32", "48", "64", "128", "512", "2048"];
/// `find`s, with a scan between two. The first is not counted: nothing is cached.
const FINDS: usize = 5;
/// The size at which other disks are tried: the metadata fits and little else.
const FITTING: &str = "48";

/// The disks of the paper, as far as it names them.
pub(super) fn disks() -> Disks {
    Disks { fast: Latency::paper_ssd(), slow: Latency::hdd_5400() }
}

/// The slow one, with the image from its first track to its last.
fn full_stroke(blocks: u32) -> Latency {
    let Latency { seek, .. } = disks().slow;
    Latency { seek: Seek { stroke: u64::from(blocks) * BLOCK, ..seek }, ..disks().slow }
}

/// A size of the charts, in bytes.
pub(super) fn size_in_bytes(mebibytes: &str) -> Result<u64> {
    let number: u64 = mebibytes.parse().map_err(|_| Error::Missing(format!("{mebibytes} is no size")))?;
    Ok(number << 20)
}

/// What a cache made of it.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    /// Simulated seconds of a `find`, on average.
    seconds: f64,
    /// Blocks of a hundred that a `find` found in the cache.
    hits: f64,
    /// The same of everything, the first `find` and the scans included.
    all_hits: f64,
}

fn run(system: &mut dyn System, trace: &Trace) -> Result<Found> {
    let [find, scan] = [trace.phase("find")?, trace.phase("scan")?];
    let blocks = |phase: &Phase| phase.requests.iter().map(|request| f64::from(request.count)).sum::<f64>();
    let mut play = |phase: &Phase| -> Result<(f64, f64)> {
        let before = (system.seconds(), system.hits());
        phase.requests.iter().try_for_each(|&request| system.request(request))?;
        Ok((system.seconds() - before.0, (system.hits() - before.1) as f64))
    };
    let (_, mut all) = play(find)?;
    let mut found = Found::default();
    for _ in 1..FINDS {
        all += play(scan)?.1;
        let (seconds, hits) = play(find)?;
        found.seconds += seconds;
        found.hits += hits;
    }
    all += found.hits;
    let warm = FINDS as f64 - 1.0;
    Ok(Found {
        seconds: found.seconds / warm,
        hits: 100.0 * found.hits / (warm * blocks(find)),
        all_hits: 100.0 * all / (FINDS as f64 * blocks(find) + warm * blocks(scan)),
    })
}

/// Every cache at every size.
pub(super) fn measure() -> Result<Figures> {
    let trace = Workload::Sources.trace()?;
    let find = trace.phase("find")?;
    let mut figures = Figures::from([
        ("find.requests".into(), find.requests.len() as f64),
        ("find.mib".into(), find.requests.iter().map(|one| f64::from(one.count)).sum::<f64>() / 256.0),
        ("find.metadata_percent".into(), metadata_percent(&trace, find)),
    ]);
    let alone = run(&mut NoCache::new(&trace, disks()), &trace)?;
    let (mut best_over_lru, mut worst_over_best) = (0_f64, f64::INFINITY);
    for size in SIZES {
        progress::note(&format!("find with a cache of {size} MiB"));
        let mut store = |name: &str, found: Found| {
            figures.insert(format!("icache-find.seconds.{name}.{size}"), found.seconds);
            figures.insert(format!("icache-find-hits.hits.{name}.{size}"), found.hits);
            figures.insert(format!("find.all_hits_percent.{name}.{size}"), found.all_hits);
        };
        let mut ours = Ours::new(size_in_bytes(size)?, &trace, disks())?;
        let capacity = ours.capacity();
        let found = run(&mut ours, &trace)?;
        store("ours", found);
        store("none", alone);
        let mut best = f64::INFINITY;
        for policy in Classless::ALL {
            let theirs = run(&mut Theirs::new(policy, capacity, &trace, disks()), &trace)?;
            store(policy.key(), theirs);
            best = best.min(theirs.seconds);
            if policy == Classless::Lru {
                best_over_lru = best_over_lru.max(theirs.seconds / found.seconds);
            }
        }
        worst_over_best = worst_over_best.min(best / found.seconds);
        figures.insert(format!("find.capacity_blocks.{size}"), f64::from(capacity));
    }
    for (name, slow) in [("hdd_7200", Latency::hdd_7200()), ("full_stroke", full_stroke(trace.blocks()))] {
        progress::note(&format!("find before another disk: {name}"));
        let disks = Disks { slow, ..disks() };
        let mut ours = Ours::new(size_in_bytes(FITTING)?, &trace, disks)?;
        let capacity = ours.capacity();
        let ours = run(&mut ours, &trace)?;
        let lru = run(&mut Theirs::new(Classless::Lru, capacity, &trace, disks), &trace)?;
        figures.insert(format!("find.over_lru_{FITTING}.{name}"), lru.seconds / ours.seconds);
    }
    figures.insert("find.best_over_lru".into(), best_over_lru);
    figures.insert("find.worst_over_best_classless".into(), worst_over_best);
    Ok(figures)
}

/// How much of what a phase reads is metadata, in hundredths.
fn metadata_percent(trace: &Trace, phase: &Phase) -> f64 {
    let classes =
        phase.requests.iter().flat_map(|request| request.blocks()).map(|block| trace.classes[block as usize]);
    let (mut metadata, mut all) = (0.0, 0.0);
    for class in classes {
        metadata += f64::from(u8::from(class == METADATA));
        all += 1.0;
    }
    100.0 * metadata / all
}
