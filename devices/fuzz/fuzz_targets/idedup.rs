//! Any changes to a deduplicated disk that was in use, with every checksum made right again: it is checked, opened, used
//! and closed, or refused.
//!
//! The input is a list of changes of 12 bytes: page, offset in it, and 8 bytes that are put there.

#![no_main]

use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use sky_devices::block::simulated::{SimulatedDisk, SimulatedOptions};
use sky_devices::block::{BlockDevice, Storage};
use sky_devices::idedup::{self, CreateOptions, Idedup, OpenOptions, Reread};

const PAGE: usize = 4096;
const SIZE: u64 = 800 << 10;
/// Everything before the data of a disk of this size.
const PAGES: usize = 49;

fn block(seed: usize) -> Vec<u8> {
    seed.to_le_bytes().repeat(PAGE / size_of::<usize>())
}

/// A disk with something of everything, left as by a crash.
fn used() -> SimulatedDisk {
    static USED: OnceLock<Arc<SimulatedDisk>> = OnceLock::new();
    let used = USED.get_or_init(|| {
        let medium =
            Arc::new(SimulatedDisk::new(SimulatedOptions { record: false, ..SimulatedOptions::file() }));
        let options = CreateOptions { journal: 64 << 10, ..CreateOptions::new(SIZE) };
        idedup::create(&*medium, &options).unwrap();
        let open = || Idedup::open(Arc::clone(&medium) as _, OpenOptions::default()).unwrap();
        let disk = open();
        for at in 0..100 {
            disk.write((at * PAGE) as u64, &block(at % 60 + 1), &[]).unwrap();
        }
        disk.close().unwrap();
        let disk = open();
        disk.discard(7 * PAGE as u64, 20 * PAGE as u64).unwrap();
        disk.write(110 * PAGE as u64, &block(5), &[]).unwrap();
        disk.flush().unwrap();
        drop(disk);
        medium
    });
    used.copy_as(SimulatedOptions { record: false, ..SimulatedOptions::file() })
}

fuzz_target!(|data: &[u8]| {
    let medium = used();
    for change in data.chunks_exact(12).take(64) {
        let place = (usize::from(change[0]) % PAGES * PAGE) as u64;
        let at = usize::from(u16::from_le_bytes([change[1], change[2]])) % (PAGE - 8);
        let mut bytes = vec![0; PAGE];
        medium.read(place, &mut bytes).unwrap();
        bytes[at..at + 8].copy_from_slice(&change[4..]);
        if change[3] & 1 == 0 {
            let sum = crc32c::crc32c(&bytes[4..]).to_le_bytes();
            bytes[..4].copy_from_slice(&sum);
        }
        medium.write(place, &bytes).unwrap();
    }
    let medium: Arc<dyn Storage> = Arc::new(medium);
    let _ = idedup::check(&medium);
    let Ok(disk) = Idedup::open(medium, OpenOptions::default()) else { return };
    let mut bytes = vec![0; usize::try_from(disk.geometry().size.min(SIZE)).unwrap()];
    let _ = disk.read(0, &mut bytes, &[]);
    let _ = disk.write(0, &bytes, &[]).and_then(|()| disk.flush());
    let mut steps = 0..100;
    let _ = disk.collect(Reread::Unnamed, &mut |_| steps.next().is_some());
    let _ = disk.close();
});
