//! Test: the debug registers stop the guest at an address, every time, and RF lets it go on.

use std::sync::Arc;

use kvm_bindings::{KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_USE_HW_BP, kvm_guest_debug};
use kvm_ioctls::Kvm;

use super::Failure;
use super::guest::{KERNEL, Leash, Stop, TinyGuest};

const PASSED: u8 = 0x44;
const RESUME_FLAG: u64 = 1 << 16;
/// Breakpoint 0 on execution, enabled globally; bit 10 is always set.
const DR7: u64 = 0x402;

pub(super) fn test(kvm: &Kvm, leash: Arc<Leash>) -> Result<String, Failure> {
    // inc rax; out PASSED, al; jmp back
    let code = [0x48, 0xff, 0xc0, 0xe6, PASSED, 0xeb, 0xf9];
    let mut guest = TinyGuest::new(kvm, leash, &[(KERNEL, &code)])?;
    // Once without a stop, so that KVM has mapped the page. Bochs drops RF when the fetch behind a stop is an EPT
    // violation (a processor keeps it: SDM volume 3, "Saving RIP, RSP, RFLAGS, and SSP"), and would stop there again.
    guest.expect_out(PASSED, "the code ran without a stop")?;
    let mut debug =
        kvm_guest_debug { control: KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP, ..Default::default() };
    debug.arch.debugreg[0] = KERNEL;
    debug.arch.debugreg[7] = DR7;
    guest.vcpu.set_guest_debug(&debug).map_err(Failure::ioctl("KVM_SET_GUEST_DEBUG"))?;

    for round in 1..4 {
        match guest.run()? {
            Stop::Debug { pc: KERNEL, dr6 } if dr6 & 1 == 1 => {}
            Stop::Debug { pc, dr6 } => {
                return Err(Failure::new(format!(
                    "stopped at {pc:#x} with DR6 {dr6:#x}, not at {KERNEL:#x}"
                )));
            }
            _ => return Err(Failure::new("the guest ran through the address without stopping")),
        }
        let mut regs = guest.regs()?;
        if regs.rax != round {
            return Err(Failure::new("the stop came after the instruction, not before it"));
        }
        regs.rflags |= RESUME_FLAG;
        guest.set_regs(&regs)?;
        let regs = guest.expect_out(PASSED, "the guest went on after the stop")?;
        if regs.rax != round + 1 {
            return Err(Failure::new("the instruction at the stop did not run exactly once"));
        }
    }
    Ok("stops before the instruction, three times of three".to_owned())
}
