//! The guest's disks: images with their layers behind virtio-blk behind registers, wired to KVM.

use std::sync::{Arc, Mutex, PoisonError};

use kvm_ioctls::{IoEventAddress, VmFd};
use sky_devices::block::{BlockDevice, Error as BlockError, ErrorKind, Operation};
use sky_devices::layers::{LayerStats, Stack, StackSpec};
use sky_devices::virtio::blk::{Blk, BlkSpec, Stats};
use sky_devices::virtio::mmio::{MmioTransport, QUEUE_NOTIFY_OFFSET, REGION_SIZE};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::layout;
use crate::acpi::VirtioNode;
use crate::config::DiskSpec;
use crate::error::{Error, Result};
use crate::vcpu::hook::Extension;

const QUEUE_SIZE: u16 = 256;

/// A disk that is open and locked, but not yet part of a machine.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) path: String,
    stack: Arc<Stack>,
    spec: DiskSpec,
}

/// The disks of a machine, for whoever looks into them while it runs. Empty before and after.
#[derive(Clone, Debug, Default)]
pub struct OpenDisks(Arc<Mutex<Vec<OpenDisk>>>);

/// One of them: the path of its image, and the disk.
type OpenDisk = (String, Arc<Stack>);

impl OpenDisks {
    /// Does something with the disks, by the paths of their images, in the machine's order. They are not closed meanwhile.
    pub fn with<T>(&self, action: impl FnOnce(&[OpenDisk]) -> T) -> T {
        action(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set<'a>(&self, disks: impl IntoIterator<Item = &'a Disk>) {
        let disks = disks.into_iter().map(|disk| (disk.path.clone(), Arc::clone(&disk.stack)));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = disks.collect();
    }
}

/// Opens all disks, so that a mistake is found before anything else is built.
pub(super) fn open(specs: &[DiskSpec]) -> Result<Vec<Disk>> {
    specs
        .iter()
        .map(|spec| {
            let layers = spec.layers.build()?;
            let stack = Arc::new(Stack::open(&StackSpec { image: spec.image.clone(), layers })?);
            Ok(Disk { path: spec.image.path.display().to_string(), stack, spec: spec.clone() })
        })
        .collect()
}

impl Disk {
    /// What the layers have done.
    pub(super) fn layers(&self) -> LayerStats {
        self.stack.stats()
    }

    /// Brings what the guest wrote to the medium and closes the disk, which no device may use any longer.
    pub(super) fn close(self) -> Result<()> {
        match Arc::into_inner(self.stack) {
            Some(stack) => Ok(stack.close()?),
            None => {
                let path = &self.spec.image.path;
                let error = BlockError::new(ErrorKind::Locked, Operation::Flush).on(path);
                Err(error.because("a device of the machine still uses it").into())
            }
        }
    }
}

/// Where the registers and the interrupt of disk `index` are.
pub(super) fn node(index: u8) -> Result<VirtioNode> {
    let address = u32::try_from(layout::VIRTIO + u64::from(index) * REGION_SIZE)
        .map_err(|error| Error::internal("placing a disk", error))?;
    Ok(VirtioNode { index, address, irq: layout::VIRTIO_IRQ + u32::from(index) })
}

/// Puts a disk behind its registers and connects it with `vm`: requests arrive by ioeventfd, interrupts leave by irqfd.
pub(super) fn plug(
    vm: &VmFd,
    memory: &GuestMemoryAtomic<GuestMemoryMmap>,
    node: VirtioNode,
    disk: &Disk,
    extension: &Arc<dyn Extension>,
) -> Result<(MmioTransport, Arc<Stats>)> {
    let index = usize::from(node.index);
    let spec = BlkSpec {
        serial: disk.spec.serial.clone().unwrap_or_else(|| format!("sky-{index}")),
        num_queues: disk.spec.queues,
        queue_size: QUEUE_SIZE,
    };
    let device = Blk::new(spec, Arc::clone(&disk.stack) as Arc<dyn BlockDevice>, extension.classifier(index))
        .map_err(|source| Error::DiskSpec { path: disk.path.clone(), source })?;
    let stats = device.stats();
    let event = || Error::io("creating an eventfd");
    let irq = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(event())?;
    vm.register_irqfd(&irq, node.irq).map_err(Error::kvm("KVM_IRQFD"))?;
    let mut transport = MmioTransport::new(Box::new(device), memory.clone(), irq).map_err(event())?;
    let doorbell = IoEventAddress::Mmio(u64::from(node.address) + QUEUE_NOTIFY_OFFSET);
    for (queue, notifier) in (0_u32..).zip(transport.queue_notifiers()) {
        vm.register_ioevent(notifier, &doorbell, queue).map_err(Error::kvm("KVM_IOEVENTFD"))?;
    }
    let listener = Arc::clone(extension);
    transport.set_on_driver_ok(Box::new(move || listener.driver_ok(index)));
    Ok((transport, stats))
}
