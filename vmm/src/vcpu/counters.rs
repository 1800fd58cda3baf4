//! How often a vCPU stopped, and why.

use serde::Serialize;

/// Stops of one vCPU that reached user space, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Reads of a port.
    pub io_in: u64,
    /// Writes to a port that the VMM answered.
    pub io_out: u64,
    /// Reads of device registers in memory.
    pub mmio_read: u64,
    /// Writes to device registers in memory.
    pub mmio_write: u64,
    /// Filtered reads and writes of model-specific registers.
    pub msr: u64,
    /// Stops by debug registers.
    pub debug: u64,
    /// Writes to a port that the hook answered.
    pub hook: u64,
    /// Returns because of a signal, a kick for example.
    pub interrupted: u64,
    /// Anything else.
    pub other: u64,
}

impl Counters {
    /// All of them together.
    #[must_use]
    pub fn total(&self) -> u64 {
        [
            self.io_in,
            self.io_out,
            self.mmio_read,
            self.mmio_write,
            self.msr,
            self.debug,
            self.hook,
            self.interrupted,
            self.other,
        ]
        .iter()
        .sum()
    }
}

/// What is known of a vCPU when it has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Every stop of the guest, those that KVM handled by itself included; not all kernels tell.
    pub kvm_exits: Option<u64>,
    /// The stops that reached user space.
    pub userspace_exits: u64,
    /// The same, by kind.
    pub exits: Counters,
}
