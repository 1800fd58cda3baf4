//! Moments at which several threads are inside of the cache, each brought about by a tier that holds a request up.

use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use sky_devices::block::{BlockDevice, Geometry, Result, Storage, StorageProperties};
use sky_devices::icache::{self, ICache, Mode, OpenOptions};
use sky_devices::io_class::IoTag;

use super::disks::{Disks, SLOW_SIZE};

const PAGE: u64 = 4096;
/// Lines beyond those that may hold a block at a time, in a small cache.
const SPARE: u64 = 8;

/// Holds up whoever comes while it is closed.
#[derive(Debug, Default)]
struct Gate {
    /// Whether it is closed, and how many wait.
    state: Mutex<(bool, usize)>,
    changed: Condvar,
}

impl Gate {
    fn close(&self) {
        *self.state.lock().unwrap() = (true, 0);
    }

    fn open(&self) {
        self.state.lock().unwrap().0 = false;
        self.changed.notify_all();
    }

    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.1 += 1;
        self.changed.notify_all();
        drop(self.changed.wait_while(state, |state| state.0).unwrap());
    }

    /// Waits until so many wait.
    fn wait_for(&self, many: usize) {
        drop(self.changed.wait_while(self.state.lock().unwrap(), |state| state.1 < many).unwrap());
    }
}

#[derive(Debug, Default)]
struct Gates {
    fast_reads: Gate,
    fast_writes: Gate,
    slow_flushes: Gate,
}

#[derive(Debug)]
struct Fast {
    storage: Arc<dyn Storage>,
    gates: Arc<Gates>,
    /// Where the lines begin: the journal of a new cache lies before them, and passes.
    lines: u64,
}

impl Storage for Fast {
    fn properties(&self) -> StorageProperties {
        self.storage.properties()
    }

    fn size(&self) -> u64 {
        self.storage.size()
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.gates.fast_reads.pass();
        self.storage.read(offset, buffer)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        if offset >= self.lines {
            self.gates.fast_writes.pass();
        }
        self.storage.write(offset, data)
    }

    fn sync(&self) -> Result<()> {
        self.storage.sync()
    }

    fn punch(&self, offset: u64, length: u64) -> Result<bool> {
        self.storage.punch(offset, length)
    }

    fn grow(&self, size: u64) -> Result<()> {
        self.storage.grow(size)
    }
}

#[derive(Debug)]
struct Slow {
    device: Arc<dyn BlockDevice>,
    gates: Arc<Gates>,
}

impl BlockDevice for Slow {
    fn geometry(&self) -> Geometry {
        self.device.geometry()
    }

    fn read(&self, offset: u64, buffer: &mut [u8], tags: &[IoTag]) -> Result<()> {
        self.device.read(offset, buffer, tags)
    }

    fn write(&self, offset: u64, data: &[u8], tags: &[IoTag]) -> Result<()> {
        self.device.write(offset, data, tags)
    }

    fn flush(&self) -> Result<()> {
        self.gates.slow_flushes.pass();
        self.device.flush()
    }

    fn discard(&self, offset: u64, length: u64) -> Result<()> {
        self.device.discard(offset, length)
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> Result<()> {
        self.device.write_zeroes(offset, length, unmap)
    }
}

/// A cache of `pages` pages that is written back late, and the gates of its tiers.
fn open(pages: u64) -> (ICache, Arc<Gates>) {
    let (disks, gates) = (Disks::new(), Arc::new(Gates::default()));
    disks.fast.grow(pages * PAGE).unwrap();
    icache::create(&*disks.fast, SLOW_SIZE).unwrap();
    let options = OpenOptions { mode: Mode::Back, sequential: None, dirty: 90, ..OpenOptions::default() };
    let capacity = ICache::open(disks.fast(), disks.slow(), options.clone()).unwrap().stats().capacity;
    let lines = (pages - SPARE - u64::from(capacity)) * PAGE;
    let fast = Arc::new(Fast { storage: disks.fast(), gates: gates.clone(), lines });
    let slow = Arc::new(Slow { device: disks.slow(), gates: gates.clone() });
    (ICache::open(fast, slow, options).unwrap(), gates)
}

fn read(cache: &ICache, block: u64) -> u8 {
    let mut bytes = [0; 4096];
    cache.read(block * PAGE, &mut bytes, &[]).unwrap();
    assert!(bytes.iter().all(|&byte| byte == bytes[0]));
    bytes[0]
}

fn write(cache: &ICache, block: u64, content: u8) -> Result<()> {
    cache.write(block * PAGE, &[content; 4096], &[])
}

#[test]
fn whoever_overwrites_waits_for_a_line() {
    const WRITERS: u64 = 3 * SPARE;
    let (cache, gates) = open(88);
    (0..u64::from(cache.stats().capacity)).for_each(|block| _ = read(&cache, block));
    (0..WRITERS).for_each(|block| write(&cache, block, 1).unwrap());
    cache.flush().unwrap();
    assert_eq!(
        (cache.cached().len(), cache.stats().dirty),
        (cache.stats().capacity as usize, WRITERS as u32)
    );
    gates.fast_writes.close();
    thread::scope(|scope| {
        let cache = &cache;
        let writers: Vec<_> = (0..WRITERS).map(|block| scope.spawn(move || write(cache, block, 2))).collect();
        gates.fast_writes.wait_for(SPARE as usize);
        // The others find no line now, however often they look.
        thread::sleep(Duration::from_millis(100));
        gates.fast_writes.open();
        writers.into_iter().for_each(|writer| writer.join().unwrap().unwrap());
    });
    (0..WRITERS).for_each(|block| assert_eq!(read(&cache, block), 2));
}

#[test]
fn no_more_blocks_come_in_at_once_than_there_is_room_for() {
    for writes in [false, true] {
        let (cache, gates) = open(88);
        let capacity = u64::from(cache.stats().capacity);
        (1..capacity).for_each(|block| _ = read(&cache, block));
        cache.flush().unwrap();
        gates.fast_writes.close();
        thread::scope(|scope| {
            for block in capacity..capacity + SPARE {
                let cache = &cache;
                scope.spawn(
                    move || if writes { write(cache, block, 1).unwrap() } else { _ = read(cache, block) },
                );
            }
            gates.fast_writes.wait_for(SPARE as usize);
            gates.fast_writes.open();
        });
        assert_eq!(cache.cached().len() as u64, capacity);
        (capacity..capacity + SPARE).for_each(|block| assert_eq!(read(&cache, block), u8::from(writes)));
    }
}

#[test]
fn what_is_written_back_while_it_moves_is_clean() {
    const BLOCKS: u64 = 200;
    let (cache, gates) = open(400);
    // Twice, into other lines each time, so that those at the end hold something.
    (0..2 * BLOCKS).for_each(|round| write(&cache, round % BLOCKS, 1).unwrap());
    cache.flush().unwrap();
    assert_eq!(u64::from(cache.stats().dirty), BLOCKS);
    gates.slow_flushes.close();
    thread::scope(|scope| {
        let back = scope.spawn(|| cache.write_back_all());
        gates.slow_flushes.wait_for(1);
        // All is in the slow tier, though not durably, and nothing is clean yet.
        gates.fast_reads.close();
        let resized = scope.spawn(|| cache.resize(370 * PAGE));
        gates.fast_reads.wait_for(1);
        gates.slow_flushes.open();
        back.join().unwrap().unwrap();
        gates.fast_reads.open();
        resized.join().unwrap().unwrap();
    });
    let dirty = cache.cached().iter().filter(|cached| cached.dirty).count();
    assert_eq!((dirty, cache.stats().dirty), (0, 0));
    (0..BLOCKS).for_each(|block| assert_eq!(read(&cache, block), 1));
}
