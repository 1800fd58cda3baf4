//! `find` of a name that is not there, in the sources of a kernel, between scans that read all of them.
//!
//! The paper has 6 GB of sources and bcache below. Here it is one tree of Linux 6.1, 1.3 GB on ext4, and caches are smaller
//! in proportion; the trace is of this machine's kernel, both programs each time with nothing in memory.

use std::path::{Path, PathBuf};
use std::process::Command;

use sky_devices::block::simulated::Latency;

use super::record::Recorder;
use super::replay::{Disks, METADATA, NoCache, Ours, System, Theirs};
use super::trace::{Phase, Trace};
use super::{ext4, policies::Classless};
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::results::Figures;
use crate::{cache, command, packages, paths, progress};

/// Sizes of the cache, in MiB.
pub(super) const SIZES: [&str; 9] = ["8", "16", "24", "32", "48", "64", "128", "512", "2048"];
/// `find`s, with a scan between two. The first is not counted: nothing is cached.
const FINDS: usize = 5;
/// Of the image, in MiB.
const IMAGE: u64 = 2048;
/// To be changed when the trace is made in another way.
const VERSION: u32 = 1;

/// The disks of the paper, as far as it names them.
pub(super) fn disks() -> Disks {
    Disks { fast: Latency::paper_ssd(), slow: Latency::hdd_5400() }
}

/// What the programs ask of a disk, recorded the first time.
pub(super) fn trace() -> Result<Trace> {
    let path = paths::target().join("traces").join(format!("find-{VERSION}.trace"));
    Trace::load(&cache::once(&path, record)?)
}

fn record(partial: &Path) -> Result<()> {
    let parent = partial.parent().unwrap_or(partial);
    let dir = tempfile::tempdir_in(parent).map_err(Error::file("create a directory in", parent))?;
    let sources = dir.path().join("sources");
    packages::linux_sources(&sources)?;
    progress::note("making an image of them");
    let disk = Disk::ext4(dir.path().join("sources.img"), IMAGE, Some(&sources))?;
    let classes = ext4::classes(disk.path(), 0)?;
    let recorder = Recorder::new(disk.path())?;
    progress::note("recording find and tar");
    let find = recorder.phase("find", "ro", |root| {
        command::run(Command::new("find").arg(root).args(["-name", "missing"])).map(drop)
    })?;
    let scan = recorder.phase("scan", "ro", read_all)?;
    Trace { classes, phases: vec![find, scan] }.save(partial)
}

/// As a backup does. tar would not read what it writes to `/dev/null`.
fn read_all(root: &Path) -> Result<()> {
    let null = std::fs::File::create("/dev/null").map_err(Error::file("open", PathBuf::from("/dev/null")))?;
    let mut tar = Command::new("tar");
    tar.args(["-c", "-f", "-", "-C"]).arg(root).arg(".").stdout(std::process::Stdio::piped());
    let spawned = |source| Error::Spawn { program: "tar".into(), source };
    let mut child = tar.spawn().map_err(spawned)?;
    if let Some(mut output) = child.stdout.take() {
        std::io::copy(&mut output, &mut &null).map_err(spawned)?;
    }
    let status = child.wait().map_err(spawned)?;
    match status.success() {
        true => Ok(()),
        false => Err(Error::Failed { program: "tar".into(), status, output: String::new() }),
    }
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
    let trace = trace()?;
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
        let bytes = size.parse::<u64>().map_err(|_| Error::Missing("a size".into()))? << 20;
        let mut store = |name: &str, found: Found| {
            figures.insert(format!("icache-find.seconds.{name}.{size}"), found.seconds);
            figures.insert(format!("icache-find-hits.hits.{name}.{size}"), found.hits);
            figures.insert(format!("find.all_hits_percent.{name}.{size}"), found.all_hits);
        };
        let mut ours = Ours::new(bytes, &trace, disks())?;
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
