//! What a VMM and its guest's driver do together: share memory, set up rings, send requests.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use sky_devices::block::{BlockDevice, MemoryDisk};
use sky_devices::virtio::blk::vhost_user::{self, ServeError};
use sky_devices::virtio::blk::{Blk, BlkSpec, NoClassifier};
use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

pub(crate) const QUEUE_SIZE: u16 = 16;
/// Where the guest's only memory begins, and its length.
pub(crate) const BASE: u64 = 0x10_0000;
const LENGTH: usize = 0x40_0000;
/// Rings of queue N begin at [`BASE`] + N times this; buffers are in the upper half.
const RINGS: u64 = 0x1_0000;
const BUFFERS: u64 = BASE + 0x20_0000;

pub(crate) const IN: u32 = 0;
pub(crate) const OUT: u32 = 1;
pub(crate) const FLUSH: u32 = 4;
pub(crate) const GET_ID: u32 = 8;
pub(crate) const DISCARD: u32 = 11;
pub(crate) const WRITE_ZEROES: u32 = 13;

pub(crate) const EVENT_IDX: u64 = 1 << 29;
pub(crate) const VERSION_1: u64 = 1 << 32;

/// A served disk.
pub(crate) struct Server {
    folder: tempfile::TempDir,
    stop: EventFd,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
}

impl Server {
    pub(crate) fn new(disk: Arc<dyn BlockDevice>, queues: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
        let stop = EventFd::new(EFD_NONBLOCK).unwrap();
        let told = stop.try_clone().unwrap();
        let spec = BlkSpec { serial: "vhost-test".into(), num_queues: queues, queue_size: QUEUE_SIZE };
        let device = Blk::new(spec, disk, Arc::new(NoClassifier)).unwrap();
        let thread = thread::spawn(move || vhost_user::serve(&device, listener, &told));
        Self { folder, stop, thread: Some(thread) }
    }

    pub(crate) fn over_memory(size: usize, queues: u16) -> (Self, Arc<MemoryDisk>) {
        let disk = Arc::new(MemoryDisk::new(size).unwrap());
        (Self::new(Arc::clone(&disk) as Arc<dyn BlockDevice>, queues), disk)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// Signals the end and waits for it.
    pub(crate) fn stop(mut self) {
        self.stop.write(1).unwrap();
        self.thread.take().unwrap().join().unwrap().unwrap();
    }
}

struct Ring {
    kick: EventFd,
    call: EventFd,
    available: u16,
    seen: u16,
}

/// A connected frontend with a running driver.
pub(crate) struct Driver {
    pub(crate) frontend: Frontend,
    pub(crate) memory: GuestMemoryMmap,
    rings: Vec<Ring>,
}

impl Driver {
    /// Connects and starts `queues` queues with the given features of the device.
    pub(crate) fn start(server: &Server, queues: u16, features: u64) -> Self {
        let stream = UnixStream::connect(server.socket()).unwrap();
        let mut frontend = Frontend::from_stream(stream, queues.into());
        frontend.set_owner().unwrap();
        let offered = frontend.get_features().unwrap();
        let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        assert_eq!((features | protocol) & !offered, 0, "the device offers what is wanted");
        let wanted = VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK;
        assert!(frontend.get_protocol_features().unwrap().contains(wanted));
        frontend.set_features(features | protocol).unwrap();
        frontend.set_protocol_features(wanted).unwrap();
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        assert!(frontend.get_queue_num().unwrap() >= queues.into());

        let file = tempfile::tempfile().unwrap();
        file.set_len(LENGTH as u64).unwrap();
        let range = (GuestAddress(BASE), LENGTH, Some(FileOffset::new(file, 0)));
        let memory: GuestMemoryMmap = GuestMemoryMmap::from_ranges_with_files([range]).unwrap();
        let region = VhostUserMemoryRegionInfo::from_guest_region(memory.iter().next().unwrap()).unwrap();
        frontend.set_mem_table(&[region]).unwrap();
        let mut driver = Self { frontend, memory, rings: Vec::new() };
        (0..queues).for_each(|queue| driver.start_queue(queue));
        driver
    }

    fn start_queue(&mut self, queue: u16) {
        let index = usize::from(queue);
        let ring = Ring {
            kick: EventFd::new(EFD_NONBLOCK).unwrap(),
            call: EventFd::new(EFD_NONBLOCK).unwrap(),
            available: 0,
            seen: 0,
        };
        let host = |address| self.memory.get_host_address(GuestAddress(address)).unwrap().addr() as u64;
        let config = VringConfigData {
            queue_max_size: QUEUE_SIZE,
            queue_size: QUEUE_SIZE,
            flags: 0,
            desc_table_addr: host(table(queue)),
            used_ring_addr: host(used(queue)),
            avail_ring_addr: host(available(queue)),
            log_addr: None,
        };
        self.frontend.set_vring_num(index, QUEUE_SIZE).unwrap();
        self.frontend.set_vring_addr(index, &config).unwrap();
        self.frontend.set_vring_base(index, 0).unwrap();
        self.frontend.set_vring_call(index, &ring.call).unwrap();
        self.frontend.set_vring_kick(index, &ring.kick).unwrap();
        self.frontend.set_vring_enable(index, true).unwrap();
        self.rings.push(ring);
    }

    /// The configuration space.
    pub(crate) fn config(&mut self) -> Vec<u8> {
        let (_, bytes) = self.frontend.get_config(0, 60, VhostUserConfigFlags::WRITABLE, &[0; 60]).unwrap();
        bytes
    }

    /// Lays out a request and offers it, without a kick. `slot` is which of five requests of the queue it is.
    pub(crate) fn offer(&mut self, queue: u16, slot: u16, kind: u32, sector: u64, input: &[u8], room: usize) {
        let header = [kind.to_le_bytes().as_slice(), &[0; 4], &sector.to_le_bytes()].concat();
        let base = buffer(queue, slot);
        let mut pieces = vec![(header.as_slice(), 0)];
        if !input.is_empty() {
            pieces.push((input, 0));
        }
        let untouched = vec![0xaa; room + 1];
        if room > 0 {
            pieces.push((&untouched[1..], 2));
        }
        pieces.push((&untouched[..1], 2));
        let mut address = base;
        let last = pieces.len() - 1;
        for (number, (bytes, write)) in pieces.into_iter().enumerate() {
            self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
            let index = slot * 3 + number as u16;
            let flags: u16 = write | u16::from(number != last);
            let descriptor = [
                address.to_le_bytes().as_slice(),
                &(bytes.len() as u32).to_le_bytes(),
                &flags.to_le_bytes(),
                &(index + 1).to_le_bytes(),
            ]
            .concat();
            let at = table(queue) + 16 * u64::from(index);
            self.memory.write_slice(&descriptor, GuestAddress(at)).unwrap();
            address += bytes.len() as u64;
        }
        let ring = &mut self.rings[usize::from(queue)];
        let at = available(queue) + 4 + 2 * u64::from(ring.available % QUEUE_SIZE);
        self.memory.write_obj(slot * 3, GuestAddress(at)).unwrap();
        ring.available = ring.available.wrapping_add(1);
        self.memory.store(ring.available, GuestAddress(available(queue) + 2), Ordering::Release).unwrap();
    }

    pub(crate) fn kick(&self, queue: u16) {
        self.rings[usize::from(queue)].kick.write(1).unwrap();
    }

    /// Asks, with the event index, for an interrupt when `ahead` more buffers than now are used.
    pub(crate) fn interrupt_after(&self, queue: u16, ahead: u16) {
        let ring = &self.rings[usize::from(queue)];
        let at = available(queue) + 4 + 2 * u64::from(QUEUE_SIZE);
        self.memory.write_obj(ring.seen.wrapping_add(ahead - 1), GuestAddress(at)).unwrap();
    }

    /// Waits until `count` more requests are used.
    pub(crate) fn wait(&mut self, queue: u16, count: u16) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let goal = self.rings[usize::from(queue)].seen.wrapping_add(count);
        loop {
            let now: u16 = self.memory.load(GuestAddress(used(queue) + 2), Ordering::Acquire).unwrap();
            if now == goal {
                break;
            }
            assert!(Instant::now() < deadline, "no sign of {count} used buffers on queue {queue}");
            thread::yield_now();
        }
        self.rings[usize::from(queue)].seen = goal;
    }

    /// Interrupts since the last call.
    pub(crate) fn interrupts(&self, queue: u16) -> u64 {
        match self.rings[usize::from(queue)].call.read() {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => panic!("{error}"),
        }
    }

    /// What the device answered to the request in `slot`: status and output.
    pub(crate) fn answer(&self, queue: u16, slot: u16, input: usize, room: usize) -> (u8, Vec<u8>) {
        let mut bytes = vec![0; room + 1];
        let at = buffer(queue, slot) + 16 + input as u64;
        self.memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        (bytes.pop().unwrap(), bytes)
    }

    /// Sends one request and waits for its end: status and output.
    pub(crate) fn request(
        &mut self,
        queue: u16,
        kind: u32,
        sector: u64,
        input: &[u8],
        room: usize,
    ) -> (u8, Vec<u8>) {
        self.offer(queue, 0, kind, sector, input, room);
        self.kick(queue);
        self.wait(queue, 1);
        self.answer(queue, 0, input.len(), room)
    }
}

fn table(queue: u16) -> u64 {
    BASE + RINGS * u64::from(queue)
}

pub(crate) fn available(queue: u16) -> u64 {
    table(queue) + 0x4000
}

fn used(queue: u16) -> u64 {
    table(queue) + 0x8000
}

fn buffer(queue: u16, slot: u16) -> u64 {
    BUFFERS + 0x4_0000 * u64::from(queue) + 0x8000 * u64::from(slot)
}
