//! Space: what is full says so in time, and what is no longer used comes back.

use std::sync::Arc;

use sky_devices::block::simulated::{SimulatedDisk, SimulatedOptions};
use sky_devices::block::{BlockDevice, ErrorKind, Storage};
use sky_devices::idedup::{CreateOptions, Idedup, OpenOptions, Verify, check, create};

use super::disk::{BLOCK, block, blocks, made, open};

const B: u64 = BLOCK as u64;

#[test]
fn a_full_image_refuses_what_is_new_and_takes_what_is_there() {
    let disk = made(&CreateOptions { capacity: Some(20 * B), ..CreateOptions::new(100 * B) });
    let image = open(&disk, OpenOptions::default());
    for number in 0..20 {
        image.write(number * B, &block(number), &[]).unwrap();
    }
    assert_eq!(image.write(50 * B, &block(50), &[]).unwrap_err().kind(), ErrorKind::NoSpace);
    // A request that has room for some of its blocks changes nothing.
    assert_eq!(image.write(0, &blocks(60..63), &[]).unwrap_err().kind(), ErrorKind::NoSpace);
    image.write(50 * B, &blocks(0..20), &[]).unwrap();
    image.write(80 * B, &[0; BLOCK], &[]).unwrap();
    image.flush().unwrap();
    drop(image);
    let image = open(&disk, OpenOptions::default());
    let mut bytes = vec![0; 20 * BLOCK];
    for from in [0, 50] {
        image.read(from * B, &mut bytes, &[]).unwrap();
        assert!(bytes == blocks(0..20));
    }
    // The last reference makes room, without a flush by the guest.
    image.discard(50 * B, 20 * B).unwrap();
    assert_eq!(image.write(90 * B, &block(70), &[]).unwrap_err().kind(), ErrorKind::NoSpace);
    image.discard(3 * B, 2 * B).unwrap();
    image.write(90 * B, &blocks(70..72), &[]).unwrap();
    assert_eq!(image.write(95 * B, &block(73), &[]).unwrap_err().kind(), ErrorKind::NoSpace);
    assert_eq!(image.stats().used_blocks, 20);
}

#[test]
fn a_disk_full_of_unlike_blocks_can_be_overwritten() {
    let disk = made(&CreateOptions { capacity: Some(64 * B), ..CreateOptions::new(63 * B) });
    let image = open(&disk, OpenOptions::default());
    image.write(0, &blocks(0..63), &[]).unwrap();
    for number in 0..63 {
        image.write(number * B, &block(1000 + number), &[]).unwrap();
    }
    let mut bytes = vec![0; 63 * BLOCK];
    image.read(0, &mut bytes, &[]).unwrap();
    assert!(bytes == blocks(1000..1063));
}

#[test]
fn space_goes_back_when_the_flush_has_made_it_free() {
    let disk = made(&CreateOptions::new(4096 * B));
    let image = open(&disk, OpenOptions::default());
    let empty = disk.kept();
    image.write(0, &blocks(0..1000), &[]).unwrap();
    image.flush().unwrap();
    let full = disk.kept();
    assert!(full >= empty + 1000 * B);
    image.discard(0, 4096 * B).unwrap();
    assert_eq!(disk.kept(), full);
    image.flush().unwrap();
    assert!(disk.kept() < full - 990 * B, "{} of {full}", disk.kept());
    let stats = image.stats();
    assert_eq!((stats.given_back_blocks, stats.used_blocks), (1000, 0));
    image.close().unwrap();
    let report = check(&(disk as Arc<dyn Storage>)).unwrap();
    assert_eq!((report.used_blocks, report.free_blocks, report.valid_claims), (0, 4096 + 64 + 1024, 0));
}

#[test]
fn a_flush_is_one_sync_and_zeros_take_nothing() {
    let disk = made(&CreateOptions::new(4096 * B));
    let image = open(&disk, OpenOptions::default());
    let before = disk.counts();
    image.write(0, &[blocks(0..10), vec![0; 20 * BLOCK], blocks(0..10)].concat(), &[]).unwrap();
    image.flush().unwrap();
    let after = disk.counts();
    // The ten blocks at once, and one page of the journal.
    assert_eq!((after.writes - before.writes, after.written_bytes - before.written_bytes), (2, 11 * B));
    assert_eq!((after.syncs - before.syncs, after.reads - before.reads), (1, 0));
    // Writing the same again changes nothing that would have to be told.
    image.write(0, &blocks(0..10), &[]).unwrap();
    image.flush().unwrap();
    assert_eq!(disk.counts().writes, after.writes);
}

#[test]
fn disks_that_cannot_be_are_refused() {
    let blank = |size| {
        SimulatedDisk::new(SimulatedOptions {
            size,
            capacity: None,
            record: false,
            ..SimulatedOptions::file()
        })
    };
    let refused = |disk: &SimulatedDisk, options: CreateOptions| create(disk, &options).unwrap_err().kind();
    let small = CreateOptions::new(64 * B);
    assert_eq!(refused(&blank(16 * B), small), ErrorKind::NoSpace);
    for size in [0, 100, 1 << 60] {
        assert_eq!(refused(&blank(1 << 20), CreateOptions::new(size)), ErrorKind::BadSize);
    }
    for wrong in [
        CreateOptions { journal: 0, ..small },
        CreateOptions { journal: u64::MAX, ..small },
        CreateOptions { capacity: Some(5), ..small },
        CreateOptions { verify: Verify::Compare { bits: 129 }, ..small },
    ] {
        assert_eq!(refused(&blank(1 << 20), wrong), ErrorKind::Invalid);
    }
    // A device of a fixed size is used to its end.
    let disk = Arc::new(blank(40 << 20));
    create(&*disk, &CreateOptions { journal: 64 << 10, ..CreateOptions::new(1 << 30) }).unwrap();
    let image = open(&disk, OpenOptions::default());
    assert!(image.stats().free_blocks > 9000, "{:?}", image.stats());
    let nothing: Arc<dyn Storage> = Arc::new(blank(1 << 20));
    let options = OpenOptions::default();
    assert_eq!(Idedup::open(nothing, options).unwrap_err().kind(), ErrorKind::NotThisFormat);
}

#[test]
fn who_only_reads_changes_nothing() {
    let disk = made(&CreateOptions::new(64 * B));
    let image = open(&disk, OpenOptions::default());
    image.write(0, &blocks(0..9), &[]).unwrap();
    image.flush().unwrap();
    drop(image);
    let before = disk.counts();
    let image = open(&disk, OpenOptions { read_only: true, ..OpenOptions::default() });
    let mut bytes = vec![0; 9 * BLOCK];
    image.read(0, &mut bytes, &[]).unwrap();
    assert!(bytes == blocks(0..9));
    assert_eq!(image.write(0, &bytes, &[]).unwrap_err().kind(), ErrorKind::ReadOnly);
    assert_eq!(image.discard(0, B).unwrap_err().kind(), ErrorKind::ReadOnly);
    assert_eq!(image.read(60 * B, &mut bytes, &[]).unwrap_err().kind(), ErrorKind::OutOfRange);
    image.close().unwrap();
    let after = disk.counts();
    assert_eq!((before.writes, before.syncs), (after.writes, after.syncs));
}
