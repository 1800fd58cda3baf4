//! What an image knows of its index when it is opened again.

use std::sync::Arc;

use sky_devices::block::simulated::SimulatedDisk;
use sky_devices::block::{BlockDevice, ErrorKind, Storage};
use sky_devices::idedup::{CreateOptions, Idedup, OpenOptions, Stats};

use super::disk::{BLOCK, blocks, made, open};

const B: u64 = BLOCK as u64;
const BLOCKS: u64 = 3000;

/// Nothing is remembered, and the index has so little memory that its claims are in buckets and in runs.
fn options() -> OpenOptions {
    OpenOptions { hints: None, index_memory: 128 << 10, ..OpenOptions::default() }
}

fn filled() -> Arc<SimulatedDisk> {
    let disk = made(&CreateOptions { journal: 64 << 10, ..CreateOptions::new(2 * BLOCKS * B) });
    let image = open(&disk, options());
    for first in (0..BLOCKS).step_by(60) {
        image.write(first * B, &blocks(first..first + 60), &[]).unwrap();
        image.flush().unwrap();
    }
    assert!(image.stats().index_merges > 0);
    image.close().unwrap();
    disk
}

/// Opens an image for the `time`th time and writes blocks to it that it does not have, then some that it has.
fn used(disk: &Arc<SimulatedDisk>, options: OpenOptions, time: u64) -> (Idedup, Stats) {
    let image = open(disk, options);
    let new = time * 10_000;
    image.write(BLOCKS * B, &blocks(new..new + 200), &[]).unwrap();
    let stats = image.stats();
    assert_eq!(stats.new_blocks, 200);
    image.write((BLOCKS + 300) * B, &blocks(500..1500), &[]).unwrap();
    // One in thousands may have been lost to a bucket that was full.
    assert!(image.stats().duplicate_blocks >= 999, "{:?}", image.stats());
    (image, stats)
}

#[test]
fn a_look_up_reads_nothing_after_an_image_was_closed() {
    let disk = filled();
    let (image, stats) = used(&disk, options(), 1);
    // A filter is wrong one time in a thousand.
    assert!(stats.answered_filter > 190 && stats.index_reads < 10, "{stats:?}");
    drop(image);
    // What was stored is void as soon as the image is written.
    let (image, stats) = used(&disk, options(), 2);
    assert!(stats.index_reads > 40, "{stats:?}");
    image.close().unwrap();
    assert!(used(&disk, options(), 3).1.index_reads < 10);
}

#[test]
fn a_filter_for_another_memory_is_not_taken() {
    let disk = filled();
    let (image, _) = used(&disk, OpenOptions { index_memory: 0, ..options() }, 1);
    image.close().unwrap();
    let (_, stats) = used(&disk, options(), 2);
    assert!(stats.index_reads > 40, "{stats:?}");
}

#[test]
fn a_filter_that_is_torn_is_learned_again() {
    let disk = filled();
    let mut page = vec![0; BLOCK];
    let mut torn = 0;
    for place in (0..disk.size()).step_by(BLOCK) {
        disk.read(place, &mut page).unwrap();
        if page[4..8] == *b"iDfl" {
            disk.write(place + 2048, &[0xaa; 512]).unwrap();
            torn += 1;
        }
    }
    assert!(torn > 1);
    let (image, stats) = used(&disk, options(), 1);
    assert!(stats.index_reads > 40, "{stats:?}");
    let mut there = vec![0; 1000 * BLOCK];
    image.read(500 * B, &mut there, &[]).unwrap();
    assert!(there == blocks(500..1500));
}

#[test]
fn an_older_version_is_refused_and_named() {
    let disk = filled();
    for place in [0, B] {
        let mut page = vec![0; BLOCK];
        disk.read(place, &mut page).unwrap();
        page[16] = 1;
        let crc = crc32c::crc32c(&page[4..]);
        page[..4].copy_from_slice(&crc.to_le_bytes());
        disk.write(place, &page).unwrap();
    }
    let error = Idedup::open(disk as Arc<dyn Storage>, options()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("version 1"), "{error}");
}
