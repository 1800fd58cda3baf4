//! Test: registers are read and changed through the shared page, which saves system calls at every trap.

use std::sync::Arc;

use kvm_ioctls::{Cap, Kvm, SyncReg};

use super::Failure;
use super::guest::{KERNEL, Leash, Stop, TinyGuest};

const FIRST: u8 = 0x48;
const SECOND: u8 = 0x49;

pub(super) fn test(kvm: &Kvm, leash: Arc<Leash>) -> Result<String, Failure> {
    let wanted = SyncReg::Register as i32 | SyncReg::SystemRegister as i32;
    if kvm.check_extension_int(Cap::SyncRegs) & wanted != wanted {
        return Err(Failure::new("KVM_CAP_SYNC_REGS is missing"));
    }
    // mov eax, 5; out FIRST, al; mov rbx, rax; out SECOND, al
    let code = [0xb8, 5, 0, 0, 0, 0xe6, FIRST, 0x48, 0x89, 0xc3, 0xe6, SECOND];
    let mut guest = TinyGuest::new(kvm, leash, &[(KERNEL, &code)])?;
    guest.vcpu.set_sync_valid_reg(SyncReg::Register);
    guest.vcpu.set_sync_valid_reg(SyncReg::SystemRegister);
    guest.expect_out(FIRST, "the first port exit")?;
    let shared = guest.vcpu.sync_regs();
    if shared.regs.rax != 5 || shared.regs.rip != KERNEL + 5 || shared.sregs.cr0 == 0 {
        return Err(Failure::new("the shared page does not hold the guest's registers"));
    }
    let regs = &mut guest.vcpu.sync_regs_mut().regs;
    regs.rax = 7;
    regs.rip += 2;
    guest.vcpu.set_sync_dirty_reg(SyncReg::Register);
    let stop = guest.run()?;
    if stop != Stop::Out(SECOND) || guest.vcpu.sync_regs().regs.rbx != 7 {
        return Err(Failure::new("a change of the shared registers did not reach the guest"));
    }
    Ok("read and changed without a system call".to_owned())
}
