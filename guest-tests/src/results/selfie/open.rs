//! Opening an image that was not closed, and what its map takes.

use std::sync::Arc;
use std::time::Instant;

use sky_devices::block::{BlockDevice, FileOptions, FileStorage, Storage};
use sky_devices::selfie::{OpenOptions, Selfie, Zeroing};

use super::load::{BLOCK, CLUSTER, Content, Folder, content, failed, selfie};
use crate::error::Result;
use crate::results::Figures;

/// Size of the paper's largest image (figure 10).
const SIZE: u64 = 128 << 30;
const THREADS: u64 = 4;
const OPENS: usize = 5;

/// Fills an image of 128 GiB, of each cluster only the block with the mapping, leaves it as a crash does, and opens it.
/// The page cache takes no part.
pub(super) fn recovery() -> Result<Figures> {
    let folder = Folder::new()?;
    let path = folder.path("large.selfie");
    // The zones are holes: 128 GiB of zeros would tell nothing.
    let options = OpenOptions { zeroing: Zeroing::Sparse, ..OpenOptions::default() };
    let (_, image) = selfie(&path, SIZE, options.clone())?;
    let data = content(Content::Text, BLOCK, &mut sky_devices::block::simulated::Random::new(1));
    let clusters = SIZE / CLUSTER;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (image, data) = (&image, &data);
                scope.spawn(move || {
                    let own = thread * clusters / THREADS..(thread + 1) * clusters / THREADS;
                    own.into_iter().try_for_each(|cluster| image.write(cluster * CLUSTER, data, &[]))
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(written) => written.map_err(failed),
            Err(_) => Err(failed("a thread panicked")),
        })
    })?;
    image.flush().map_err(failed)?;
    drop(image);
    let mut best = f64::INFINITY;
    let mut memory = 0;
    for _ in 0..OPENS {
        let storage = Arc::new(FileStorage::open(FileOptions::new(&path)).map_err(failed)?);
        let started = Instant::now();
        let image = Selfie::open(storage as Arc<dyn Storage>, options.clone(), None).map_err(failed)?;
        best = best.min(started.elapsed().as_secs_f64());
        memory = image.info().memory;
    }
    let mib_per_tib = memory as f64 / f64::from(1 << 20) * 8.0;
    Ok(Figures::from([("recovery_128g_seconds".into(), best), ("mib_per_mapped_tib".into(), mib_per_tib)]))
}
