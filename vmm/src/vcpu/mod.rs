//! One virtual CPU: how it starts, how it runs, how it is stopped.
//!
//! ```text
//!   create ──▶ cpuid, state ──▶ run::Vcpu (a thread each) ──▶ bus
//!                                   │ ▲
//!                             hook::VcpuHook (whoever is embedded)
//! ```

use kvm_ioctls::{Kvm, VcpuFd, VmFd};

use crate::error::{Error, Result};

mod counters;
mod cpuid;
pub mod hook;
pub mod kick;
pub mod msr;
mod run;
mod state;
mod statistics;

pub use counters::{Counters, Tally};
pub(crate) use run::Vcpu;

/// Creates vCPU `index` of `count`, ready to be started: the first at `entry`, the others by the first.
pub(crate) fn create(kvm: &Kvm, vm: &VmFd, index: u32, count: u32, entry: u64) -> Result<VcpuFd> {
    let vcpu = vm.create_vcpu(u64::from(index)).map_err(Error::kvm("KVM_CREATE_VCPU"))?;
    vcpu.set_cpuid2(&cpuid::build(kvm, index, count)?).map_err(Error::kvm("KVM_SET_CPUID2"))?;
    state::prepare(&vcpu)?;
    if index == 0 {
        state::enter_kernel(&vcpu, entry)?;
    }
    Ok(vcpu)
}
