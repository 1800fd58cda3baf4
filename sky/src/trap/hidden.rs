//! Model-specific registers as the guest believes them to be, and as they are.
//!
//! Sky clears `EFER.SCE`, or points LSTAR and its like elsewhere, under the guest's feet. An MSR filter brings the
//! guest's own reads and writes of them to user space, where the truth is put back, so the guest never sees the difference.

use kvm_bindings::{KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER, kvm_enable_cap};
use kvm_ioctls::{MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VmFd};

use crate::guest::Gva;
use crate::trap::Cpu;
use crate::{Error, Result};

/// Index of EFER (APM vol. 2, 3.1.7; SDM vol. 4, 2.1).
pub const EFER: u32 = 0xc000_0080;
/// Index of LSTAR, the SYSCALL entry of 64-bit code.
pub const LSTAR: u32 = 0xc000_0082;
/// Index of CSTAR, the SYSCALL entry of 32-bit code.
pub const CSTAR: u32 = 0xc000_0083;
/// Index of `IA32_SYSENTER_EIP`.
pub const SYSENTER_EIP: u32 = 0x176;
/// System-call enable.
const SCE: u64 = 1;

/// Makes every guest access to EFER and to the registers of the entries exit to user space. Called once, before the guest runs.
///
/// # Errors
/// [`Error::Kvm`] on a kernel without `KVM_CAP_X86_MSR_FILTER` (before Linux 5.10).
pub fn hide(vm: &VmFd) -> Result<()> {
    let mut cap = kvm_enable_cap { cap: KVM_CAP_X86_USER_SPACE_MSR, ..Default::default() };
    cap.args[0] = u64::from(KVM_MSR_EXIT_REASON_FILTER);
    vm.enable_cap(&cap).map_err(|source| Error::Kvm { operation: "KVM_CAP_X86_USER_SPACE_MSR", source })?;
    // A clear bit denies.
    let range = |base| MsrFilterRange {
        flags: MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE,
        base,
        msr_count: 1,
        bitmap: &[0],
    };
    let ranges = [range(EFER), range(LSTAR), range(CSTAR), range(SYSENTER_EIP)];
    vm.set_msr_filter(MsrFilterDefaultAction::ALLOW, &ranges)
        .map_err(|source| Error::Kvm { operation: "KVM_X86_SET_MSR_FILTER", source })
}

/// Registers that lead to the kernel's entries.
const ENTRIES: [u32; 3] = [LSTAR, CSTAR, SYSENTER_EIP];

/// The hidden registers of one virtual CPU.
#[derive(Debug, Default)]
pub struct Hidden {
    /// Whether Sky holds SCE clear although the guest set it.
    trapping: bool,
    /// What the guest has put into EFER. Beside the guest, nobody but a reset changes it.
    efer: Option<u64>,
    /// Where entries lead to for Sky, and what the guest has put there; as in [`ENTRIES`].
    entries: [Option<(Gva, u64)>; ENTRIES.len()],
}

impl Hidden {
    /// Makes SYSCALL fault, or work again; does nothing if it already does.
    ///
    /// # Errors
    /// [`Error::Kvm`].
    pub fn set_trapping(&mut self, cpu: &mut dyn Cpu, trapping: bool) -> Result<()> {
        if self.trapping != trapping {
            let efer = match self.efer {
                Some(efer) => efer,
                None => cpu.msr(EFER)?,
            };
            self.efer = Some(efer);
            cpu.set_msr(EFER, if trapping { efer & !SCE } else { efer })?;
            self.trapping = trapping;
        }
        Ok(())
    }

    /// Points an entry's register to `target`, or back to where the guest has it; does nothing if it already does, or
    /// if it is no register of an entry.
    ///
    /// # Errors
    /// [`Error::Kvm`].
    pub fn redirect(&mut self, cpu: &mut dyn Cpu, index: u32, target: Option<Gva>) -> Result<()> {
        let Some(entry) = entry(index).map(|at| &mut self.entries[at]) else { return Ok(()) };
        match (target, *entry) {
            (Some(target), None) => {
                let guests = cpu.msr(index)?;
                cpu.set_msr(index, target.0)?;
                *entry = Some((target, guests));
            }
            (None, Some((_, guests))) => {
                cpu.set_msr(index, guests)?;
                *entry = None;
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether SYSCALL faults now.
    #[must_use]
    pub fn trapping(&self) -> bool {
        self.trapping
    }

    /// What the guest's `rdmsr` is to see; `None` for an MSR that is not hidden.
    ///
    /// # Errors
    /// [`Error::Kvm`].
    pub fn read(&self, cpu: &mut dyn Cpu, index: u32) -> Option<Result<u64>> {
        if index == EFER {
            let real = cpu.msr(EFER);
            return Some(match self.efer {
                Some(efer) if self.trapping => real.map(|real| real | (efer & SCE)),
                _ => real,
            });
        }
        Some(match self.entries[entry(index)?] {
            Some((_, guests)) => Ok(guests),
            None => cpu.msr(index),
        })
    }

    /// Carries out the guest's `wrmsr`; `None` for an MSR that is not hidden.
    ///
    /// # Errors
    /// [`Error::Kvm`] when KVM refuses the value: the guest gets a general-protection fault.
    pub fn write(&mut self, cpu: &mut dyn Cpu, index: u32, value: u64) -> Option<Result<()>> {
        if index == EFER {
            return Some(self.write_efer(cpu, value));
        }
        let entry = entry(index)?;
        Some(self.write_entry(cpu, index, entry, value))
    }

    fn write_efer(&mut self, cpu: &mut dyn Cpu, value: u64) -> Result<()> {
        cpu.set_msr(EFER, if self.trapping { value & !SCE } else { value })?;
        // KVM adds LMA by itself.
        self.efer = Some(cpu.msr(EFER)? | (value & SCE));
        Ok(())
    }

    fn write_entry(&mut self, cpu: &mut dyn Cpu, index: u32, entry: usize, value: u64) -> Result<()> {
        // KVM judges the value, too: it has to be canonical.
        cpu.set_msr(index, value)?;
        if let Some((target, guests)) = &mut self.entries[entry] {
            *guests = value;
            let target = *target;
            cpu.set_msr(index, target.0)?;
        }
        Ok(())
    }
}

fn entry(index: u32) -> Option<usize> {
    ENTRIES.iter().position(|&entry| entry == index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trap::cpu::mock::MockCpu;

    fn cpu() -> MockCpu {
        let mut cpu = MockCpu::default();
        cpu.msrs.insert(EFER, 0xd01);
        cpu.msrs.insert(LSTAR, 0x1000);
        cpu
    }

    fn read(hidden: &Hidden, cpu: &mut MockCpu, index: u32) -> u64 {
        hidden.read(cpu, index).unwrap().unwrap()
    }

    #[test]
    fn the_guest_sees_the_efer_that_it_set() {
        let (mut cpu, mut hidden) = (cpu(), Hidden::default());
        hidden.set_trapping(&mut cpu, true).unwrap();
        assert_eq!((cpu.msrs[&EFER], read(&hidden, &mut cpu, EFER)), (0xd00, 0xd01));
        hidden.write(&mut cpu, EFER, 0x501).unwrap().unwrap();
        assert_eq!((cpu.msrs[&EFER], read(&hidden, &mut cpu, EFER)), (0x500, 0x501));
        hidden.set_trapping(&mut cpu, false).unwrap();
        assert_eq!((cpu.msrs[&EFER], read(&hidden, &mut cpu, EFER)), (0x501, 0x501));
    }

    #[test]
    fn a_guest_that_clears_the_bit_keeps_it_clear() {
        let (mut cpu, mut hidden) = (cpu(), Hidden::default());
        hidden.set_trapping(&mut cpu, true).unwrap();
        hidden.write(&mut cpu, EFER, 0xd00).unwrap().unwrap();
        hidden.set_trapping(&mut cpu, false).unwrap();
        assert_eq!((cpu.msrs[&EFER], read(&hidden, &mut cpu, EFER)), (0xd00, 0xd00));
    }

    #[test]
    fn the_guest_sees_the_entry_that_it_set() {
        let (mut cpu, mut hidden) = (cpu(), Hidden::default());
        for _ in 0..2 {
            hidden.redirect(&mut cpu, LSTAR, Some(Gva(0x5000))).unwrap();
            assert_eq!((cpu.msrs[&LSTAR], read(&hidden, &mut cpu, LSTAR)), (0x5000, 0x1000));
        }
        hidden.write(&mut cpu, LSTAR, 0x2000).unwrap().unwrap();
        assert_eq!((cpu.msrs[&LSTAR], read(&hidden, &mut cpu, LSTAR)), (0x5000, 0x2000));
        for _ in 0..2 {
            hidden.redirect(&mut cpu, LSTAR, None).unwrap();
            assert_eq!((cpu.msrs[&LSTAR], read(&hidden, &mut cpu, LSTAR)), (0x2000, 0x2000));
        }
        assert!(hidden.read(&mut cpu, 0x10).is_none() && hidden.write(&mut cpu, 0x10, 1).is_none());
    }
}
