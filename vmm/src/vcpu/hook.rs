//! The seam for whoever is embedded in the VMM: a look at every stop that may be theirs.
//!
//! A machine is built with one [`Extension`]; each vCPU thread owns one [`VcpuHook`] of it. A hook is asked first, and
//! what it does not answer the VMM answers as if there were no hook.

use std::error::Error;
use std::sync::Arc;

use kvm_bindings::kvm_debug_exit_arch;
use kvm_ioctls::{VcpuFd, VmFd};
use sky_devices::io_class::Classifier;
use sky_devices::virtio::blk::NoClassifier;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

use super::kick::Kicker;
use crate::machine::control::Control;

/// An error of a hook ends the run; its text is what the user reads.
pub type HookResult<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Whether a hook has dealt with a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handled {
    /// It was the hook's; the guest may go on.
    Yes,
    /// The VMM shall answer it.
    No,
}

/// The parts of a machine that an extension may hold on to. The VM is dropped before the memory under it.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The virtual machine, for filters and capabilities.
    pub vm: Arc<VmFd>,
    /// The guest's memory.
    pub memory: GuestMemoryAtomic<GuestMemoryMmap>,
    /// One per vCPU, to get all of them out of `KVM_RUN`.
    pub kickers: Vec<Arc<Kicker>>,
    /// Ends the machine, and tells whether it is ending: a hook that waits must look.
    pub control: Arc<Control>,
}

/// What is embedded in a machine. All methods have a default that does nothing.
pub trait Extension: Send + Sync {
    /// Called once, before any vCPU runs and after all of them were created.
    ///
    /// # Errors
    /// The extension cannot work on this machine, which then does not start.
    fn attach(&self, parts: &Parts) -> HookResult<()> {
        let _ = parts;
        Ok(())
    }

    /// The hook of vCPU `index`, which its thread will own.
    fn hook(&self, index: u32) -> Box<dyn VcpuHook> {
        let _ = index;
        Box::new(NoHook)
    }

    /// Who knows what the blocks of disk `index` mean.
    fn classifier(&self, index: usize) -> Arc<dyn Classifier> {
        let _ = index;
        Arc::new(NoClassifier)
    }

    /// Called on a vCPU's thread when the guest's driver has taken disk `index` into use: by then the kernel has
    /// patched its own code.
    fn driver_ok(&self, index: usize) {
        let _ = index;
    }

    /// What to add to the counters under the key `monitor`. Called after all vCPUs have ended.
    fn statistics(&self) -> Option<serde_json::Value> {
        None
    }
}

/// Nothing is embedded.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoExtension;

impl Extension for NoExtension {}

/// What an extension does on one vCPU's thread.
pub trait VcpuHook: Send {
    /// Before every `KVM_RUN`, also after a kick. May block: here a thread waits while another patches the guest.
    ///
    /// # Errors
    /// The run ends.
    fn before_run(&mut self, vcpu: &mut VcpuFd) -> HookResult<()> {
        let _ = vcpu;
        Ok(())
    }

    /// The guest wrote one byte to a port.
    ///
    /// # Errors
    /// The run ends.
    fn io_out(&mut self, vcpu: &mut VcpuFd, port: u16, value: u8) -> HookResult<Handled> {
        let _ = (vcpu, port, value);
        Ok(Handled::No)
    }

    /// A debug register stopped the guest, or the guest's own debugging did.
    ///
    /// # Errors
    /// The run ends.
    fn debug(&mut self, vcpu: &mut VcpuFd, stop: &kvm_debug_exit_arch) -> HookResult<Handled> {
        let _ = (vcpu, stop);
        Ok(Handled::No)
    }

    /// The guest reads a filtered MSR: what it shall see. `None` is a fault (#GP) in the guest.
    ///
    /// # Errors
    /// The run ends.
    fn read_msr(&mut self, vcpu: &mut VcpuFd, index: u32) -> HookResult<Option<u64>> {
        let _ = (vcpu, index);
        Ok(None)
    }

    /// The guest writes a filtered MSR. `No` is a fault (#GP) in the guest.
    ///
    /// # Errors
    /// The run ends.
    fn write_msr(&mut self, vcpu: &mut VcpuFd, index: u32, value: u64) -> HookResult<Handled> {
        let _ = (vcpu, index, value);
        Ok(Handled::No)
    }
}

/// A hook that never has anything to say.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHook;

impl VcpuHook for NoHook {}
