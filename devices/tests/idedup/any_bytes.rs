//! Images of any bytes: an error or a disk, but no panic, no hang, and no more memory than an image can ask for.
//!
//! Nearly everything has a checksum, so changes are made to an image that works, and pages are sealed again.

use std::sync::{Arc, OnceLock};

use proptest::prelude::*;
use sky_devices::block::simulated::{SimulatedDisk, SimulatedOptions};
use sky_devices::block::{BlockDevice, Storage};
use sky_devices::idedup::{CreateOptions, Idedup, OpenOptions, Reread, check};

use super::disk::{BLOCK, blocks, cases, made, open};
use super::memory;

const B: u64 = BLOCK as u64;
/// Of an image this small, by docs/idedup-format.md: superblocks, checkpoints, the journal, tables, buckets, runs and the
/// filter.
const METADATA: u64 = 2 + 2 + 16 + 3 * 2 + 18 + 4 + 1;
/// For tables of what 64 TiB of holes may be: the pages of tables and the states of their slots, three times.
const MEMORY: usize = 512 << 20;

/// An image with something of everything in it, left as by a crash.
fn image() -> SimulatedDisk {
    static IMAGE: OnceLock<Arc<SimulatedDisk>> = OnceLock::new();
    let disk = IMAGE.get_or_init(|| {
        let disk = made(&CreateOptions { journal: 64 << 10, ..CreateOptions::new(200 * B) });
        let image = open(&disk, OpenOptions::default());
        image.write(0, &blocks(0..100), &[]).unwrap();
        image.close().unwrap();
        let image = open(&disk, OpenOptions::default());
        image.write(100 * B, &blocks(50..120), &[]).unwrap();
        image.discard(7 * B, 20 * B).unwrap();
        image.flush().unwrap();
        disk
    });
    disk.copy_as(SimulatedOptions { record: false, ..SimulatedOptions::file() })
}

fn seal(page: &mut [u8]) {
    let crc = crc32c::crc32c(&page[4..]);
    page[..4].copy_from_slice(&crc.to_le_bytes());
}

/// Uses an image in all ways there are. Says whether it could be opened for writing.
fn run(disk: SimulatedDisk) -> bool {
    let disk = Arc::new(disk);
    let storage = || Arc::clone(&disk) as Arc<dyn Storage>;
    let _ = check(&storage());
    let mut opened = false;
    for read_only in [true, false] {
        let options = OpenOptions { read_only, ..OpenOptions::default() };
        let Ok(image) = Idedup::open(storage(), options) else { continue };
        opened |= !read_only;
        let size = image.geometry().size.min(200 * B);
        let mut content = vec![0; usize::try_from(size).unwrap()];
        let _ = image.read(0, &mut content, &[]);
        for at in (0..size).step_by(7 * BLOCK) {
            let _ = image.write(at, &content[..content.len().min(BLOCK + 512)], &[]);
        }
        let _ = image.flush();
        // An image of any size has any number of free blocks.
        let mut steps = 0..100;
        let _ = image.collect(Reread::Unnamed, &mut |_| steps.next().is_some());
        let _ = image.discard(0, size);
        let _ = image.write(0, &content, &[]);
        let _ = image.close();
    }
    opened
}

#[test]
fn an_image_that_nobody_has_changed_is_used() {
    assert!(run(image()));
}

#[test]
fn a_superblock_can_ask_for_little() {
    for (size, physical, journal) in
        [(64u64 << 40, u32::MAX, 16u32), (1 << 43, 1 << 31, 65536), (512, 1, 16), (u64::MAX, 1, 1), (0, 0, 0)]
    {
        let disk = image();
        disk.grow(1 << 46).unwrap();
        let mut page = vec![0; BLOCK];
        disk.read(0, &mut page).unwrap();
        page[24..32].copy_from_slice(&size.to_le_bytes());
        page[32..36].copy_from_slice(&physical.to_le_bytes());
        page[36..40].copy_from_slice(&journal.to_le_bytes());
        seal(&mut page);
        disk.write(0, &page).unwrap();
        disk.write(B, &page).unwrap();
        let (_, peak) = memory::peak(|| run(disk));
        assert!(peak < MEMORY, "{peak} bytes");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(400), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_used_or_refused(
        changes in proptest::collection::vec(
            (0..METADATA, 0..4096usize, any::<bool>(), prop_oneof![
                any::<u8>().prop_map(|byte| vec![byte]),
                (0..64u32).prop_map(|shift| (1u64 << shift).to_le_bytes().to_vec()),
                Just(vec![0xff; 8]),
                any::<u64>().prop_map(|value| value.to_le_bytes().to_vec()),
            ], any::<bool>()), 1..5),
    ) {
        let disk = image();
        for (page, at, low, bytes, sealed) in changes {
            // The first bytes of a page say most.
            let at = if low { at % 64 } else { at };
            let mut content = vec![0; BLOCK];
            disk.read(page * B, &mut content).unwrap();
            let end = (at + bytes.len()).min(BLOCK);
            content[at..end].copy_from_slice(&bytes[..end - at]);
            if sealed {
                seal(&mut content);
            }
            disk.write(page * B, &content).unwrap();
        }
        let (_, peak) = memory::peak(|| run(disk));
        prop_assert!(peak < MEMORY, "{} bytes", peak);
    }
}
