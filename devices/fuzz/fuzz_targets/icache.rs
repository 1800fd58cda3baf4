//! Any changes to a cache that was in use, with every checksum made right again: it is opened, used and closed, or refused.
//!
//! The input is a list of changes of 12 bytes: page, offset in it, and 8 bytes that are put there.

#![no_main]

use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use sky_devices::block::simulated::{SimulatedDisk, SimulatedOptions};
use sky_devices::block::{BlockDevice, MemoryDisk, Storage};
use sky_devices::icache::{self, ICache, Mode, OpenOptions};

const SLOW: usize = 4 << 20;
const PAGE: usize = 4096;
/// Superblocks and journal of a cache of this size, and some lines.
const PAGES: usize = 64;

fn slow() -> Arc<MemoryDisk> {
    Arc::new(MemoryDisk::new(SLOW).unwrap())
}

fn options() -> OpenOptions {
    OpenOptions { mode: Mode::Back, ..OpenOptions::default() }
}

/// A cache with lines of every kind, left as by a crash.
fn used() -> SimulatedDisk {
    static USED: OnceLock<Arc<SimulatedDisk>> = OnceLock::new();
    let used = USED.get_or_init(|| {
        let options_of_disk =
            SimulatedOptions { size: 2 << 20, record: false, ..SimulatedOptions::file() };
        let fast = Arc::new(SimulatedDisk::new(options_of_disk));
        icache::create(&*fast, SLOW as u64).unwrap();
        let cache = ICache::open(Arc::clone(&fast) as _, slow(), options()).unwrap();
        cache.write(0, &[1; 64 << 10], &[]).unwrap();
        cache.write_back_all().unwrap();
        cache.write(32 << 10, &[2; 64 << 10], &[]).unwrap();
        cache.read(1 << 20, &mut [0; 64 << 10], &[]).unwrap();
        cache.flush().unwrap();
        drop(cache);
        fast
    });
    used.copy_as(SimulatedOptions { record: false, ..SimulatedOptions::file() })
}

fuzz_target!(|data: &[u8]| {
    let fast = used();
    for change in data.chunks_exact(12).take(64) {
        let page = usize::from(change[0]) % PAGES;
        let at = usize::from(u16::from_le_bytes([change[1], change[2]])) % (PAGE - 8);
        let mut bytes = vec![0; PAGE];
        fast.read((page * PAGE) as u64, &mut bytes).unwrap();
        bytes[at..at + 8].copy_from_slice(&change[4..]);
        // Superblocks end with their checksum, pages of the journal begin with it.
        if page < 2 {
            let sum = crc32c::crc32c(&bytes[..PAGE - 4]).to_le_bytes();
            bytes[PAGE - 4..].copy_from_slice(&sum);
        } else {
            let sum = crc32c::crc32c(&bytes[4..]).to_le_bytes();
            bytes[..4].copy_from_slice(&sum);
        }
        fast.write((page * PAGE) as u64, &bytes).unwrap();
    }
    let Ok(cache) = ICache::open(Arc::new(fast), slow(), options()) else { return };
    let mut bytes = vec![0; SLOW];
    let _ = cache.read(0, &mut bytes, &[]);
    let _ = cache.write(4096, &bytes[..128 << 10], &[]).and_then(|()| cache.flush());
    let _ = cache.close();
});
