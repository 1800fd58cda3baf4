//! A cache that becomes larger and smaller, alone and while it is used.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sky_devices::block::simulated::{Fault, FaultKind, FaultOn, Random};
use sky_devices::block::{BlockDevice, ErrorKind, Storage};
use sky_devices::icache::{self, ICache, Idle, Mode, OpenOptions, size_of};
use sky_devices::io_class::IoTag;
use sky_devices::policy::{ClassId, HEADER, Policy};

use super::disks::{Disks, SLOW_SIZE};
use super::world::MODES;

const PAGE: u64 = 4096;

fn open(mode: Mode) -> (Disks, ICache) {
    let disks = Disks::new();
    icache::create(&*disks.fast, SLOW_SIZE).unwrap();
    let options = OpenOptions { mode, sequential: None, ..OpenOptions::default() };
    let cache = ICache::open(disks.fast(), disks.slow(), options).unwrap();
    (disks, cache)
}

fn read(cache: &ICache, block: u64) -> u8 {
    let mut bytes = [0; 4096];
    cache.read(block * PAGE, &mut bytes, &[]).unwrap();
    assert!(bytes.iter().all(|&byte| byte == bytes[0]));
    bytes[0]
}

#[test]
fn a_larger_cache_holds_more_and_a_smaller_one_what_was_used_last() {
    let (disks, cache) = open(Mode::Through);
    let before = cache.stats();
    assert_eq!(before.size, 88 * PAGE);
    (0..40).for_each(|block| _ = read(&cache, block));
    cache.resize(400 * PAGE).unwrap();
    let larger = cache.stats();
    assert_eq!((larger.size, disks.fast.size(), cache.cached().len()), (400 * PAGE, 400 * PAGE, 40));
    assert!(larger.capacity > before.capacity + 250, "{}", larger.capacity);
    (0..60).for_each(|block| _ = read(&cache, block));
    (0..60).for_each(|block| _ = read(&cache, block));
    let reads = disks.slow.counts().reads;
    cache.resize(90 * PAGE).unwrap();
    assert_eq!(disks.slow.counts().reads, reads, "what is moved is not read again");
    let held: Vec<u64> = cache.cached().iter().map(|cached| cached.offset / PAGE).collect();
    assert_eq!(held.len(), cache.stats().capacity.min(60) as usize);
    held.iter().for_each(|&block| _ = read(&cache, block));
    assert_eq!(disks.slow.counts().reads, reads);
    cache.close().unwrap();
    assert_eq!(size_of(&*disks.fast).unwrap(), 90 * PAGE);
    let cache = ICache::open(disks.fast(), disks.slow(), OpenOptions::default()).unwrap();
    assert_eq!((cache.stats().size, cache.cached().len()), (90 * PAGE, held.len()), "it comes back warm");
}

#[test]
fn what_is_dirty_moves_or_is_written_back() {
    let (disks, cache) = open(Mode::Back);
    cache.resize(800 * PAGE).unwrap();
    (0..120u8).for_each(|block| cache.write(u64::from(block) * PAGE, &[block + 1; 4096], &[]).unwrap());
    cache.flush().unwrap();
    assert_eq!(cache.stats().dirty, 120);
    cache.resize(300 * PAGE).unwrap();
    assert_eq!(cache.stats().dirty, 120, "there is room for all of them");
    cache.resize(87 * PAGE).unwrap();
    let stats = cache.stats();
    assert!(stats.dirty <= stats.capacity && stats.written_back > 0);
    drop(cache);
    let cache = ICache::open(disks.fast(), disks.slow(), OpenOptions::default()).unwrap();
    (0..120u8).for_each(|block| assert_eq!(read(&cache, block.into()), block + 1));
}

#[test]
fn a_size_that_cannot_be_changes_nothing() {
    let (disks, cache) = open(Mode::Back);
    cache.write(0, &[7; 4096], &[]).unwrap();
    (0..30).for_each(|block| _ = read(&cache, block));
    for size in [0, 80 * PAGE, 86 * PAGE] {
        assert_eq!(cache.resize(size).unwrap_err().kind(), ErrorKind::BadSize, "{size}");
    }
    // Nothing can be written back, nothing evicted.
    let fault = Fault { on: FaultOn::Write, after: 0, kind: FaultKind::Io, lasting: true, partial: false };
    cache.resize(300 * PAGE).unwrap();
    let (size, held) = (cache.stats().size, cache.cached());
    (0..60u8).for_each(|block| cache.write(u64::from(block) * PAGE, &[9; 4096], &[]).unwrap());
    disks.slow.inject(fault);
    assert_eq!(cache.resize(87 * PAGE).unwrap_err().kind(), ErrorKind::Io);
    disks.slow.clear_faults();
    assert_eq!((cache.stats().size, cache.stats().failed), (size, false));
    assert!(cache.cached().len() >= held.len());
    // And it can still be filled to its end.
    (0..190).for_each(|block| _ = read(&cache, block));
    assert!(cache.cached().len() > 180, "{}", cache.cached().len());
    cache.resize(87 * PAGE).unwrap();
    (0..60).for_each(|block| assert_eq!(read(&cache, block), 9));
}

/// Each thread knows what its own blocks hold, and that those of others are whole.
#[test]
fn sizes_and_classes_change_under_load() {
    const THREADS: u64 = 3;
    const BLOCKS: u64 = 180;
    let classes = |lines: &str| Policy::parse(&format!("{HEADER}\n{lines}")).unwrap();
    for mode in MODES {
        let (disks, cache) = open(mode);
        let done = AtomicBool::new(false);
        let known: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let (cache, done) = (&cache, &done);
                    scope.spawn(move || {
                        let mut random = Random::new(thread);
                        let mut known = vec![0; BLOCKS as usize];
                        while !done.load(Ordering::Relaxed) {
                            let block = random.below(BLOCKS / THREADS) * THREADS + thread;
                            let class_id = ClassId::new(random.below(6) as u8).unwrap();
                            let tags = [IoTag { class_id, ..IoTag::default() }];
                            match random.below(8) {
                                0..=3 => {
                                    let new = random.below(255) as u8;
                                    cache.write(block * PAGE, &[new; 4096], &tags).unwrap();
                                    known[block as usize] = new;
                                }
                                4 if random.one_in(8) => cache.flush().unwrap(),
                                4..=6 => assert_eq!(read(cache, block), known[block as usize]),
                                _ => _ = read(cache, random.below(BLOCKS)),
                            }
                        }
                        known
                    })
                })
                .collect();
            let mut random = Random::new(9);
            let (mut resized, mut sound) = (Ok(()), true);
            for round in 0..40 {
                resized = resized.and(cache.resize((87 + random.below(300)) * PAGE));
                let policy = match round % 3 {
                    0 => classes("0,unclassified,9,1\n5,metadata,0,1\n"),
                    1 => classes("0,unclassified,9,0.5\n1,file_size:lt:10,1,0.1\n"),
                    _ => Policy::paper(),
                };
                cache.set_policy(policy);
                let (cached, stats) = (cache.cached(), cache.stats());
                sound &= cached.windows(2).all(|pair| pair[0].offset < pair[1].offset);
                sound &= !stats.failed && stats.fast_errors == 0;
            }
            done.store(true, Ordering::Relaxed);
            assert!(sound && resized.is_ok(), "{resized:?}");
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let expected = |block: u64| known[(block % THREADS) as usize][block as usize];
        (0..BLOCKS).for_each(|block| assert_eq!(read(&cache, block), expected(block), "{mode:?}"));
        cache.close().unwrap();
        let mut bytes = [0; 4096];
        for block in 0..BLOCKS {
            disks.slow().read(block * PAGE, &mut bytes, &[]).unwrap();
            assert_eq!(bytes, [expected(block); 4096], "{mode:?}");
        }
    }
}

#[test]
fn what_is_dirty_is_written_back_in_order_while_nobody_asks() {
    let (disks, cache) = open(Mode::Back);
    cache.resize(3000 * PAGE).unwrap();
    let (mut idle, at) = (Idle::default(), Duration::from_millis);
    let write = |block: u64| cache.write(block * PAGE, &[1; 4096], &[]).unwrap();
    // Three batches, in an order in which nobody would write them.
    (0..300).for_each(|block| write((block * 7 % 300) * 2));
    let writes = disks.slow.counts().writes;
    assert!(!cache.tend(&mut idle, at(5_000)).unwrap(), "there were requests");
    assert!(!cache.tend(&mut idle, at(6_900)).unwrap(), "they were lately");
    assert_eq!((cache.stats().dirty, disks.slow.counts().writes), (300, writes));
    assert!(cache.tend(&mut idle, at(7_100)).unwrap());
    let stats = cache.stats();
    assert!(stats.dirty < 300 && stats.dirty > 0, "in bounded batches");
    let dirty = || cache.cached().into_iter().filter(|cached| cached.dirty).map(|cached| cached.offset);
    let clean = cache.cached().into_iter().filter(|cached| !cached.dirty).map(|cached| cached.offset);
    assert!(clean.max() < dirty().min(), "the first blocks first");
    // A request has it stop, for two seconds from then on.
    write(598);
    assert!(!cache.tend(&mut idle, at(7_200)).unwrap());
    assert!(!cache.tend(&mut idle, at(9_100)).unwrap());
    assert_eq!(cache.stats().dirty, stats.dirty);
    while cache.tend(&mut idle, at(9_300)).unwrap() {}
    assert_eq!(cache.stats().dirty, 0);
    assert_eq!(disks.slow.counts().writes, writes + 300);
    // Nothing is in doubt any more.
    let held = cache.cached().len();
    drop(cache);
    let cache = ICache::open(disks.fast(), disks.slow(), OpenOptions::default()).unwrap();
    assert_eq!(cache.cached().len(), held);
}
