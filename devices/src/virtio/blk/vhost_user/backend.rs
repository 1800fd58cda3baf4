//! What the library asks of a device: its features, its configuration space, and a pass over a queue for each kick.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackend, VringMutex, VringState, VringT};
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestAddressSpace;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier};

use crate::virtio::Memory;
use crate::virtio::blk::Blk;
use crate::virtio::blk::config::ConfigSpace;
use crate::virtio::blk::execute::Executor;
use crate::virtio::blk::rings::{self, Rings};

/// The library numbers the queues of a thread by the bits of 64.
pub(super) const MAX_QUEUES: usize = 64;
/// The longest configuration space of the protocol, in bytes.
const MAX_CONFIG_SIZE: u32 = 256;

/// One frontend's view of the device.
pub(super) struct Backend {
    features: u64,
    config: ConfigSpace,
    queue_sizes: Vec<u16>,
    memory: Memory,
    /// One per queue, and so one per thread.
    executors: Vec<Mutex<Executor>>,
    /// The library asks each thread's for once.
    exits: Mutex<Vec<Option<(EventConsumer, EventNotifier)>>>,
    stopping: AtomicBool,
}

impl Backend {
    /// # Errors
    /// No descriptors are left.
    pub(super) fn new(device: &Blk, memory: Memory) -> io::Result<Self> {
        let queues = device.queue_sizes.iter();
        let exit = || new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC).map(Some);
        Ok(Self {
            features: device.features | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits(),
            config: device.config.clone(),
            queue_sizes: device.queue_sizes.clone(),
            memory,
            executors: queues.clone().map(|_| Mutex::new(Executor::new(device.disk.clone()))).collect(),
            exits: Mutex::new(queues.map(|_| exit()).collect::<io::Result<_>>()?),
            stopping: AtomicBool::new(false),
        })
    }

    /// Serves no more than what is being served: a guest that never stops asking must not keep the process alive.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }
}

impl Rings for VringState {
    fn queue(&mut self) -> &mut Queue {
        self.get_queue_mut()
    }

    fn interrupt(&self) -> io::Result<()> {
        match self.signal_used_queue() {
            // The counter is full: the frontend has been told and has not looked yet.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            result => result,
        }
    }
}

impl VhostUserBackend for Backend {
    type Bitmap = ();
    type Vring = VringMutex;

    fn num_queues(&self) -> usize {
        self.queue_sizes.len()
    }

    fn max_queue_size(&self) -> usize {
        self.queue_sizes.iter().copied().max().map_or(0, usize::from)
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
    }

    /// The library has told the queues.
    fn set_event_idx(&self, _enabled: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(size.min(MAX_CONFIG_SIZE)).unwrap_or(0)];
        self.config.read(offset.into(), &mut bytes);
        bytes
    }

    /// Nothing in the configuration space can be written.
    fn set_config(&self, _offset: u32, _bytes: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    /// The library changes the map behind the handle that the queues' threads use.
    fn update_memory(&self, _memory: Memory) -> io::Result<()> {
        Ok(())
    }

    fn queues_per_thread(&self) -> Vec<u64> {
        (0..self.num_queues()).map(|index| 1 << index).collect()
    }

    fn exit_event(&self, thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        self.exits.lock().unwrap_or_else(PoisonError::into_inner).get_mut(thread)?.take()
    }

    fn handle_event(
        &self,
        event: u16,
        _events: EventSet,
        vrings: &[VringMutex],
        thread: usize,
    ) -> io::Result<()> {
        let index = usize::from(event);
        let (Some(vring), Some(executor)) = (vrings.get(index), self.executors.get(thread)) else {
            return Err(io::Error::other(format!("an event {event} that nobody registered")));
        };
        // Nobody else uses this thread's; after a panic the next request starts from fresh buffers anyway.
        let mut executor = executor.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.stopping.load(Ordering::Acquire) {
            // Locked for one pass only: the control thread wants the queue too.
            let mut vring = vring.get_mut();
            if !vring.is_enabled() || !vring.get_queue().ready() {
                break;
            }
            let memory = self.memory.memory();
            match rings::drain(&mut *vring, &mut executor, &memory) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    tracing::error!(%error, queue = thread, "a disk queue is broken; the frontend must reset the device");
                    return Err(io::Error::other(error));
                }
            }
        }
        Ok(())
    }
}
