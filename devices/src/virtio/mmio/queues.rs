//! The queue registers: what the driver has written so far about each queue, and the queue that it amounts to.

use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryMmap};

/// One of the three areas of a virtqueue (section 2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Area {
    /// The descriptor table.
    Descriptor,
    /// The driver area, or available ring.
    Driver,
    /// The device area, or used ring.
    Device,
}

/// What the driver has written about one queue.
#[derive(Clone, Debug)]
pub(super) struct QueueRegisters {
    max_size: u16,
    size: u32,
    ready: bool,
    areas: [u64; 3],
}

impl QueueRegisters {
    pub(super) fn new(max_size: u16) -> Self {
        Self { max_size, size: u32::from(max_size), ready: false, areas: [0; 3] }
    }

    /// Back to what a driver finds at first.
    pub(super) fn reset(&mut self) {
        *self = Self::new(self.max_size);
    }

    pub(super) fn max_size(&self) -> u32 {
        u32::from(self.max_size)
    }

    pub(super) fn is_ready(&self) -> bool {
        self.ready
    }

    pub(super) fn set_ready(&mut self, ready: bool) {
        self.ready = ready;
    }

    pub(super) fn set_size(&mut self, size: u32) {
        self.size = size;
    }

    /// Replaces the upper or lower half of an area's address.
    pub(super) fn set_address(&mut self, area: Area, high: bool, half: u32) {
        let address = &mut self.areas[area as usize];
        *address = if high {
            (*address & 0xffff_ffff) | (u64::from(half) << 32)
        } else {
            (*address & !0xffff_ffff) | u64::from(half)
        };
    }

    /// The queue as configured, or nothing if its size, alignment or place in memory is wrong.
    pub(super) fn build(&self, memory: &GuestMemoryMmap, event_idx: bool) -> Option<Queue> {
        let mut queue = Queue::new(self.max_size).ok()?;
        queue.try_set_size(u16::try_from(self.size).ok()?).ok()?;
        let [descriptor, driver, device] = self.areas.map(GuestAddress);
        queue.try_set_desc_table_address(descriptor).ok()?;
        queue.try_set_avail_ring_address(driver).ok()?;
        queue.try_set_used_ring_address(device).ok()?;
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        // The queue itself takes an available ring at address zero for one that was never set.
        (driver.0 != 0 && queue.is_valid(memory)).then_some(queue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registers(addresses: [u64; 3]) -> QueueRegisters {
        let mut registers = QueueRegisters::new(16);
        for (area, address) in [Area::Descriptor, Area::Driver, Area::Device].into_iter().zip(addresses) {
            let (low, high) = (address & 0xffff_ffff, address >> 32);
            registers.set_address(area, true, u32::try_from(high).unwrap());
            registers.set_address(area, false, u32::try_from(low).unwrap());
        }
        registers
    }

    #[test]
    fn builds_what_the_registers_say_and_nothing_else() {
        let regions = [(GuestAddress(0), 0x4000), (GuestAddress(1 << 32), 0x1000)];
        let memory = GuestMemoryMmap::from_ranges(&regions).unwrap();
        let queue = registers([1 << 32, 0x2002, 0x3004]).build(&memory, true).unwrap();
        assert_eq!((queue.desc_table(), queue.avail_ring(), queue.used_ring()), (1 << 32, 0x2002, 0x3004));
        assert!(queue.event_idx_enabled() && queue.size() == 16);
        // An available ring that was never set, wrong alignments, and areas that end outside of memory.
        for wrong in [
            [0x1000, 0, 0x3000],
            [0x1008, 0x2000, 0x3000],
            [0x1000, 0x2001, 0x3000],
            [0x1000, 0x2000, 0x3002],
            [0x3f10, 0x2000, 0x3000],
            [0x1000, 0x3fde, 0x3000],
            [0x1000, 0x2000, u64::MAX - 3],
        ] {
            assert!(registers(wrong).build(&memory, false).is_none(), "{wrong:#x?}");
        }
    }
}
