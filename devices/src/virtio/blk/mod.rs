//! A block device (section 5.2): the guest's requests on one side, the block stack on the other.
//!
//! ```text
//!   descriptor chain ─▶ chain ─▶ request::Request ─▶ execute::Executor ─▶ request::Completion ─▶ used ring
//!    (guest memory)    streams      checked once       │          │
//!                                            Classifier ┘          └ BlockDevice
//! ```
//!
//! Each queue has a worker thread. Requests of one queue are served in order, those of different queues at
//! the same time. At most 16 MiB of data belong to one request; the driver learns that as 254 segments of 64 KiB.

use std::fmt;
use std::io;
use std::sync::Arc;

use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use vm_memory::GuestAddress;

use super::{Activation, VirtioDevice};
use crate::block::BlockDevice;
use crate::io_class::{Classifier, IoTag};

mod bounce;
mod chain;
mod config;
mod execute;
mod request;
mod rings;
mod spec;
mod stats;
#[cfg(feature = "vhost-user")]
pub mod vhost_user;
mod worker;

use config::ConfigSpace;
use execute::Disk;
pub use spec::{BlkSpec, MAX_QUEUE_SIZE, MAX_QUEUES, MIN_QUEUE_SIZE, SERIAL_SIZE, SpecError};
pub use stats::{Stats, StatsSnapshot};
use worker::Worker;

/// A virtio block device over a [`BlockDevice`].
///
/// The classifier is asked about every 4 KiB block of every read and write, before the block stack is called: for a
/// write with the piece of the block that the request covers, at the offset where that piece begins; for a read with
/// the offset where the block begins. Discarded and zeroed ranges are reported with
/// [`Classifier::discarded`]. Shutting down does not flush the block stack; that is the VMM's last step.
pub struct Blk {
    disk: Disk,
    config: ConfigSpace,
    features: u64,
    queue_sizes: Vec<u16>,
    workers: Vec<Worker>,
}

impl Blk {
    /// A device that nobody uses yet.
    ///
    /// # Errors
    /// The specification, or the geometry of `device`, makes no sense.
    pub fn new(
        spec: BlkSpec,
        device: Arc<dyn BlockDevice>,
        classifier: Arc<dyn Classifier>,
    ) -> Result<Self, SpecError> {
        let geometry = device.geometry();
        spec.check()?;
        spec::check_geometry(geometry)?;
        Ok(Self {
            config: ConfigSpace::new(&spec, geometry),
            features: config::features(&spec, geometry),
            queue_sizes: vec![spec.queue_size; usize::from(spec.num_queues)],
            disk: Disk {
                device,
                classifier,
                geometry,
                serial: spec.serial_field(),
                stats: Arc::new(Stats::default()),
            },
            workers: Vec::new(),
        })
    }

    /// The device's counters, which outlive it.
    #[must_use]
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.disk.stats)
    }
}

impl VirtioDevice for Blk {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        self.config.read(offset, data);
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let Activation { memory, interrupt, queues, .. } = activation;
        for queue in queues {
            match Worker::start(queue, self.disk.clone(), memory.clone(), Arc::clone(&interrupt)) {
                Ok(worker) => self.workers.push(worker),
                Err(error) => {
                    self.deactivate();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn stop_queue(&mut self, index: usize) {
        self.workers.retain(|worker| worker.index() != index);
    }

    fn deactivate(&mut self) {
        // All are told before the first is waited for, so that they finish side by side.
        self.workers.iter().for_each(Worker::request_stop);
        self.workers.clear();
    }
}

impl fmt::Debug for Blk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blk")
            .field("device", &self.disk.device)
            .field("queue_sizes", &self.queue_sizes)
            .field("workers", &self.workers.len())
            .finish_non_exhaustive()
    }
}

/// The classifier of a machine that nobody looks into: every block is unknown.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoClassifier;

impl Classifier for NoClassifier {
    fn classify_write(&self, _offset: u64, _block: &[u8], _page: Option<GuestAddress>) -> IoTag {
        IoTag::default()
    }

    fn classify_read(&self, _offset: u64, _page: Option<GuestAddress>) -> IoTag {
        IoTag::default()
    }

    fn discarded(&self, _offset: u64, _length: u64) {}
}
