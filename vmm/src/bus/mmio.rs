//! Registers of virtio devices in memory: one page each, one behind the other.
//!
//! Requests are announced by ioeventfd and answered by irqfd, so what comes here is configuration and the
//! acknowledgement of interrupts; a lock per device is enough.

use std::sync::{Mutex, PoisonError};

use sky_devices::virtio::mmio::{MmioTransport, REGION_SIZE};

use crate::machine::layout::VIRTIO;

/// All devices with registers in memory.
#[derive(Debug, Default)]
pub struct Mmio {
    devices: Vec<Mutex<MmioTransport>>,
}

impl Mmio {
    /// A bus with the given devices, the first at [`VIRTIO`].
    #[must_use]
    pub fn new(devices: Vec<MmioTransport>) -> Self {
        Self { devices: devices.into_iter().map(Mutex::new).collect() }
    }

    /// The guest reads. An address without a device reads as ones.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address) {
            Some((device, offset)) => {
                device.lock().unwrap_or_else(PoisonError::into_inner).read(offset, data);
            }
            None => data.fill(0xff),
        }
    }

    /// The guest writes. A write to an address without a device has no effect.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((device, offset)) = self.find(address) {
            device.lock().unwrap_or_else(PoisonError::into_inner).write(offset, data);
        }
    }

    /// Stops all devices after they have served what was asked of them. No vCPU may run any more.
    pub fn shutdown(&self) {
        for device in &self.devices {
            device.lock().unwrap_or_else(PoisonError::into_inner).shutdown();
        }
    }

    fn find(&self, address: u64) -> Option<(&Mutex<MmioTransport>, u64)> {
        let distance = address.checked_sub(VIRTIO)?;
        let index = usize::try_from(distance / REGION_SIZE).ok()?;
        Some((self.devices.get(index)?, distance % REGION_SIZE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_without_a_device_are_harmless() {
        let bus = Mmio::default();
        for address in [0, VIRTIO - 1, VIRTIO, VIRTIO + REGION_SIZE, u64::MAX] {
            let mut data = [0; 8];
            bus.read(address, &mut data);
            assert_eq!(data, [0xff; 8]);
            bus.write(address, &data);
        }
    }
}
