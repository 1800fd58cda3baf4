//! A driver of a few hundred lines less than Linux has: rings, registers, and requests cut up as a test likes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sky_devices::block::{BlockDevice, MemoryDisk};
use sky_devices::virtio::Memory;
use sky_devices::virtio::blk::{Blk, BlkSpec, NoClassifier};
use sky_devices::virtio::mmio::{MmioTransport, QUEUE_NOTIFY_OFFSET};
use virtio_queue::desc::RawDescriptor;
use virtio_queue::desc::split::{Descriptor, VirtqUsedElem};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

pub(crate) const QUEUE_SIZE: u16 = 16;
/// Rings live in a region of their own, 64 KiB per queue. Small numbers are no addresses at all.
pub(crate) const RING_BASE: u32 = 0x40_0000;
pub(crate) const RING_REGION: usize = 0x10_0000;
/// Buffers live here; there is nothing between the regions and nothing behind this one.
pub(crate) const DATA_BASE: u64 = 0x100_0000;
pub(crate) const DATA_SIZE: usize = 0x8_0000;

pub(crate) const FEATURE_EVENT_IDX: u64 = 1 << 29;
pub(crate) const FEATURE_VERSION_1: u64 = 1 << 32;
pub(crate) const FEATURE_INDIRECT: u64 = 1 << 28;

pub(crate) const FLAG_NEXT: u16 = 1;
pub(crate) const FLAG_WRITE: u16 = 2;
pub(crate) const FLAG_INDIRECT: u16 = 4;

pub(crate) const IN: u32 = 0;
pub(crate) const OUT: u32 = 1;
pub(crate) const FLUSH: u32 = 4;
pub(crate) const GET_ID: u32 = 8;
pub(crate) const DISCARD: u32 = 11;
pub(crate) const WRITE_ZEROES: u32 = 13;

pub(crate) const OK: u8 = 0;
pub(crate) const IOERR: u8 = 1;
pub(crate) const UNSUPP: u8 = 2;

/// What a request's status byte and buffers hold before the device has seen it.
pub(crate) const UNTOUCHED: u8 = 0xaa;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) address: u64,
    pub(crate) length: u32,
    pub(crate) writable: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u8,
    pub(crate) output: Vec<u8>,
    pub(crate) used_length: u32,
}

/// Request header as a driver writes it.
pub(crate) fn header(kind: u32, sector: u64) -> Vec<u8> {
    [kind.to_le_bytes().as_slice(), &[0; 4], &sector.to_le_bytes()].concat()
}

/// First sector, number of sectors, and flags of a discard or write-zeroes range.
pub(crate) type SectorRange = (u64, u32, u32);

/// Ranges of a discard or write-zeroes request.
pub(crate) fn ranges(list: &[SectorRange]) -> Vec<u8> {
    list.iter()
        .flat_map(|(sector, sectors, flags)| {
            [sector.to_le_bytes().as_slice(), &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
        })
        .collect()
}

pub(crate) struct Driver {
    pub(crate) transport: MmioTransport,
    pub(crate) memory: Memory,
    pub(crate) irq: EventFd,
    available: Vec<u16>,
    seen: Vec<u16>,
}

impl Driver {
    pub(crate) fn new(device: Blk) -> Self {
        let regions = [(GuestAddress(RING_BASE.into()), RING_REGION), (GuestAddress(DATA_BASE), DATA_SIZE)];
        let memory = Memory::new(GuestMemoryMmap::from_ranges(&regions).unwrap());
        let irq = EventFd::new(EFD_NONBLOCK).unwrap();
        let transport =
            MmioTransport::new(Box::new(device), memory.clone(), irq.try_clone().unwrap()).unwrap();
        let queues = transport.queue_notifiers().len();
        Self { transport, memory, irq, available: vec![0; queues], seen: vec![0; queues] }
    }

    /// A running driver over `disk`, with every feature but the event index.
    pub(crate) fn over(disk: Arc<dyn BlockDevice>, num_queues: u16) -> Self {
        let spec = BlkSpec { serial: "sky-test".into(), num_queues, queue_size: QUEUE_SIZE };
        let mut driver = Self::new(Blk::new(spec, disk, Arc::new(NoClassifier)).unwrap());
        driver.start(FEATURE_VERSION_1 | FEATURE_INDIRECT);
        driver
    }

    pub(crate) fn read32(&mut self, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        self.transport.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    pub(crate) fn write32(&mut self, offset: u64, value: u32) {
        self.transport.write(offset, &value.to_le_bytes());
    }

    pub(crate) fn ring(queue: u16) -> u64 {
        u64::from(RING_BASE) + 0x1_0000 * u64::from(queue)
    }

    pub(crate) fn write_features(&mut self, features: u64) {
        for (select, half) in [(0, features & 0xffff_ffff), (1, features >> 32)] {
            self.write32(0x24, select);
            self.write32(0x20, u32::try_from(half).unwrap());
        }
    }

    pub(crate) fn configure_queue(&mut self, queue: u16, size: u16) {
        let base = u32::try_from(Self::ring(queue)).unwrap();
        self.write32(0x30, queue.into());
        self.write32(0x38, size.into());
        for (register, address) in [(0x80, base), (0x90, base + 0x4000), (0xa0, base + 0x8000)] {
            self.write32(register, address);
            self.write32(register + 4, 0);
        }
        self.write32(0x44, 1);
    }

    /// Initialises the device (section 3.1.1) and all its queues, from a reset on.
    pub(crate) fn start(&mut self, features: u64) {
        let queues = u16::try_from(self.available.len()).unwrap();
        self.start_with(features, queues);
    }

    pub(crate) fn start_with(&mut self, features: u64, queues: u16) {
        self.write32(0x70, 0);
        self.write32(0x70, 1);
        self.write32(0x70, 3);
        self.write_features(features);
        self.write32(0x70, 11);
        assert_eq!(self.read32(0x70), 11, "features are accepted");
        for queue in 0..queues {
            let zeroes = [0; 0x1_0000];
            self.memory.memory().write_slice(&zeroes, GuestAddress(Self::ring(queue))).unwrap();
            self.configure_queue(queue, QUEUE_SIZE);
        }
        self.available.fill(0);
        self.seen.fill(0);
        self.write32(0x70, 15);
        assert_eq!(self.read32(0x70), 15, "the device runs");
    }

    pub(crate) fn set_descriptor(&mut self, table: u64, index: u16, descriptor: Descriptor) {
        let at = GuestAddress(table + 16 * u64::from(index));
        self.memory.memory().write_obj(RawDescriptor::from(descriptor), at).unwrap();
    }

    /// Lays `pieces` out as a chain from descriptor `head` on.
    pub(crate) fn chain(&mut self, queue: u16, head: u16, pieces: &[Piece]) {
        for (index, piece) in (head..).zip(pieces) {
            let more = usize::from(index - head) + 1 < pieces.len();
            let flags = if piece.writable { FLAG_WRITE } else { 0 } | if more { FLAG_NEXT } else { 0 };
            let descriptor = Descriptor::new(piece.address, piece.length, flags, index + 1);
            self.set_descriptor(Self::ring(queue), index, descriptor);
        }
    }

    /// Makes the chain at `head` available, without a kick.
    pub(crate) fn offer(&mut self, queue: u16, head: u16) {
        let memory = self.memory.memory();
        let base = Self::ring(queue) + 0x4000;
        let next = &mut self.available[usize::from(queue)];
        memory.write_obj(head, GuestAddress(base + 4 + 2 * u64::from(*next % QUEUE_SIZE))).unwrap();
        *next = next.wrapping_add(1);
        memory.store(*next, GuestAddress(base + 2), Ordering::Release).unwrap();
    }

    pub(crate) fn kick(&mut self, queue: u16) {
        self.write32(QUEUE_NOTIFY_OFFSET, queue.into());
    }

    /// The next entry of the used ring, if there is one now.
    pub(crate) fn poll(&mut self, queue: u16) -> Option<(u32, u32)> {
        let memory = self.memory.memory();
        let base = Self::ring(queue) + 0x8000;
        let seen = &mut self.seen[usize::from(queue)];
        let used: u16 = memory.load(GuestAddress(base + 2), Ordering::Acquire).unwrap();
        if used == *seen {
            return None;
        }
        let at = GuestAddress(base + 4 + 8 * u64::from(*seen % QUEUE_SIZE));
        *seen = seen.wrapping_add(1);
        let entry: VirtqUsedElem = memory.read_obj(at).unwrap();
        Some((entry.id(), entry.len()))
    }

    /// The next entry of the used ring: head and length.
    pub(crate) fn wait(&mut self, queue: u16) -> (u32, u32) {
        let mut entry = None;
        until("a used buffer", || {
            entry = self.poll(queue);
            entry.is_some()
        });
        entry.unwrap()
    }

    /// Sends one request cut into pieces of at most `cut` bytes, on queue 0, and waits for its end.
    pub(crate) fn request(
        &mut self,
        kind: u32,
        sector: u64,
        input: &[u8],
        room: usize,
        cut: usize,
    ) -> Answer {
        self.request_on(0, kind, sector, input, room, cut)
    }

    pub(crate) fn request_on(
        &mut self,
        queue: u16,
        kind: u32,
        sector: u64,
        input: &[u8],
        room: usize,
        cut: usize,
    ) -> Answer {
        let pieces = self.place(&[header(kind, sector), input.to_vec()].concat(), room + 1, cut);
        self.chain(queue, 0, &pieces);
        self.offer(queue, 0);
        self.kick(queue);
        let (head, used_length) = self.wait(queue);
        assert_eq!(head, 0);
        let mut output = self.collect(&pieces);
        let status = output.pop().unwrap();
        Answer { status, output, used_length }
    }

    /// Puts a request's streams into guest memory, with gaps between the pieces.
    fn place(&mut self, readable: &[u8], writable: usize, cut: usize) -> Vec<Piece> {
        let memory = self.memory.memory();
        let mut address = DATA_BASE + 3;
        let mut pieces = Vec::new();
        let untouched = vec![UNTOUCHED; writable];
        for (stream, is_writable) in [(readable, false), (&untouched, true)] {
            for piece in stream.chunks(cut) {
                memory.write_slice(piece, GuestAddress(address)).unwrap();
                let length = u32::try_from(piece.len()).unwrap();
                pieces.push(Piece { address, length, writable: is_writable });
                address += u64::from(length) + 5;
            }
        }
        assert!(pieces.len() <= usize::from(QUEUE_SIZE), "the request is cut too small for the queue");
        pieces
    }

    fn collect(&self, pieces: &[Piece]) -> Vec<u8> {
        let memory = self.memory.memory();
        let mut bytes = Vec::new();
        for piece in pieces.iter().filter(|piece| piece.writable) {
            let mut part = vec![0; usize::try_from(piece.length).unwrap()];
            memory.read_slice(&mut part, GuestAddress(piece.address)).unwrap();
            bytes.extend(part);
        }
        bytes
    }

    pub(crate) fn data(&self) -> Vec<u8> {
        let mut bytes = vec![0; DATA_SIZE];
        self.memory.memory().read_slice(&mut bytes, GuestAddress(DATA_BASE)).unwrap();
        bytes
    }
}

/// Waits until `done`, and fails the test if that takes seconds.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "no sign of {what}");
        std::thread::yield_now();
    }
}

/// A disk of `sectors` sectors that all differ.
pub(crate) fn numbered_disk(sectors: usize, read_only: bool) -> Arc<MemoryDisk> {
    Arc::new(MemoryDisk::from_bytes(numbered(0, sectors), read_only).unwrap())
}

/// What [`numbered_disk`] holds from sector `first` on.
pub(crate) fn numbered(first: usize, sectors: usize) -> Vec<u8> {
    (first * 512..(first + sectors) * 512).map(|at| (at / 512 * 7 + at % 251) as u8).collect()
}
