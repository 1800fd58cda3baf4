//! Images on simulated disks, and content to write.

use std::sync::Arc;

use sky_devices::block::Storage;
use sky_devices::block::simulated::{Random, SimulatedDisk, SimulatedOptions};
use sky_devices::idedup::{CreateOptions, Idedup, OpenOptions, create};

pub(crate) const BLOCK: usize = 4096;

/// An empty image.
pub(crate) fn made(options: &CreateOptions) -> Arc<SimulatedDisk> {
    let disk = Arc::new(SimulatedDisk::new(SimulatedOptions { record: false, ..SimulatedOptions::file() }));
    create(&*disk, options).unwrap();
    disk
}

pub(crate) fn open(disk: &Arc<SimulatedDisk>, options: OpenOptions) -> Idedup {
    Idedup::open(Arc::clone(disk) as Arc<dyn Storage>, options).unwrap()
}

/// Block number `number` of many that differ.
pub(crate) fn block(number: u64) -> Vec<u8> {
    let mut random = Random::new(number);
    (0..BLOCK / 8).flat_map(|_| random.bits().to_le_bytes()).collect()
}

/// Several of them in a row.
pub(crate) fn blocks(numbers: std::ops::Range<u64>) -> Vec<u8> {
    numbers.flat_map(block).collect()
}

pub(crate) fn cases(usual: u32) -> u32 {
    if std::env::var_os("SKY_NIGHTLY").is_some() { usual * 100 } else { usual }
}
