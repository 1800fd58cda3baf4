//! Test: an `OUT` in guest code is a breakpoint. The exit comes with RIP at the `OUT`, and the VMM may go on elsewhere.

use std::sync::Arc;

use kvm_ioctls::Kvm;

use super::Failure;
use super::guest::{KERNEL, Leash, TinyGuest};

const TRAP: u8 = 0x45;
const ARRIVED: u8 = 0x46;
const TARGET: u64 = KERNEL + 0x10;

pub(super) fn test(kvm: &Kvm, leash: Arc<Leash>) -> Result<String, Failure> {
    // out TRAP, al; ud2, which must not be reached
    let site = [0xe6, TRAP, 0x0f, 0x0b];
    let target = [0xe6, ARRIVED];
    let mut guest = TinyGuest::new(kvm, leash, &[(KERNEL, &site), (TARGET, &target)])?;
    let mut regs = guest.expect_out(TRAP, "the port trap")?;
    if regs.rip != KERNEL {
        return Err(Failure::new(format!("RIP is {:#x} at the trap, not at the OUT", regs.rip)));
    }
    regs.rip = TARGET;
    guest.set_regs(&regs)?;
    let regs = guest.expect_out(ARRIVED, "the place that RIP was set to")?;
    if regs.rip != TARGET {
        return Err(Failure::new(format!("the guest went on at {:#x}, not where RIP was set to", regs.rip)));
    }
    Ok("stops at an OUT and goes on where it is told".to_owned())
}
