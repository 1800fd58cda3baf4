//! Initialisation, interrupts, reset, shutdown, and devices or rings that break.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use sky_devices::block::{BlockDevice, Geometry, MemoryDisk, Result};
use sky_devices::io_class::IoTag;
use sky_devices::virtio::blk::{Blk, BlkSpec, NoClassifier};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

use crate::driver::*;

const NEEDS_RESET: u32 = 64;

fn blk(disk: Arc<dyn BlockDevice>, num_queues: u16) -> Blk {
    let spec = BlkSpec { num_queues, queue_size: QUEUE_SIZE, ..BlkSpec::default() };
    Blk::new(spec, disk, Arc::new(NoClassifier)).unwrap()
}

/// Where the driver says after which used buffer it wants an interrupt.
fn used_event() -> GuestAddress {
    GuestAddress(Driver::ring(0) + 0x4000 + 4 + 2 * u64::from(QUEUE_SIZE))
}

fn offer_read(driver: &mut Driver, index: u16) {
    let address = DATA_BASE + 0x1000 * u64::from(index);
    let memory = driver.memory.memory();
    memory.write_slice(&header(IN, index.into()), GuestAddress(address)).unwrap();
    let piece = |offset, length, writable| Piece { address: address + offset, length, writable };
    let chain = [piece(0, 16, false), piece(16, 512, true), piece(1024, 1, true)];
    driver.chain(0, 3 * index, &chain);
    driver.offer(0, 3 * index);
}

#[test]
fn registers_introduce_a_block_device() {
    let mut driver = Driver::new(blk(numbered_disk(64, false), 2));
    assert_eq!([0, 4, 8].map(|offset| driver.read32(offset)), [0x7472_6976, 2, 2]);
    driver.write32(0x14, 1);
    assert_eq!(driver.read32(0x10), 1, "VERSION_1");
    driver.write32(0x14, 0);
    let low = driver.read32(0x10);
    assert_eq!(
        low,
        1 << 29 | 1 << 28 | 1 << 14 | 1 << 13 | 1 << 12 | 1 << 10 | 1 << 9 | 1 << 6 | 1 << 2 | 1 << 1
    );
    driver.write32(0x14, 2);
    assert_eq!(driver.read32(0x10), 0);
    for (queue, size) in [(0, 16), (1, 16), (2, 0), (u32::MAX, 0)] {
        driver.write32(0x30, queue);
        assert_eq!(driver.read32(0x34), size);
    }
    let mut capacity = [0; 8];
    driver.transport.read(0x100, &mut capacity);
    assert_eq!(u64::from_le_bytes(capacity), 64);
    let mut beyond = [1; 8];
    driver.transport.read(0x100 + 56, &mut beyond);
    assert_eq!(beyond, [1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(driver.read32(0xb0), u32::MAX, "no shared memory");
}

#[test]
fn features_are_refused_unless_they_were_offered_with_version_1() {
    let offered = FEATURE_VERSION_1 | FEATURE_EVENT_IDX | 1 << 9;
    for (features, accepted) in [
        (offered, true),
        (FEATURE_VERSION_1, true),
        (1 << 9, false),
        (0, false),
        (offered | 1 << 5, false),
        (offered | 1 << 63, false),
    ] {
        let mut driver = Driver::new(blk(numbered_disk(8, false), 1));
        driver.write32(0x70, 3);
        driver.write_features(features);
        driver.write32(0x70, 11);
        assert_eq!(driver.read32(0x70) & 8 != 0, accepted, "{features:#x}");
    }
    let mut driver = Driver::new(blk(numbered_disk(8, false), 1));
    driver.write32(0x70, 3);
    driver.write_features(FEATURE_VERSION_1);
    driver.write32(0x24, 2);
    driver.write32(0x20, 1);
    driver.write32(0x70, 11);
    assert_eq!(driver.read32(0x70), 3, "a feature beyond the 64th");
}

#[test]
fn steps_cannot_be_skipped_or_taken_back() {
    let mut driver = Driver::new(blk(numbered_disk(8, false), 1));
    driver.write32(0x70, 2);
    assert_eq!(driver.read32(0x70), 0, "DRIVER without ACKNOWLEDGE");
    driver.write32(0x70, 1);
    driver.write_features(FEATURE_VERSION_1);
    driver.write32(0x70, 1 | 8);
    assert_eq!(driver.read32(0x70), 1, "FEATURES_OK without DRIVER");
    driver.write32(0x70, 7);
    assert_eq!(driver.read32(0x70), 3, "DRIVER_OK without FEATURES_OK");
    driver.configure_queue(0, QUEUE_SIZE);
    assert_eq!(driver.read32(0x44), 0, "a queue before FEATURES_OK");
    driver.write32(0x70, 11);
    driver.write32(0x70, 1);
    assert_eq!(driver.read32(0x70), 11, "bits taken back");
    driver.write_features(FEATURE_VERSION_1 | FEATURE_EVENT_IDX);
    driver.configure_queue(0, QUEUE_SIZE);
    assert_eq!(driver.read32(0x44), 1);
    driver.write32(0x70, 15);
    assert_eq!(driver.read32(0x70), 15);
    driver.memory.memory().write_obj(9_u16, used_event()).unwrap();
    assert_eq!(driver.request(IN, 0, &[], 512, 4096).status, OK);
    until("an interrupt, as the event index came after FEATURES_OK", || driver.irq.read().is_ok());
}

#[test]
fn a_transport_may_be_shared_between_vcpus() {
    fn assert_send<T: Send>(_: &T) {}
    assert_send(&Driver::new(blk(numbered_disk(8, false), 1)).transport);
}

#[test]
fn driver_ok_is_announced_once() {
    let mut driver = Driver::new(blk(numbered_disk(8, false), 1));
    let calls = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&calls);
    driver.transport.set_on_driver_ok(Box::new(move || {
        counter.fetch_add(1, Ordering::Relaxed);
    }));
    driver.write32(0x70, 3);
    assert_eq!(calls.load(Ordering::Relaxed), 0);
    driver.start(FEATURE_VERSION_1);
    driver.start(FEATURE_VERSION_1);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[test]
fn a_wrong_queue_needs_a_reset() {
    let break_queue: [fn(&mut Driver); 5] = [
        |driver| driver.write32(0x38, 12),
        |driver| driver.write32(0x38, 32),
        |driver| driver.write32(0x84, 1),
        |driver| driver.write32(0x90, RING_BASE + 1),
        |driver| driver.write32(0xa0, RING_BASE + 0xfffc),
    ];
    for (case, change) in break_queue.into_iter().enumerate() {
        let mut driver = Driver::new(blk(numbered_disk(8, false), 1));
        driver.write32(0x70, 3);
        driver.write_features(FEATURE_VERSION_1);
        driver.write32(0x70, 11);
        driver.configure_queue(0, QUEUE_SIZE);
        driver.write32(0x44, 0);
        change(&mut driver);
        driver.write32(0x44, 1);
        driver.write32(0x70, 15);
        let broken = driver.read32(0x70) & NEEDS_RESET != 0;
        // The last one is merely odd: rings may lie anywhere in memory.
        assert_eq!(broken, case < 4, "case {case}");
        assert_eq!(driver.read32(0x60) & 2 != 0, broken, "the driver is told, case {case}");
        driver.start(FEATURE_VERSION_1);
        assert_eq!(driver.request(IN, 0, &[], 512, 4096).output, numbered(0, 1));
    }
}

#[test]
fn interrupts_are_raised_acknowledged_and_suppressed() {
    let mut driver = Driver::over(numbered_disk(8, false), 1);
    assert_eq!(driver.request(IN, 0, &[], 512, 4096).status, OK);
    until("an interrupt", || driver.irq.read().is_ok());
    assert_eq!(driver.read32(0x60), 1);
    driver.write32(0x64, 2);
    assert_eq!(driver.read32(0x60), 1, "another reason was acknowledged");
    driver.write32(0x64, 1);
    assert_eq!(driver.read32(0x60), 0);

    let flags = GuestAddress(Driver::ring(0) + 0x4000);
    driver.memory.memory().write_obj(1_u16, flags).unwrap();
    assert_eq!(driver.request(IN, 0, &[], 512, 4096).status, OK);
    // Stopping the worker makes sure that an interrupt would have been raised by now.
    driver.transport.shutdown();
    assert_eq!((driver.read32(0x60), driver.irq.read().is_err()), (0, true));
}

#[test]
fn the_event_index_says_when_to_interrupt() {
    let mut driver = Driver::new(blk(numbered_disk(8, false), 1));
    driver.start(FEATURE_VERSION_1 | FEATURE_EVENT_IDX);
    driver.memory.memory().write_obj(2_u16, used_event()).unwrap();
    for _ in 0..2 {
        assert_eq!(driver.request(IN, 0, &[], 512, 4096).status, OK);
    }
    offer_read(&mut driver, 1);
    assert!(driver.irq.read().is_err(), "two used buffers are not three");
    driver.kick(0);
    driver.wait(0);
    until("the interrupt for the third", || driver.irq.read().is_ok());
}

#[test]
fn a_kick_through_the_ioeventfd_counts_too() {
    let mut driver = Driver::over(numbered_disk(8, false), 1);
    offer_read(&mut driver, 2);
    driver.transport.queue_notifiers()[0].write(1).unwrap();
    assert_eq!(driver.wait(0), (6, 513));
}

#[test]
fn reset_stops_the_device_and_it_starts_again() {
    let mut driver = Driver::over(numbered_disk(8, false), 2);
    for _ in 0..3 {
        assert_eq!(driver.request(IN, 3, &[], 512, 4096).output, numbered(3, 1));
        driver.write32(0x70, 0);
        assert_eq!([0x44, 0x60, 0x70].map(|offset| driver.read32(offset)), [0, 0, 0]);
        offer_read(&mut driver, 0);
        driver.kick(0);
        std::thread::sleep(std::time::Duration::from_millis(5));
        assert_eq!(driver.poll(0), None, "nobody serves a device that was reset");
        driver.start(FEATURE_VERSION_1);
    }
}

#[test]
fn one_queue_can_be_stopped_alone() {
    let mut driver = Driver::over(numbered_disk(8, false), 2);
    driver.write32(0x30, 0);
    driver.write32(0x44, 0);
    assert_eq!(driver.read32(0x44), 0);
    driver.write32(0x44, 1);
    assert_eq!(driver.read32(0x44), 0, "a running device takes no new queues");
    offer_read(&mut driver, 0);
    driver.kick(0);
    assert_eq!(driver.request_on(1, IN, 3, &[], 512, 4096).status, OK);
    assert_eq!(driver.poll(0), None);
}

#[test]
fn queues_that_the_driver_left_out_are_left_alone() {
    let mut driver = Driver::new(blk(numbered_disk(8, false), 4));
    driver.start_with(FEATURE_VERSION_1, 2);
    assert_eq!(driver.request_on(1, IN, 1, &[], 512, 4096).status, OK);
    driver.kick(3);
    driver.kick(9);
    assert_eq!(driver.read32(0x70), 15);
}

/// A disk that waits, or panics, on demand.
#[derive(Debug)]
struct Moody {
    disk: Arc<MemoryDisk>,
    waits: AtomicBool,
    is_busy: AtomicBool,
    panics: AtomicBool,
}

impl Moody {
    fn new() -> Arc<Self> {
        let flag = || AtomicBool::new(false);
        Arc::new(Self { disk: numbered_disk(8, false), waits: flag(), is_busy: flag(), panics: flag() })
    }
}

impl BlockDevice for Moody {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }

    fn read(&self, offset: u64, buffer: &mut [u8], tags: &[IoTag]) -> Result<()> {
        self.is_busy.store(true, Ordering::Release);
        until("leave to go on", || !self.waits.load(Ordering::Acquire));
        assert!(!self.panics.load(Ordering::Acquire), "the test wants a panic here");
        self.disk.read(offset, buffer, tags)
    }

    fn write(&self, offset: u64, data: &[u8], tags: &[IoTag]) -> Result<()> {
        self.disk.write(offset, data, tags)
    }

    fn flush(&self) -> Result<()> {
        self.disk.flush()
    }

    fn discard(&self, offset: u64, length: u64) -> Result<()> {
        self.disk.discard(offset, length)
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> Result<()> {
        self.disk.write_zeroes(offset, length, unmap)
    }
}

#[test]
fn shutdown_waits_for_what_is_outstanding() {
    let disk = Moody::new();
    disk.waits.store(true, Ordering::Release);
    let mut driver = Driver::over(disk.clone(), 1);
    offer_read(&mut driver, 0);
    driver.kick(0);
    until("the first read", || disk.is_busy.load(Ordering::Acquire));
    // These come without a kick, while the worker is busy.
    offer_read(&mut driver, 1);
    offer_read(&mut driver, 2);
    let release = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(20));
        disk.waits.store(false, Ordering::Release);
    });
    driver.transport.shutdown();
    for head in [0, 3, 6] {
        assert_eq!(driver.poll(0), Some((head, 513)));
    }
    release.join().unwrap();
}

#[test]
fn a_panic_in_the_block_stack_needs_a_reset() {
    let disk = Moody::new();
    disk.panics.store(true, Ordering::Release);
    let mut driver = Driver::over(disk.clone(), 1);
    offer_read(&mut driver, 0);
    driver.kick(0);
    until("the alarm", || driver.read32(0x70) & NEEDS_RESET != 0);
    assert_eq!(driver.read32(0x60), 2);
    disk.panics.store(false, Ordering::Release);
    driver.start(FEATURE_VERSION_1);
    assert_eq!(driver.request(IN, 3, &[], 512, 4096).output, numbered(3, 1));
}

#[test]
fn broken_rings_need_a_reset() {
    for case in 0..2 {
        let mut driver = Driver::over(numbered_disk(8, false), 1);
        let memory = driver.memory.memory();
        let available = Driver::ring(0) + 0x4000;
        if case == 0 {
            // More buffers than the queue has entries.
            memory.write_obj(QUEUE_SIZE + 1, GuestAddress(available + 2)).unwrap();
        } else {
            // A chain that begins behind the descriptor table.
            memory.write_obj(QUEUE_SIZE, GuestAddress(available + 4)).unwrap();
            memory.write_obj(1_u16, GuestAddress(available + 2)).unwrap();
        }
        driver.kick(0);
        until("the alarm", || driver.read32(0x70) & NEEDS_RESET != 0);
        driver.start(FEATURE_VERSION_1);
        assert_eq!(driver.request(IN, 3, &[], 512, 4096).output, numbered(3, 1));
    }
}
