//! How many blocks a set of Debian images takes, against a naive set of their hashes.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sky_devices::block::BlockDevice;
use sky_devices::block::Storage;
use sky_devices::block::simulated::{Latency, SimulatedDisk, SimulatedOptions};
use sky_devices::idedup::{CreateOptions, Idedup, OpenOptions, create};

use super::streams::BLOCK;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::packages::{Flavour, Kernel, rootfs};
use crate::results::Figures;
use crate::results::selfie::{Folder, failed};

/// Bytes that are written at a time.
const REQUEST: usize = 1 << 20;

/// ext4 images: a root with its programs, the same root on a larger disk, and the files of three kernels.
fn images(folder: &Folder) -> Result<Vec<PathBuf>> {
    let root = Disk::existing(rootfs()?);
    let tree = folder.path("root");
    fs::create_dir_all(&tree).map_err(Error::file("create", &tree))?;
    root.extract("/usr", &tree)?;
    let mut images = vec![root.path().to_path_buf()];
    let mut made = |name: &str, mebibytes: u64, contents: &Path| -> Result<()> {
        images.push(Disk::ext4(folder.path(name), mebibytes, Some(contents))?.path().to_path_buf());
        Ok(())
    };
    made("root.img", 160, &tree)?;
    for flavour in [Flavour::Cloud61, Flavour::Cloud612, Flavour::Lab] {
        let kernel = Kernel::get(flavour)?;
        made(flavour.name(), 768, &kernel.modules())?;
    }
    Ok(images)
}

/// Calls `each` with the pieces of an image, none of which is longer than [`REQUEST`].
fn pieces(path: &Path, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut file = File::open(path).map_err(Error::file("open", path))?;
    loop {
        let mut piece = Vec::with_capacity(REQUEST);
        let limited = file.by_ref().take(REQUEST as u64).read_to_end(&mut piece);
        limited.map_err(Error::file("read", path))?;
        if piece.is_empty() {
            return Ok(());
        }
        each(&piece)?;
    }
}

pub(super) fn measure() -> Result<Figures> {
    let folder = Folder::new()?;
    let images = images(&folder)?;
    let sizes = images
        .iter()
        .map(|path| fs::metadata(path).map(|file| file.len()).map_err(Error::file("look at", path)));
    let size: u64 = sizes.collect::<Result<Vec<_>>>()?.iter().sum();
    let options = SimulatedOptions { latency: Latency::default(), record: false, ..SimulatedOptions::file() };
    let disk = Arc::new(SimulatedDisk::new(options));
    create(&*disk, &CreateOptions::new(size.next_multiple_of(BLOCK as u64))).map_err(failed)?;
    let disk = Idedup::open(disk as Arc<dyn Storage>, OpenOptions::default()).map_err(failed)?;
    let (mut offset, mut there, mut different) = (0, 0_u64, HashSet::new());
    for path in &images {
        pieces(path, |piece| {
            for block in piece.chunks(BLOCK).filter(|block| block.iter().any(|byte| *byte != 0)) {
                there += 1;
                different.insert(*blake3::hash(block).as_bytes());
            }
            disk.write(offset, piece, &[]).map_err(failed)?;
            offset += piece.len() as u64;
            Ok(())
        })?;
    }
    disk.flush().map_err(failed)?;
    let used = disk.stats().used_blocks as f64;
    let (there, naive) = (there as f64, different.len() as f64);
    Ok(Figures::from([
        ("ratio.images".into(), images.len() as f64),
        ("ratio.mib".into(), there * BLOCK as f64 / f64::from(1 << 20)),
        ("ratio.ours".into(), there / used),
        ("ratio.naive".into(), there / naive),
        ("ratio.blocks_stored_twice".into(), used - naive),
    ]))
}
