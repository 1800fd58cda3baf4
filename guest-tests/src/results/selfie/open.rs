//! Opening an image that was not closed, and what its map takes.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sky_devices::block::simulated::Random;
use sky_devices::block::{BlockDevice, FileOptions, FileStorage, Storage};
use sky_devices::selfie::{OpenOptions, Selfie, Summaries, Zeroing};

use super::load::{BLOCK, CLUSTER, Content, Folder, content, failed, selfie};
use crate::error::Result;
use crate::progress;
use crate::results::Figures;
use crate::results::chart::Point;

/// Size of the paper's largest image (figure 10).
const SIZE: u64 = 128 << 30;
const THREADS: u64 = 4;
const OPENS: usize = 5;

/// Writes the clusters of a range, of each only the block with the mapping, and makes them durable.
fn fill(image: &Selfie, range: Range<u64>) -> Result<()> {
    let data = content(Content::Text, BLOCK, &mut Random::new(1));
    let (clusters, first) = ((range.end - range.start) / CLUSTER, range.start / CLUSTER);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let data = &data;
                scope.spawn(move || {
                    let mut own =
                        first + thread * clusters / THREADS..first + (thread + 1) * clusters / THREADS;
                    own.try_for_each(|cluster| image.write(cluster * CLUSTER, data, &[]))
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(written) => written.map_err(failed),
            Err(_) => Err(failed("a thread panicked")),
        })
    })?;
    image.flush().map_err(failed)
}

/// Opens an image that was not closed, and says how long that took. The page cache takes no part.
fn reopen(path: &Path, options: &OpenOptions) -> Result<(Selfie, f64)> {
    let storage = Arc::new(FileStorage::open(FileOptions::new(path)).map_err(failed)?);
    let started = Instant::now();
    let image = Selfie::open(storage as Arc<dyn Storage>, options.clone(), None).map_err(failed)?;
    Ok((image, started.elapsed().as_secs_f64()))
}

/// Fills an image of 128 GiB, leaves it as a crash does, and opens it.
pub(super) fn recovery() -> Result<Figures> {
    let folder = Folder::new()?;
    let path = folder.path("large.selfie");
    // The zones are holes: 128 GiB of zeros would tell nothing.
    let options = OpenOptions { zeroing: Zeroing::Sparse, ..OpenOptions::default() };
    let (_, image) = selfie(&path, SIZE, options.clone())?;
    fill(&image, 0..SIZE)?;
    drop(image);
    let mut best = f64::INFINITY;
    let mut memory = 0;
    for _ in 0..OPENS {
        let (image, seconds) = reopen(&path, &options)?;
        best = best.min(seconds);
        memory = image.info().memory;
    }
    let mib_per_tib = memory as f64 / f64::from(1 << 20) * 8.0;
    Ok(Figures::from([("recovery_128g_seconds".into(), best), ("mib_per_mapped_tib".into(), mib_per_tib)]))
}

/// GiB of the images of figure 10.
pub(super) const SIZES: [&str; 7] = ["2", "4", "8", "16", "32", "64", "128"];
/// What the paper has of it, in seconds for 128 GiB.
const PAPER: [(&str, f64); 3] = [("shared", 1.9), ("own", 11.6), ("none", 21.0 * 60.0)];

/// Opens images of several sizes, with all ways to collect mappings.
pub(super) fn sizes() -> Result<Figures> {
    // Without summaries each cluster is looked at: a few sizes show where that leads.
    let ways = [
        ("shared", Summaries::Shared, SIZES.len(), 60),
        ("own", Summaries::Own, 5, 15),
        ("none", Summaries::None, 3, 15),
    ];
    let mut figures = Figures::new();
    for (name, summaries, count, seconds) in ways {
        let end_of_filling = Instant::now() + Duration::from_secs(seconds);
        progress::note(&format!("selfie-fig10, {name}"));
        let folder = Folder::new()?;
        let path = folder.path("growing.selfie");
        let options = OpenOptions { zeroing: Zeroing::Sparse, summaries, ..OpenOptions::default() };
        let mut image = selfie(&path, SIZE, options.clone())?.1;
        let mut filled = 0;
        for gib in SIZES.iter().take(count) {
            if Instant::now() > end_of_filling {
                progress::note(&format!("selfie-fig10, {name}: this disk is too slow for {gib} GiB"));
                break;
            }
            let end = gib.parse::<u64>().map_err(failed)? << 30;
            fill(&image, filled..end)?;
            filled = end;
            let mut seconds = Vec::new();
            for _ in 0..OPENS {
                drop(image);
                let (reopened, time) = reopen(&path, &options)?;
                image = reopened;
                seconds.push(time);
            }
            let key = format!("selfie-fig10.open.{name}.{gib}");
            Point::of(&seconds).into_iter().for_each(|point| point.store(&mut figures, &key));
        }
    }
    figures.extend(PAPER.map(|(name, seconds)| (format!("selfie-fig10.open.paper_{name}.128"), seconds)));
    Ok(figures)
}
