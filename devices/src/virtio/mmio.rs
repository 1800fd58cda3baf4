//! The virtio-mmio transport, version 2 (section 4.2): registers that a driver finds the device behind.
//!
//! The VMM maps [`REGION_SIZE`] bytes of guest addresses and passes accesses to [`MmioTransport::read`] and
//! [`MmioTransport::write`]. Kicks should not come this way: the VMM registers [`MmioTransport::queue_notifiers`] as
//! ioeventfds, so that they reach the workers without a stop in user space.
//!
//! ```
//! use std::sync::Arc;
//!
//! use sky_devices::block::MemoryDisk;
//! use sky_devices::virtio::Memory;
//! use sky_devices::virtio::blk::{Blk, BlkSpec, NoClassifier};
//! use sky_devices::virtio::mmio::MmioTransport;
//! use vm_memory::{GuestAddress, GuestMemoryMmap};
//! use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let memory = Memory::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)])?);
//! let disk = Blk::new(BlkSpec::default(), Arc::new(MemoryDisk::new(1 << 20)?), Arc::new(NoClassifier))?;
//! let mut transport = MmioTransport::new(Box::new(disk), memory, EventFd::new(EFD_NONBLOCK)?)?;
//!
//! // The guest reads register 0.
//! let mut magic = [0; 4];
//! transport.read(0, &mut magic);
//! assert_eq!(&magic, b"virt");
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::io;
use std::sync::Arc;

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vm_memory::GuestAddressSpace;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::{Activation, ActiveQueue, Interrupt, Memory, VirtioDevice};

mod queues;
mod registers;

use queues::{Area, QueueRegisters};
use registers::{ACKNOWLEDGE, DEVICE_NEEDS_RESET, DRIVER, DRIVER_OK, FAILED, FEATURES_OK};
pub use registers::{QUEUE_NOTIFY_OFFSET, REGION_SIZE};

/// Called once, when the driver is first ready.
type OnDriverOk = Box<dyn FnOnce() + Send>;

/// One device behind its registers.
///
/// Accesses may come from any vCPU, one at a time. A write that resets the device returns when its workers have
/// stopped. Dropping the transport stops them too.
pub struct MmioTransport {
    device: Box<dyn VirtioDevice>,
    memory: Memory,
    interrupt: Arc<Interrupt>,
    notifiers: Vec<EventFd>,
    queues: Vec<QueueRegisters>,
    on_driver_ok: Option<OnDriverOk>,
    status: u32,
    queue_select: u32,
    device_features_select: u32,
    driver_features_select: u32,
    driver_features: u64,
    /// The driver asked for a feature bit beyond the 64 that exist here.
    wild_features: bool,
}

impl MmioTransport {
    /// Puts `device` behind registers. Interrupts are written to `irq`, which the VMM registers as an irqfd.
    ///
    /// # Errors
    /// No more eventfds.
    pub fn new(device: Box<dyn VirtioDevice>, memory: Memory, irq: EventFd) -> io::Result<Self> {
        let queues: Vec<_> = device.queue_max_sizes().iter().copied().map(QueueRegisters::new).collect();
        let notifiers =
            queues.iter().map(|_| EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)).collect::<io::Result<_>>()?;
        Ok(Self {
            device,
            memory,
            interrupt: Arc::new(Interrupt::new(irq)),
            notifiers,
            queues,
            on_driver_ok: None,
            status: 0,
            queue_select: 0,
            device_features_select: 0,
            driver_features_select: 0,
            driver_features: 0,
            wild_features: false,
        })
    }

    /// One eventfd per queue. The VMM registers each as an ioeventfd for writes of 4 bytes at
    /// [`QUEUE_NOTIFY_OFFSET`] whose value is the queue's index.
    #[must_use]
    pub fn queue_notifiers(&self) -> &[EventFd] {
        &self.notifiers
    }

    /// Calls `hook` once, on the vCPU's thread, after a driver has taken the device into use.
    ///
    /// The transport is in the middle of a register write then: the hook must not wait for a lock around it.
    pub fn set_on_driver_ok(&mut self, hook: OnDriverOk) {
        self.on_driver_ok = Some(hook);
    }

    /// Stops the device's workers after they have served every request that was available. The guest must not run.
    pub fn shutdown(&mut self) {
        self.device.deactivate();
    }

    /// The guest reads `data.len()` bytes at byte `offset` of the register area.
    ///
    /// Registers answer to aligned reads of 4 bytes; anything else reads as zeros (section 4.2.2.2).
    pub fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(offset) = offset.checked_sub(registers::CONFIG) {
            self.device.read_config(offset, data);
        } else if let Ok(data) = <&mut [u8; 4]>::try_from(data) {
            *data = self.register(offset).to_le_bytes();
        }
    }

    /// The guest writes `data` at byte `offset` of the register area.
    ///
    /// Writes that are not 4 bytes long, or that a driver must not do in the device's present state, have no effect.
    /// Configuration space is read-only.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        if let Ok(data) = <[u8; 4]>::try_from(data)
            && offset < registers::CONFIG
        {
            self.set_register(offset, u32::from_le_bytes(data));
        }
    }

    fn register(&self, offset: u64) -> u32 {
        match offset {
            registers::MAGIC_VALUE => registers::MAGIC,
            registers::VERSION_NUMBER => registers::VERSION,
            registers::DEVICE_ID => self.device.device_type(),
            registers::VENDOR_ID => registers::VENDOR,
            registers::DEVICE_FEATURES => half(self.device.features(), self.device_features_select),
            registers::QUEUE_NUM_MAX => self.selected().map_or(0, QueueRegisters::max_size),
            registers::QUEUE_READY => u32::from(self.selected().is_some_and(QueueRegisters::is_ready)),
            registers::INTERRUPT_STATUS => self.interrupt.status(),
            registers::STATUS => self.device_status(),
            // A shared memory region that does not exist has a length and a base of all ones.
            registers::SHM_LEN_LOW..=registers::SHM_BASE_HIGH => u32::MAX,
            // No device here changes its configuration, so every read of it is of the same generation.
            registers::CONFIG_GENERATION => 0,
            _ => 0,
        }
    }

    fn set_register(&mut self, offset: u64, value: u32) {
        match offset {
            registers::DEVICE_FEATURES_SEL => self.device_features_select = value,
            registers::DRIVER_FEATURES_SEL => self.driver_features_select = value,
            registers::DRIVER_FEATURES => self.set_driver_features(value),
            registers::QUEUE_SEL => self.queue_select = value,
            registers::QUEUE_NUM => self.configure(|queue| queue.set_size(value)),
            registers::QUEUE_READY => self.set_queue_ready(value),
            QUEUE_NOTIFY_OFFSET => self.notify(value),
            registers::INTERRUPT_ACK => self.interrupt.acknowledge(value),
            registers::STATUS => self.set_status(value),
            registers::QUEUE_DESC_LOW => self.configure(|q| q.set_address(Area::Descriptor, false, value)),
            registers::QUEUE_DESC_HIGH => self.configure(|q| q.set_address(Area::Descriptor, true, value)),
            registers::QUEUE_DRIVER_LOW => self.configure(|q| q.set_address(Area::Driver, false, value)),
            registers::QUEUE_DRIVER_HIGH => self.configure(|q| q.set_address(Area::Driver, true, value)),
            registers::QUEUE_DEVICE_LOW => self.configure(|q| q.set_address(Area::Device, false, value)),
            registers::QUEUE_DEVICE_HIGH => self.configure(|q| q.set_address(Area::Device, true, value)),
            _ => {}
        }
    }

    fn selected(&self) -> Option<&QueueRegisters> {
        self.queues.get(usize::try_from(self.queue_select).ok()?)
    }

    /// Whether the driver may set up queues: features are agreed on, and the device is not in use yet.
    fn is_configuring(&self) -> bool {
        self.status & (FEATURES_OK | DRIVER_OK) == FEATURES_OK
    }

    /// Changes the selected queue while that is allowed: before it is ready and before the device is in use.
    fn configure(&mut self, change: impl FnOnce(&mut QueueRegisters)) {
        if self.is_configuring()
            && let Ok(index) = usize::try_from(self.queue_select)
            && let Some(queue) = self.queues.get_mut(index)
            && !queue.is_ready()
        {
            change(queue);
        }
    }

    fn set_queue_ready(&mut self, value: u32) {
        if value == 1 {
            self.configure(|queue| queue.set_ready(true));
        } else if value == 0
            && let Ok(index) = usize::try_from(self.queue_select)
            && let Some(queue) = self.queues.get_mut(index)
        {
            // The driver reads the register back and then believes that the device has left the queue alone.
            self.device.stop_queue(index);
            queue.set_ready(false);
        }
    }

    fn notify(&self, index: u32) {
        if let Some(notifier) = usize::try_from(index).ok().and_then(|index| self.notifiers.get(index))
            && let Err(error) = notifier.write(1)
            && error.kind() != io::ErrorKind::WouldBlock
        {
            tracing::error!(%error, index, "a kick was lost");
        }
    }

    fn set_driver_features(&mut self, value: u32) {
        if self.status & FEATURES_OK != 0 {
            return;
        }
        match self.driver_features_select {
            0 => self.driver_features = (self.driver_features & !0xffff_ffff) | u64::from(value),
            1 => self.driver_features = (self.driver_features & 0xffff_ffff) | (u64::from(value) << 32),
            _ => self.wild_features |= value != 0,
        }
    }

    fn are_features_acceptable(&self) -> bool {
        !self.wild_features
            && self.driver_features & !self.device.features() == 0
            && self.driver_features & (1 << VIRTIO_F_VERSION_1) != 0
    }

    fn device_status(&self) -> u32 {
        let needs_reset = if self.interrupt.is_reset_needed() { DEVICE_NEEDS_RESET } else { 0 };
        self.status | needs_reset
    }

    /// Takes the driver's progress through initialisation (section 3.1.1), step by step: a step without the one
    /// before it, or the attempt to go back, has no effect.
    fn set_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        if self.status & !value != 0 {
            tracing::warn!(status = self.status, value, "the driver may not clear bits of the device status");
            return;
        }
        let mut status = self.status | (value & (ACKNOWLEDGE | FAILED));
        if value & DRIVER != 0 && status & ACKNOWLEDGE != 0 {
            status |= DRIVER;
        }
        if value & FEATURES_OK != 0 && status & DRIVER != 0 && self.are_features_acceptable() {
            status |= FEATURES_OK;
        }
        let starts = value & DRIVER_OK != 0 && status & (FEATURES_OK | DRIVER_OK | FAILED) == FEATURES_OK;
        self.status = status;
        if starts {
            self.status |= DRIVER_OK;
            self.activate();
        }
    }

    fn activate(&mut self) {
        match self.build_activation().and_then(|activation| self.device.activate(activation)) {
            Ok(()) => {
                if let Some(hook) = self.on_driver_ok.take() {
                    hook();
                }
            }
            Err(error) => {
                tracing::error!(%error, "a virtio device could not be started");
                self.interrupt.needs_reset();
            }
        }
    }

    fn build_activation(&self) -> io::Result<Activation> {
        let memory = self.memory.memory();
        let event_idx = self.driver_features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0;
        let mut queues = Vec::new();
        for (index, (registers, kick)) in self.queues.iter().zip(&self.notifiers).enumerate() {
            if registers.is_ready() {
                let queue = registers
                    .build(&memory, event_idx)
                    .ok_or_else(|| io::Error::other(format!("the driver set up queue {index} wrongly")))?;
                queues.push(ActiveQueue { index, queue, kick: kick.try_clone()? });
            }
        }
        Ok(Activation {
            memory: self.memory.clone(),
            interrupt: Arc::clone(&self.interrupt),
            features: self.driver_features,
            queues,
        })
    }

    fn reset(&mut self) {
        self.device.deactivate();
        self.interrupt.reset();
        // Kicks that nobody took may stay in the notifiers: they make the next workers look, and find nothing.
        self.queues.iter_mut().for_each(QueueRegisters::reset);
        self.status = 0;
        self.queue_select = 0;
        self.device_features_select = 0;
        self.driver_features_select = 0;
        self.driver_features = 0;
        self.wild_features = false;
    }
}

/// The 32 feature bits that `select` names.
fn half(features: u64, select: u32) -> u32 {
    let [a, b, c, d, e, f, g, h] = features.to_le_bytes();
    match select {
        0 => u32::from_le_bytes([a, b, c, d]),
        1 => u32::from_le_bytes([e, f, g, h]),
        _ => 0,
    }
}

impl Drop for MmioTransport {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl fmt::Debug for MmioTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MmioTransport")
            .field("device_type", &self.device.device_type())
            .field("status", &self.device_status())
            .field("driver_features", &self.driver_features)
            .field("queues", &self.queues)
            .finish_non_exhaustive()
    }
}
