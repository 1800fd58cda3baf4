//! Tests: `SYSCALL` and `SYSRET` work; with `EFER.SCE` off `SYSCALL` faults as #UD inside the guest, which is what
//! trapping system calls on an unmodified KVM builds on.

use std::sync::Arc;

use kvm_ioctls::Kvm;

use super::Failure;
use super::guest::{
    FMASK, KERNEL, KERNEL_CODE, KERNEL_STACK, Leash, TinyGuest, UD_HANDLER, USER, USER_CODE, USER_DATA,
    USER_FLAGS, USER_STACK,
};

const ENTERED: u8 = 0x41;
const RETURNED: u8 = 0x42;
const FAULTED: u8 = 0x43;

/// out ENTERED, al; sysretq
const ENTRY: [u8; 5] = [0xe6, ENTERED, 0x48, 0x0f, 0x07];
/// syscall; out RETURNED, al; jmp back to the syscall
const PROGRAM: [u8; 6] = [0x0f, 0x05, 0xe6, RETURNED, 0xeb, 0xfa];
/// out FAULTED, al; iretq
const HANDLER: [u8; 4] = [0xe6, FAULTED, 0x48, 0xcf];

const RESUME_FLAG: u64 = 1 << 16;

fn guest(kvm: &Kvm, leash: Arc<Leash>) -> Result<TinyGuest, Failure> {
    let guest = TinyGuest::new(kvm, leash, &[(KERNEL, &ENTRY), (USER, &PROGRAM), (UD_HANDLER, &HANDLER)])?;
    guest.enter(true)?;
    Ok(guest)
}

pub(super) fn round_trip(kvm: &Kvm, leash: Arc<Leash>) -> Result<String, Failure> {
    let mut guest = guest(kvm, leash)?;
    for _ in 0..3 {
        one_call(&mut guest)?;
    }
    Ok("user mode called the kernel and came back".to_owned())
}

/// From the `SYSCALL` in user mode to the stop behind it.
fn one_call(guest: &mut TinyGuest) -> Result<(), Failure> {
    let regs = guest.expect_out(ENTERED, "SYSCALL reached the kernel")?;
    if guest.code_selector()? != KERNEL_CODE
        || regs.rcx != USER + 2
        || regs.r11 != USER_FLAGS
        || regs.rflags & FMASK != 0
        || regs.rsp != USER_STACK
    {
        return Err(Failure::new(format!(
            "SYSCALL left wrong registers: RCX {:#x}, R11 {:#x}, RFLAGS {:#x}",
            regs.rcx, regs.r11, regs.rflags
        )));
    }
    let regs = guest.expect_out(RETURNED, "SYSRET reached user mode")?;
    if guest.code_selector()? != USER_CODE
        || !(USER + 2..=USER + 4).contains(&regs.rip)
        || regs.rflags != USER_FLAGS
    {
        return Err(Failure::new(format!(
            "SYSRET left wrong registers: RIP {:#x}, RFLAGS {:#x}",
            regs.rip, regs.rflags
        )));
    }
    Ok(())
}

pub(super) fn trap(kvm: &Kvm, leash: Arc<Leash>) -> Result<String, Failure> {
    let mut guest = guest(kvm, leash)?;
    for _ in 0..3 {
        guest.set_syscall_enabled(false)?;
        let regs = guest.expect_out(FAULTED, "#UD reached the guest's handler")?;
        let [rip, cs, flags, rsp, ss] = guest.fault_frame()?;
        let frame_is_right = (rip, cs, rsp, ss)
            == (USER, u64::from(USER_CODE), USER_STACK, u64::from(USER_DATA))
            && flags & !RESUME_FLAG == USER_FLAGS;
        if !frame_is_right
            || regs.rsp != KERNEL_STACK - 40
            || !(UD_HANDLER..=UD_HANDLER + 2).contains(&regs.rip)
        {
            return Err(Failure::new(format!(
                "the #UD frame is wrong: RIP {rip:#x}, CS {cs:#x}, RFLAGS {flags:#x}, RSP {rsp:#x}, SS {ss:#x}"
            )));
        }
        // The handler returns to the very same SYSCALL, which must work again.
        guest.set_syscall_enabled(true)?;
        one_call(&mut guest)?;
    }
    Ok("#UD with the right frame, switched off and on three times".to_owned())
}
