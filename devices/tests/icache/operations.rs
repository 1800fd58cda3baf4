//! What a cache does while all is well, and what it says.

use std::sync::Arc;

use sky_devices::block::simulated::{Fault, FaultKind, FaultOn, SimulatedDisk};
use sky_devices::block::{BlockDevice, ErrorKind};
use sky_devices::icache::{self, ICache, Mode, OpenOptions};
use sky_devices::io_class::{IoClass, IoTag, Source};
use sky_devices::policy::{ClassId, HEADER, Policy};

use super::disks::{Disks, SLOW_SIZE};

fn opened(options: OpenOptions) -> (Disks, ICache) {
    let disks = Disks::new();
    icache::create(&*disks.fast, SLOW_SIZE).unwrap();
    let cache = ICache::open(disks.fast(), disks.slow(), options).unwrap();
    (disks, cache)
}

fn open(mode: Mode) -> (Disks, ICache) {
    opened(OpenOptions { mode, sequential: None, ..OpenOptions::default() })
}

fn slow_reads(disks: &Disks) -> u64 {
    disks.slow.counts().reads
}

fn tags(class: u8) -> Vec<IoTag> {
    vec![IoTag { class_id: ClassId::new(class).unwrap(), ..IoTag::default() }; 16]
}

fn policy(lines: &str) -> Policy {
    Policy::parse(&format!("{HEADER}\n{lines}")).unwrap()
}

fn failing(on: FaultOn) -> Fault {
    Fault { on, after: 0, kind: FaultKind::Io, lasting: true, partial: false }
}

fn block_of(cache: &ICache, block: u64) -> sky_devices::block::Result<u8> {
    let mut bytes = [0; 4096];
    cache.read(block * 4096, &mut bytes, &[]).map(|()| {
        assert!(bytes.iter().all(|byte| *byte == bytes[0]));
        bytes[0]
    })
}

#[test]
fn a_block_takes_at_most_24_bytes_of_memory() {
    for size in [64 << 20, 1 << 30, 64 << 30, 1 << 40] {
        assert!(ICache::bytes_per_block(size).unwrap() <= 24, "{size}");
    }
    assert_eq!(ICache::bytes_per_block(100_000).unwrap_err().kind(), ErrorKind::BadSize);
}

#[test]
fn what_was_read_is_read_from_the_fast_tier_also_after_it_was_opened_again() {
    let (disks, cache) = open(Mode::Through);
    disks.slow().write(0, &[5; 64 << 10], &[]).unwrap();
    let mut bytes = vec![0; 64 << 10];
    cache.read(0, &mut bytes, &[]).unwrap();
    assert_eq!(slow_reads(&disks), 1, "one read for neighbours");
    cache.read(512, &mut bytes[..40 << 10], &[]).unwrap();
    cache.close().unwrap();
    let cache = ICache::open(disks.fast(), disks.slow(), OpenOptions::default()).unwrap();
    cache.read(0, &mut bytes, &[]).unwrap();
    assert!(bytes.iter().all(|&byte| byte == 5));
    assert_eq!(slow_reads(&disks), 1);
    drop(cache);
    // Nothing was written, so nothing of it is in doubt.
    let cache = ICache::open(disks.fast(), disks.slow(), OpenOptions::default()).unwrap();
    cache.read(0, &mut bytes, &[]).unwrap();
    assert_eq!(slow_reads(&disks), 1);
    let stats = cache.stats();
    assert_eq!((stats.classes[0].1.hits, stats.classes[0].1.misses, stats.classes[0].1.lines), (16, 0, 16));
}

#[test]
fn concurrent_misses_read_the_slow_tier_once() {
    let (disks, cache) = open(Mode::Through);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(block_of(&cache, 7).unwrap(), 0));
        }
    });
    assert_eq!(slow_reads(&disks), 1);
}

#[test]
fn writes_that_are_read_at_the_same_time_are_whole() {
    for mode in [Mode::Through, Mode::Back, Mode::Around] {
        let (_disks, cache) = open(mode);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=200u64 {
                    let data = [u8::try_from(round).unwrap(); 8192];
                    cache.write(round % 5 * 8192, &data, &[]).unwrap();
                }
            });
            scope.spawn(|| (0..40).for_each(|_| cache.flush().unwrap()));
            scope.spawn(|| (0..20).for_each(|_| cache.write_back_all().unwrap()));
            for thread in 0..2 {
                let cache = &cache;
                scope.spawn(move || {
                    (0..1000).for_each(|at| _ = block_of(cache, (at * 3 + thread) % 60).unwrap())
                });
            }
        });
        (0..10u8).for_each(|block| {
            assert_eq!(block_of(&cache, block.into()).unwrap(), 200 - (5 - block / 2) % 5, "{mode:?}");
        });
        cache.close().unwrap();
    }
}

#[test]
fn a_write_back_reaches_the_slow_tier_when_it_is_told_to() {
    let (disks, cache) = open(Mode::Back);
    let writes = disks.slow.counts().writes;
    (0..8u64).rev().for_each(|block| cache.write(block * 4096, &[9; 4096], &[]).unwrap());
    cache.flush().unwrap();
    assert_eq!((disks.slow.counts().writes, cache.stats().dirty), (writes, 8));
    cache.write_back_all().unwrap();
    assert_eq!((disks.slow.counts().writes, cache.stats().dirty), (writes + 1, 0), "in order, as one");
    assert_eq!(cache.stats().written_back, 8);
}

#[test]
fn dirty_lines_are_bounded() {
    let (_disks, cache) =
        opened(OpenOptions { mode: Mode::Back, dirty: 20, sequential: None, ..OpenOptions::default() });
    for block in 0..60u64 {
        cache.write(block * 4096, &[1; 4096], &[]).unwrap();
        assert!(cache.stats().dirty <= cache.stats().capacity / 5 + 1);
    }
}

#[test]
fn what_must_not_come_in_stays_out() {
    let large = Some(1 << 20);
    let (disks, cache) = opened(OpenOptions {
        policy: policy("0,unclassified,9,1\n1,direct,1,0\n"),
        largest_file: large,
        sequential: Some(32 << 10),
        ..OpenOptions::default()
    });
    let lines = || cache.stats().classes.iter().map(|(_, stats)| stats.lines).sum::<u32>();
    let mut bytes = [0; 4096];
    cache.read(0, &mut bytes, &tags(1)).unwrap();
    assert_eq!(lines(), 0, "a class of nothing");
    let source = |file_size| Some(Source { path: "/x".into(), file_size, offset: 0 });
    cache.read(8192, &mut bytes, &[IoTag { source: source(1 << 20), ..IoTag::default() }]).unwrap();
    assert_eq!(lines(), 0, "a large file");
    cache.read(8192, &mut bytes, &[IoTag { source: source(1 << 19), ..IoTag::default() }]).unwrap();
    assert_eq!(lines(), 1);
    let at = 16 << 20;
    (0..20u64).for_each(|block| cache.read(at + block * 4096, &mut bytes, &[]).unwrap());
    assert_eq!(lines(), 8, "seven blocks of a run");
    let metadata = [IoTag { class: IoClass::Metadata, ..IoTag::default() }];
    cache.read(at + 20 * 4096, &mut bytes, &metadata).unwrap();
    assert_eq!(lines(), 9, "a run of metadata is as good as any");
    let reads = slow_reads(&disks);
    cache.read(at, &mut bytes, &[]).unwrap();
    assert_eq!(slow_reads(&disks), reads);
}

#[test]
fn classes_are_learnt_late_and_change_while_running() {
    let (_disks, cache) = open(Mode::Through);
    let mut bytes = [0; 4096];
    let lines = |class: u8| {
        let id = ClassId::new(class).unwrap();
        cache.stats().classes.iter().find(|(other, _)| *other == id).map_or(0, |(_, stats)| stats.lines)
    };
    (0..6u64).for_each(|block| cache.read(block * 4096, &mut bytes, &[]).unwrap());
    cache.read(0, &mut bytes, &tags(5)).unwrap();
    cache.write(4096, &bytes, &tags(4)).unwrap();
    assert_eq!((lines(0), lines(4), lines(5)), (4, 1, 1));
    cache.read(0, &mut bytes, &[]).unwrap();
    assert_eq!(lines(5), 1, "who knows nothing says nothing");
    cache.set_policy(policy("5,metadata,0,1\n"));
    assert_eq!((lines(0), lines(4), lines(5)), (5, 0, 1));
    cache.set_policy(policy("0,unclassified,9,0\n"));
    cache.read(80 * 4096, &mut bytes, &[]).unwrap();
    assert_eq!(lines(0), 6);
    cache.clear().unwrap();
    assert_eq!(lines(0), 0);
}

#[test]
fn a_fast_tier_that_cannot_be_read_costs_what_was_dirty_and_says_so() {
    let (disks, cache) = open(Mode::Back);
    disks.slow().write(0, &[3; 8192], &[]).unwrap();
    block_of(&cache, 0).unwrap();
    cache.write(4096, &[4; 4096], &[]).unwrap();
    cache.flush().unwrap();
    disks.fast.inject(failing(FaultOn::Read));
    assert_eq!(block_of(&cache, 0).unwrap(), 3, "the slow tier has it");
    let error = block_of(&cache, 1).unwrap_err();
    assert!(error.to_string().contains("only in the fast tier"), "{error}");
    assert!(cache.stats().lost_reads > 0 && cache.stats().fast_errors > 1);
    assert!(cache.write_back_all().is_err());
    disks.fast.clear_faults();
    assert_eq!(block_of(&cache, 1).unwrap(), 4, "it came back");
}

#[test]
fn a_journal_that_cannot_be_written_ends_caching_but_not_reading() {
    let (disks, cache) = open(Mode::Through);
    cache.write(0, &[6; 4096], &[]).unwrap();
    disks.fast.inject(failing(FaultOn::Sync));
    assert_eq!(cache.write(16 << 20, &[7; 4096], &[]).unwrap_err().kind(), ErrorKind::Io, "a new region");
    assert!(cache.stats().failed);
    cache.write(0, &[8; 4096], &[]).unwrap();
    assert_eq!((block_of(&cache, 0).unwrap(), block_of(&cache, 4096).unwrap()), (8, 0));
    cache.flush().unwrap();
    assert!(cache.write(16 << 20, &[7; 4096], &[]).is_err());
    drop(cache);
    let disks = disks.copy();
    let cache = ICache::open(disks.fast(), disks.slow(), OpenOptions::default()).unwrap();
    assert_eq!(block_of(&cache, 0).unwrap(), 8, "the line of before was not served");
}

#[test]
fn a_cache_belongs_to_its_disk() {
    let (disks, cache) = open(Mode::Through);
    drop(cache);
    let other = Arc::new(sky_devices::block::MemoryDisk::new(1 << 20).unwrap());
    let error = ICache::open(disks.fast(), other, OpenOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let empty = SimulatedDisk::new(sky_devices::block::simulated::SimulatedOptions::file());
    let error = ICache::open(Arc::new(empty), disks.slow(), OpenOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotThisFormat);
}

/// Without it, lines of what was written last are in doubt after a crash.
#[test]
fn a_crash_behind_reconcile_costs_no_line() {
    for (mode, reconciles) in [(Mode::Through, false), (Mode::Through, true), (Mode::Back, true)] {
        let (disks, cache) = open(mode);
        cache.write(0, &[5; 64 << 10], &[]).unwrap();
        cache.flush().unwrap();
        if reconciles {
            cache.reconcile().unwrap();
        }
        drop(cache);
        let cache = ICache::open(disks.fast(), disks.slow(), OpenOptions::default()).unwrap();
        let held = if reconciles { 16 } else { 0 };
        assert_eq!((cache.cached().len(), cache.stats().dirty), (held, 0), "{mode:?}");
        assert_eq!(block_of(&cache, 3).unwrap(), 5);
    }
}
