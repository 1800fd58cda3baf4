//! What a transport asks of a device, and what it hands over when the driver is ready.

use std::io;
use std::sync::Arc;

use virtio_queue::Queue;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::interrupt::Interrupt;

/// The guest's memory as devices see it: a handle whose snapshots stay valid while the map changes.
pub type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

/// One virtqueue that the driver has set up.
#[derive(Debug)]
pub struct ActiveQueue {
    /// Number of the queue in the device.
    pub index: usize,
    /// The queue, configured, enabled and checked against guest memory.
    pub queue: Queue,
    /// Signalled when the driver has made buffers available. Non-blocking.
    pub kick: EventFd,
}

/// Everything a device needs to serve a driver.
#[derive(Debug)]
pub struct Activation {
    /// The guest's memory.
    pub memory: Memory,
    /// How the device reaches the driver.
    pub interrupt: Arc<Interrupt>,
    /// The negotiated feature bits.
    pub features: u64,
    /// The queues that the driver enabled: any subset of the device's queues.
    pub queues: Vec<ActiveQueue>,
}

/// A virtio device without its transport.
///
/// Calls come from one thread at a time: [`activate`](Self::activate), then any number of
/// [`stop_queue`](Self::stop_queue), then [`deactivate`](Self::deactivate), and so on from the beginning.
pub trait VirtioDevice: Send {
    /// Device ID (section 5).
    fn device_type(&self) -> u32;

    /// The feature bits that the device offers, with `VIRTIO_F_VERSION_1`.
    fn features(&self) -> u64;

    /// The largest size of each queue in entries; the length is the number of queues. Each is a power of two.
    fn queue_max_sizes(&self) -> &[u16];

    /// Fills `data` from byte `offset` of the device's configuration space; what lies beyond it reads as zeros.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Starts to serve the queues.
    ///
    /// # Errors
    /// The host had no threads or descriptors left. The device is then as inactive as before.
    fn activate(&mut self, activation: Activation) -> io::Result<()>;

    /// Stops one queue; requests that were available in it are served first.
    fn stop_queue(&mut self, index: usize);

    /// Stops all queues; requests that were available in them are served first. On return no thread of the device
    /// touches guest memory.
    fn deactivate(&mut self);
}
