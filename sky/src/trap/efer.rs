//! EFER as the guest believes it to be, and as it is.
//!
//! Sky clears `SCE` under the guest's feet. An MSR filter brings the guest's own reads and writes of EFER to user
//! space, where the bit is put back, so the guest never sees the difference.

use kvm_bindings::{KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER, kvm_enable_cap};
use kvm_ioctls::{MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VmFd};

use crate::trap::Cpu;
use crate::{Error, Result};

/// Index of EFER (APM vol. 2, 3.1.7; SDM vol. 4, 2.1).
pub const EFER: u32 = 0xc000_0080;

/// System-call enable.
const SCE: u64 = 1;

/// Makes every guest access to EFER exit to user space. Called once, before the guest runs.
///
/// # Errors
/// [`Error::Kvm`] on a kernel without `KVM_CAP_X86_MSR_FILTER` (before Linux 5.10).
pub fn hide(vm: &VmFd) -> Result<()> {
    let mut cap = kvm_enable_cap { cap: KVM_CAP_X86_USER_SPACE_MSR, ..Default::default() };
    cap.args[0] = u64::from(KVM_MSR_EXIT_REASON_FILTER);
    vm.enable_cap(&cap).map_err(|source| Error::Kvm { operation: "KVM_CAP_X86_USER_SPACE_MSR", source })?;
    // A clear bit denies.
    let range = MsrFilterRange {
        flags: MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE,
        base: EFER,
        msr_count: 1,
        bitmap: &[0],
    };
    vm.set_msr_filter(MsrFilterDefaultAction::ALLOW, &[range])
        .map_err(|source| Error::Kvm { operation: "KVM_X86_SET_MSR_FILTER", source })
}

/// EFER of one virtual CPU.
#[derive(Debug, Default)]
pub struct Efer {
    /// Whether Sky holds SCE clear although the guest set it.
    trapping: bool,
    /// Whether the guest has SCE set.
    guest_sce: bool,
}

impl Efer {
    /// Learns what the guest has set, before Sky changes anything.
    ///
    /// # Errors
    /// [`Error::Kvm`].
    pub fn learn(&mut self, cpu: &mut dyn Cpu) -> Result<()> {
        self.guest_sce = cpu.msr(EFER)? & SCE != 0;
        Ok(())
    }

    /// Whether SYSCALL faults now.
    #[must_use]
    pub fn trapping(&self) -> bool {
        self.trapping
    }

    /// Makes SYSCALL fault, or work again; does nothing if it already does.
    ///
    /// # Errors
    /// [`Error::Kvm`].
    pub fn set_trapping(&mut self, cpu: &mut dyn Cpu, trapping: bool) -> Result<()> {
        if self.trapping != trapping {
            let value = cpu.msr(EFER)?;
            cpu.set_msr(EFER, self.real(value, trapping))?;
            self.trapping = trapping;
        }
        Ok(())
    }

    /// What the guest's `rdmsr` is to see.
    ///
    /// # Errors
    /// [`Error::Kvm`].
    pub fn read(&self, cpu: &mut dyn Cpu) -> Result<u64> {
        let value = cpu.msr(EFER)?;
        Ok(if self.trapping && self.guest_sce { value | SCE } else { value })
    }

    /// Carries out the guest's `wrmsr`.
    ///
    /// # Errors
    /// [`Error::Kvm`] when KVM refuses the value: the guest gets a general-protection fault.
    pub fn write(&mut self, cpu: &mut dyn Cpu, value: u64) -> Result<()> {
        let real = if self.trapping { value & !SCE } else { value };
        cpu.set_msr(EFER, real)?;
        self.guest_sce = value & SCE != 0;
        Ok(())
    }

    fn real(&self, value: u64, trapping: bool) -> u64 {
        if !trapping && self.guest_sce { value | SCE } else { value & !SCE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trap::cpu::mock::MockCpu;

    #[test]
    fn the_guest_sees_what_it_set() {
        let mut cpu = MockCpu::default();
        cpu.msrs.insert(EFER, 0xd01);
        let mut efer = Efer::default();
        efer.learn(&mut cpu).unwrap();
        efer.set_trapping(&mut cpu, true).unwrap();
        assert_eq!((cpu.msrs[&EFER], efer.read(&mut cpu).unwrap()), (0xd00, 0xd01));
        efer.write(&mut cpu, 0x501).unwrap();
        assert_eq!((cpu.msrs[&EFER], efer.read(&mut cpu).unwrap()), (0x500, 0x501));
        efer.set_trapping(&mut cpu, false).unwrap();
        assert_eq!((cpu.msrs[&EFER], efer.read(&mut cpu).unwrap()), (0x501, 0x501));
    }

    #[test]
    fn a_guest_that_clears_the_bit_keeps_it_clear() {
        let mut cpu = MockCpu::default();
        cpu.msrs.insert(EFER, 0xd01);
        let mut efer = Efer::default();
        efer.learn(&mut cpu).unwrap();
        efer.set_trapping(&mut cpu, true).unwrap();
        efer.write(&mut cpu, 0xd00).unwrap();
        efer.set_trapping(&mut cpu, false).unwrap();
        assert_eq!((cpu.msrs[&EFER], efer.read(&mut cpu).unwrap()), (0xd00, 0xd00));
    }
}
