//! Garbage collection: what is free goes back, what is void goes out, and what was lost is found again.

use std::sync::Arc;

use sky_devices::block::simulated::SimulatedDisk;
use sky_devices::block::{BlockDevice, ErrorKind, Storage};
use sky_devices::idedup::{CheckReport, CreateOptions, Idedup, OpenOptions, Reread, Stage, check};

use super::disk::{BLOCK, block, blocks, made, open};

const B: u64 = BLOCK as u64;
const BLOCKS: u64 = 300;

/// An image that holds so many blocks, all of them different, and is closed with their claims in buckets.
fn filled() -> Arc<SimulatedDisk> {
    let disk = made(&CreateOptions { journal: 64 << 10, ..CreateOptions::new(2 * BLOCKS * B) });
    let image = open(&disk, OpenOptions::default());
    image.write(0, &blocks(0..BLOCKS), &[]).unwrap();
    image.collect(Reread::Nothing, &mut |_| true).unwrap();
    image.close().unwrap();
    disk
}

fn checked(disk: &Arc<SimulatedDisk>) -> CheckReport {
    check(&(Arc::clone(disk) as Arc<dyn Storage>)).unwrap()
}

/// Places of all pages that have this mark, by docs/idedup-format.md.
fn pages(disk: &SimulatedDisk, mark: &[u8; 4]) -> Vec<u64> {
    let mut page = vec![0; BLOCK];
    let is_one = |place: &u64| {
        disk.read(*place, &mut page).unwrap();
        page[4..8] == *mark
    };
    (0..disk.size()).step_by(BLOCK).filter(is_one).collect()
}

fn content(image: &Idedup, count: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(count * B).unwrap()];
    image.read(0, &mut bytes, &[]).unwrap();
    bytes
}

#[test]
fn an_index_that_is_gone_is_made_again_from_the_data() {
    let disk = filled();
    let buckets = pages(&disk, b"iDbk");
    assert!(buckets.len() > 3);
    for place in buckets {
        disk.write(place + 512, &[1; 512]).unwrap();
    }
    assert_eq!(checked(&disk).valid_claims, 0);
    // So little memory that the claims go to their buckets in several rounds.
    let image = open(&disk, OpenOptions { index_memory: 0, hints: None, ..OpenOptions::default() });
    let collected = image.collect(Reread::Unnamed, &mut |_| true).unwrap();
    assert_eq!((collected.claimed_blocks, collected.void_claims), (BLOCKS, 0));
    assert!(collected.torn_buckets > 3 && collected.unreadable_blocks == 0);
    image.write(BLOCKS * B, &blocks(0..BLOCKS), &[]).unwrap();
    let stats = image.stats();
    assert_eq!((stats.used_blocks, stats.duplicate_blocks), (BLOCKS, BLOCKS));
    // Nothing is left to be done.
    let again = image.collect(Reread::Unnamed, &mut |_| true).unwrap();
    assert_eq!((again.claimed_blocks, again.torn_buckets, again.twin_blocks), (0, 0, 0));
    image.close().unwrap();
    let report = checked(&disk);
    assert!(report.is_clean() && report.valid_claims == BLOCKS, "{report:?}");
    let image = open(&disk, OpenOptions::default());
    assert!(content(&image, 2 * BLOCKS) == [blocks(0..BLOCKS), blocks(0..BLOCKS)].concat());
}

#[test]
fn who_reads_no_data_claims_nothing() {
    let disk = filled();
    pages(&disk, b"iDbk").into_iter().for_each(|place| disk.write(place, &[1; 512]).unwrap());
    let image = open(&disk, OpenOptions::default());
    let before = disk.counts().read_bytes;
    let mut stages = Vec::new();
    let collected = image
        .collect(Reread::Nothing, &mut |now| {
            assert!(now.done <= now.total);
            stages.push(now.stage);
            true
        })
        .unwrap();
    stages.dedup();
    assert_eq!(stages, [Stage::Claims, Stage::Space]);
    assert_eq!(collected.claimed_blocks, 0);
    assert!(disk.counts().read_bytes - before < BLOCKS * B / 4);
}

#[test]
fn claims_of_what_is_gone_are_thrown_out() {
    let disk = filled();
    let image = open(&disk, OpenOptions::default());
    image.discard(0, 100 * B).unwrap();
    image.close().unwrap();
    assert_eq!(checked(&disk).void_claims, 100);
    let image = open(&disk, OpenOptions::default());
    assert_eq!(image.collect(Reread::Unnamed, &mut |_| true).unwrap().void_claims, 100);
    image.close().unwrap();
    let report = checked(&disk);
    assert_eq!((report.void_claims, report.valid_claims), (0, BLOCKS - 100));
}

#[test]
fn space_that_a_crash_has_left_goes_back() {
    let disk = filled();
    let before = disk.kept();
    let image = open(&disk, OpenOptions::default());
    // Without a flush, so that nothing leads there.
    image.write(BLOCKS * B, &blocks(1000..1100), &[]).unwrap();
    drop(image);
    assert!(disk.kept() >= before + 100 * B);
    let image = open(&disk, OpenOptions::default());
    let free = image.stats().free_blocks;
    let collected = image.collect(Reread::Nothing, &mut |_| true).unwrap();
    assert_eq!((collected.given_back_blocks, collected.keeps_space), (free, false));
    image.close().unwrap();
    assert!(disk.kept() < before + 10 * B, "{} of {before}", disk.kept());
    let image = open(&disk, OpenOptions::default());
    assert!(content(&image, BLOCKS) == blocks(0..BLOCKS));
}

#[test]
fn a_claim_that_is_false_goes_only_where_nothing_is_trusted() {
    let disk = filled();
    let (wanted, mut there) = (block(7), vec![0; BLOCK]);
    let place = (0..disk.size()).step_by(BLOCK).find(|place| {
        disk.read(*place, &mut there).unwrap();
        there == wanted
    });
    there[100] ^= 1;
    disk.write(place.unwrap(), &there).unwrap();
    assert_eq!(checked(&disk).false_claims.len(), 1);
    let image = open(&disk, OpenOptions::default());
    image.collect(Reread::Unnamed, &mut |_| true).unwrap();
    image.close().unwrap();
    assert_eq!(checked(&disk).false_claims.len(), 1);
    let image = open(&disk, OpenOptions::default());
    let collected = image.collect(Reread::Everything, &mut |_| true).unwrap();
    assert_eq!((collected.void_claims, collected.claimed_blocks), (BLOCKS, BLOCKS));
    // What was lost is stored again, instead of being shared with what has taken its place.
    image.write(BLOCKS * B, &wanted, &[]).unwrap();
    assert!(content(&image, BLOCKS + 1).ends_with(&wanted));
    image.close().unwrap();
    let report = checked(&disk);
    assert!(report.is_clean() && report.valid_claims == BLOCKS + 1, "{report:?}");
}

#[test]
fn it_stops_when_it_is_told_to_and_changes_nothing_of_who_only_reads() {
    let disk = filled();
    let image = open(&disk, OpenOptions::default());
    for last in 0..4 {
        let mut steps = 0;
        let stopped = image.collect(Reread::Everything, &mut |_| {
            steps += 1;
            steps <= last
        });
        assert_eq!(stopped.unwrap_err().kind(), ErrorKind::Interrupted);
    }
    assert!(content(&image, BLOCKS) == blocks(0..BLOCKS));
    image.close().unwrap();
    assert!(checked(&disk).is_clean());
    let image = open(&disk, OpenOptions { read_only: true, ..OpenOptions::default() });
    let refused = image.collect(Reread::Unnamed, &mut |_| true);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ReadOnly);
}
