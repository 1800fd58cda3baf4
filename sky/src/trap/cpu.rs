//! The virtual CPU as traps need it: registers, a few system registers, model-specific registers.

use std::cell::RefCell;

use kvm_bindings::{
    KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_INJECT_DB, KVM_GUESTDBG_USE_HW_BP, Msrs, kvm_guest_debug,
    kvm_msr_entry, kvm_regs, kvm_sregs,
};
use kvm_ioctls::{SyncReg, VcpuFd};

use crate::guest::Gva;
use crate::{Error, Result};

/// DR6 bits that say why: B0 to B3, BD, BS, BT (SDM vol. 3, 19.2.3).
const DR6_REASONS: u64 = 0xe00f;

/// A stopped virtual CPU.
pub trait Cpu {
    /// General registers.
    fn regs(&mut self) -> &kvm_regs;

    /// Replaces the general registers.
    fn set_regs(&mut self, regs: &kvm_regs);

    /// Control registers, segments and descriptor tables.
    ///
    /// # Errors
    /// [`Error::Kvm`], as every method here.
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

    /// Whether an exception has been raised whose handler the guest has not reached yet.
    ///
    /// # Errors
    /// [`Error::Kvm`].
    fn exception_pending(&mut self) -> Result<bool>;

    /// Stops before the instructions at `addresses` are executed, and nowhere else.
    ///
    /// # Errors
    /// [`Error::Kvm`].
    fn break_at(&mut self, addresses: [Option<Gva>; 4]) -> Result<()>;

    /// Gives the guest the debug exception that the last stop was about, for the reasons in `dr6`.
    ///
    /// # Errors
    /// [`Error::Kvm`].
    fn give_back_debug(&mut self, addresses: [Option<Gva>; 4], dr6: u64) -> Result<()>;
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
    fn regs(&mut self) -> &kvm_regs {
        &self.0.sync_regs_mut().regs
    }

    fn set_regs(&mut self, regs: &kvm_regs) {
        self.0.sync_regs_mut().regs = *regs;
        self.0.set_sync_dirty_reg(SyncReg::Register);
    }

    fn sregs(&mut self) -> Result<kvm_sregs> {
        self.0.get_sregs().map_err(failed("KVM_GET_SREGS"))
    }

    fn msr(&mut self, index: u32) -> Result<u64> {
        one_msr(index, 0, |msrs| {
            let count = self.0.get_msrs(msrs).map_err(failed("KVM_GET_MSRS"))?;
            match msrs.as_slice().first() {
                Some(entry) if count == 1 => Ok(entry.data),
                _ => Err(refused("KVM_GET_MSRS")),
            }
        })
    }

    fn set_msr(&mut self, index: u32, value: u64) -> Result<()> {
        one_msr(index, value, |msrs| {
            let count = self.0.set_msrs(msrs).map_err(failed("KVM_SET_MSRS"))?;
            if count == 1 { Ok(()) } else { Err(refused("KVM_SET_MSRS")) }
        })
    }

    fn exception_pending(&mut self) -> Result<bool> {
        let events = self.0.get_vcpu_events().map_err(failed("KVM_GET_VCPU_EVENTS"))?;
        Ok(events.exception.injected != 0 || events.exception.pending != 0)
    }

    fn break_at(&mut self, addresses: [Option<Gva>; 4]) -> Result<()> {
        self.0.set_guest_debug(&guest_debug(addresses)).map_err(failed("KVM_SET_GUEST_DEBUG"))
    }

    fn give_back_debug(&mut self, addresses: [Option<Gva>; 4], dr6: u64) -> Result<()> {
        let mut registers = self.0.get_debug_regs().map_err(failed("KVM_GET_DEBUGREGS"))?;
        registers.dr6 |= dr6 & DR6_REASONS;
        self.0.set_debug_regs(&registers).map_err(failed("KVM_SET_DEBUGREGS"))?;
        let mut debug = guest_debug(addresses);
        debug.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_INJECT_DB;
        self.0.set_guest_debug(&debug).map_err(failed("KVM_SET_GUEST_DEBUG"))
    }
}

/// For `KVM_SET_GUEST_DEBUG`: execution breakpoints, enabled globally. Bit 10 of DR7 is always set.
fn guest_debug(addresses: [Option<Gva>; 4]) -> kvm_guest_debug {
    let mut debug = kvm_guest_debug::default();
    if addresses.iter().all(Option::is_none) {
        return debug;
    }
    debug.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
    debug.arch.debugreg[7] = 1 << 10;
    for (number, address) in addresses.into_iter().enumerate() {
        if let Some(address) = address {
            debug.arch.debugreg[number] = address.0;
            debug.arch.debugreg[7] |= 2 << (number * 2);
        }
    }
    debug
}

thread_local! {
    /// A list of one. To make it anew takes a tenth of the instructions of a process switch.
    static ONE_MSR: RefCell<Option<Msrs>> = const { RefCell::new(None) };
}

/// Does `work` with a list that names one MSR.
fn one_msr<T>(index: u32, data: u64, work: impl FnOnce(&mut Msrs) -> Result<T>) -> Result<T> {
    ONE_MSR.with_borrow_mut(|place| {
        let msrs = match place {
            Some(msrs) => msrs,
            None => place.insert(Msrs::new(1).map_err(|_| refused("one MSR"))?),
        };
        if let Some(entry) = msrs.as_mut_slice().first_mut() {
            *entry = kvm_msr_entry { index, data, ..Default::default() };
        }
        work(msrs)
    })
}

/// KVM handles MSRs in order and tells how many went well: none here.
fn refused(operation: &'static str) -> Error {
    Error::Kvm { operation, source: kvm_ioctls::Error::new(libc::EINVAL) }
}

/// A virtual CPU that is only registers, for tests without KVM.
#[cfg(test)]
pub(crate) mod mock {
    use std::collections::HashMap;

    use super::{Cpu, Gva, Result, kvm_regs, kvm_sregs, refused};

    /// Registers that a test sets and looks at.
    #[derive(Default)]
    pub(crate) struct MockCpu {
        pub(crate) regs: kvm_regs,
        pub(crate) sregs: kvm_sregs,
        pub(crate) msrs: HashMap<u32, u64>,
        pub(crate) breaks: [Option<Gva>; 4],
        /// Reasons of debug exceptions that the guest was given.
        pub(crate) given_back: Vec<u64>,
    }

    impl MockCpu {
        pub(crate) fn breaks(&self) -> Vec<u64> {
            self.breaks.iter().flatten().map(|gva| gva.0).collect()
        }
    }

    impl Cpu for MockCpu {
        fn regs(&mut self) -> &kvm_regs {
            &self.regs
        }

        fn set_regs(&mut self, regs: &kvm_regs) {
            self.regs = *regs;
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

        fn exception_pending(&mut self) -> Result<bool> {
            Ok(false)
        }

        fn break_at(&mut self, addresses: [Option<Gva>; 4]) -> Result<()> {
            self.breaks = addresses;
            Ok(())
        }

        fn give_back_debug(&mut self, _addresses: [Option<Gva>; 4], dr6: u64) -> Result<()> {
            self.given_back.push(dr6);
            Ok(())
        }
    }
}
