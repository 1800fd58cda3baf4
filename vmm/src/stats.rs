//! What `--stats` writes at the end of a run.

use std::time::Duration;

use serde::Serialize;
use sky_devices::layers::LayerStats;
use sky_devices::virtio::blk::StatsSnapshot;

use crate::exit::ExitReason;
use crate::vcpu::Tally;

/// Counters of a whole run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunStats {
    /// Why the run ended, in one word.
    pub exit: &'static str,
    /// The same for people.
    pub message: String,
    /// Status of the process.
    pub status: u8,
    /// Length of the run.
    pub seconds: f64,
    /// Stops of the guest that KVM counted, over all vCPUs; absent if the kernel does not tell.
    pub kvm_exits: Option<u64>,
    /// Stops that reached user space, over all vCPUs.
    pub userspace_exits: u64,
    /// By vCPU.
    pub vcpus: Vec<Tally>,
    /// By disk.
    pub disks: Vec<DiskStats>,
    /// What the extension counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monitor: Option<serde_json::Value>,
}

impl RunStats {
    pub(crate) fn new(
        reason: &ExitReason,
        elapsed: Duration,
        vcpus: Vec<Tally>,
        disks: Vec<DiskStats>,
        monitor: Option<serde_json::Value>,
    ) -> Self {
        Self {
            exit: reason.name(),
            message: reason.to_string(),
            status: reason.status(),
            seconds: elapsed.as_secs_f64(),
            kvm_exits: vcpus.iter().map(|vcpu| vcpu.kvm_exits).sum(),
            userspace_exits: vcpus.iter().map(|vcpu| vcpu.userspace_exits).sum(),
            vcpus,
            disks,
            monitor,
        }
    }
}

/// Counters of one disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DiskStats {
    /// File of the disk.
    pub path: String,
    /// What its device counted.
    #[serde(flatten)]
    pub counters: StatsSnapshot,
    /// What its layers have done.
    #[serde(skip_serializing_if = "LayerStats::is_empty")]
    pub layers: LayerStats,
}
