//! The virtual CPU as traps need it: registers, a few system registers, model-specific registers.

use kvm_bindings::{Msrs, kvm_msr_entry, kvm_regs, kvm_sregs};
use kvm_ioctls::{SyncReg, VcpuFd};

use crate::{Error, Result};

/// A stopped virtual CPU.
pub trait Cpu {
    /// General registers.
    ///
    /// # Errors
    /// [`Error::Kvm`], as every method here.
    fn regs(&mut self) -> Result<kvm_regs>;

    /// Replaces the general registers.
    ///
    /// # Errors
    /// [`Error::Kvm`].
    fn set_regs(&mut self, regs: &kvm_regs) -> Result<()>;

    /// Control registers, segments and descriptor tables.
    ///
    /// # Errors
    /// [`Error::Kvm`].
    fn sregs(&mut self) -> Result<kvm_sregs>;

    /// A model-specific register.
    ///
    /// # Errors
    /// [`Error::Kvm`].
    fn msr(&mut self, index: u32) -> Result<u64>;

    /// Sets a model-specific register. For EFER this is far cheaper than system registers, which reset the MMU.
    ///
    /// # Errors
    /// [`Error::Kvm`].
    fn set_msr(&mut self, index: u32, value: u64) -> Result<()>;
}

/// A virtual CPU of KVM whose general registers come and go with `KVM_RUN` (`KVM_CAP_SYNC_REGS`).
#[derive(Debug)]
pub struct KvmCpu<'a>(&'a mut VcpuFd);

impl<'a> KvmCpu<'a> {
    /// Asks KVM to leave the general registers in the shared page at every exit; called once for a virtual CPU.
    pub fn prepare(fd: &mut VcpuFd) {
        fd.set_sync_valid_reg(SyncReg::Register);
    }

    /// A virtual CPU that was [prepared](Self::prepare) and has just come back from `KVM_RUN`.
    pub fn new(fd: &'a mut VcpuFd) -> Self {
        Self(fd)
    }
}

fn failed(operation: &'static str) -> impl Fn(kvm_ioctls::Error) -> Error {
    move |source| Error::Kvm { operation, source }
}

impl Cpu for KvmCpu<'_> {
    fn regs(&mut self) -> Result<kvm_regs> {
        Ok(self.0.sync_regs_mut().regs)
    }

    fn set_regs(&mut self, regs: &kvm_regs) -> Result<()> {
        self.0.sync_regs_mut().regs = *regs;
        self.0.set_sync_dirty_reg(SyncReg::Register);
        Ok(())
    }

    fn sregs(&mut self) -> Result<kvm_sregs> {
        self.0.get_sregs().map_err(failed("KVM_GET_SREGS"))
    }

    fn msr(&mut self, index: u32) -> Result<u64> {
        let mut msrs = one_msr(index, 0)?;
        let count = self.0.get_msrs(&mut msrs).map_err(failed("KVM_GET_MSRS"))?;
        match msrs.as_slice().first() {
            Some(entry) if count == 1 => Ok(entry.data),
            _ => Err(refused("KVM_GET_MSRS")),
        }
    }

    fn set_msr(&mut self, index: u32, value: u64) -> Result<()> {
        let count = self.0.set_msrs(&one_msr(index, value)?).map_err(failed("KVM_SET_MSRS"))?;
        if count == 1 { Ok(()) } else { Err(refused("KVM_SET_MSRS")) }
    }
}

fn one_msr(index: u32, data: u64) -> Result<Msrs> {
    Msrs::from_entries(&[kvm_msr_entry { index, data, ..Default::default() }]).map_err(|_| refused("one MSR"))
}

/// KVM handles MSRs in order and tells how many went well: none here.
fn refused(operation: &'static str) -> Error {
    Error::Kvm { operation, source: kvm_ioctls::Error::new(libc::EINVAL) }
}

/// A virtual CPU that is only registers, for tests without KVM.
#[cfg(test)]
pub(crate) mod mock {
    use std::collections::HashMap;

    use super::{Cpu, Result, kvm_regs, kvm_sregs, refused};

    /// Registers that a test sets and looks at.
    #[derive(Default)]
    pub(crate) struct MockCpu {
        pub(crate) regs: kvm_regs,
        pub(crate) sregs: kvm_sregs,
        pub(crate) msrs: HashMap<u32, u64>,
    }

    impl Cpu for MockCpu {
        fn regs(&mut self) -> Result<kvm_regs> {
            Ok(self.regs)
        }

        fn set_regs(&mut self, regs: &kvm_regs) -> Result<()> {
            self.regs = *regs;
            Ok(())
        }

        fn sregs(&mut self) -> Result<kvm_sregs> {
            Ok(self.sregs)
        }

        fn msr(&mut self, index: u32) -> Result<u64> {
            self.msrs.get(&index).copied().ok_or_else(|| refused("msr"))
        }

        fn set_msr(&mut self, index: u32, value: u64) -> Result<()> {
            self.msrs.insert(index, value);
            Ok(())
        }
    }
}
