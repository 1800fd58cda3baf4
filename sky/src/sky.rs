//! One virtual machine under Sky.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kvm_ioctls::VmFd;
use sky_devices::io_class::Classifier;
use vm_memory::GuestMemoryMmap;

use crate::insight::BlockIndex;
use crate::trap;
use crate::trap::sce::Sce;
use crate::{Config, Report, Result};

/// Sky for one virtual machine.
#[derive(Debug)]
pub struct Sky {
    config: Config,
    index: Arc<BlockIndex>,
    asked: AtomicBool,
    report: Mutex<Report>,
}

impl Sky {
    /// Watches what `config` names.
    #[must_use]
    pub fn new(config: Config) -> Arc<Self> {
        let index = Arc::new(BlockIndex::new(config.insight.pending_blocks));
        Arc::new(Self { config, index, asked: AtomicBool::new(false), report: Mutex::new(Report::default()) })
    }

    /// Knows which blocks of the guest's disks are data of monitored processes.
    #[must_use]
    pub fn classifier(&self) -> Arc<dyn Classifier> {
        Arc::clone(&self.index) as Arc<dyn Classifier>
    }

    /// Hides from the guest what Sky does to EFER. Called once, before the guest runs.
    ///
    /// # Errors
    /// [`Error::Kvm`](crate::Error::Kvm) on a KVM without MSR filters.
    pub fn hide(&self, vm: &VmFd) -> Result<()> {
        trap::hide(vm)
    }

    /// Asks the virtual CPU to set its traps at its next exit: the guest has booted, its text is final. The moment
    /// that the guest's disk driver is ready is a good one.
    pub fn arm(&self) {
        self.asked.store(true, Ordering::Release);
    }

    /// Takes up the one virtual CPU of a guest with this memory; the result lives on its thread. The virtual CPU
    /// itself is [prepared](crate::trap::KvmCpu::prepare) before it runs.
    #[must_use]
    pub fn vcpu(self: &Arc<Self>, memory: GuestMemoryMmap) -> Sce {
        Sce::new(Arc::clone(self), memory)
    }

    /// What was seen so far.
    #[must_use]
    pub fn report(&self) -> Report {
        let report = self.report.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Report { files: self.index.files(), blocks: self.index.counts(), ..report }
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn index(&self) -> &Arc<BlockIndex> {
        &self.index
    }

    pub(crate) fn asked(&self) -> &AtomicBool {
        &self.asked
    }

    pub(crate) fn publish(&self, report: Report) {
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = report;
    }
}
