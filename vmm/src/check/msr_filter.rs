//! Test: the guest's accesses to EFER can be answered by the VMM, which hides a switched-off SCE from the guest.

use std::sync::Arc;

use kvm_bindings::{KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER, kvm_enable_cap};
use kvm_ioctls::{Kvm, MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags};

use super::Failure;
use super::guest::{KERNEL, Leash, Stop, TinyGuest};
use crate::vcpu::msr::EFER;

const READ: u8 = 0x47;
/// What the guest is told; real EFER has SCE set as well, so the answer must be this one.
const ANSWER: u64 = 0xd00;

pub(super) fn test(kvm: &Kvm, leash: Arc<Leash>) -> Result<String, Failure> {
    // mov ecx, EFER; rdmsr; out READ, al; wrmsr
    let code = [0xb9, 0x80, 0x00, 0x00, 0xc0, 0x0f, 0x32, 0xe6, READ, 0x0f, 0x30];
    let mut guest = TinyGuest::new(kvm, leash, &[(KERNEL, &code)])?;
    let mut cap = kvm_enable_cap { cap: KVM_CAP_X86_USER_SPACE_MSR, ..Default::default() };
    cap.args[0] = u64::from(KVM_MSR_EXIT_REASON_FILTER);
    guest.vm.enable_cap(&cap).map_err(Failure::ioctl("KVM_CAP_X86_USER_SPACE_MSR"))?;
    let range = MsrFilterRange {
        flags: MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE,
        base: EFER,
        msr_count: 1,
        bitmap: &[0],
    };
    guest
        .vm
        .set_msr_filter(MsrFilterDefaultAction::ALLOW, &[range])
        .map_err(Failure::ioctl("KVM_X86_SET_MSR_FILTER"))?;

    guest.msr_answer = ANSWER;
    expect(guest.run()?, &Stop::ReadMsr(EFER))?;
    let regs = guest.expect_out(READ, "the read of EFER was answered")?;
    if regs.rax != ANSWER || regs.rdx != 0 {
        return Err(Failure::new(format!("the guest read {:#x}, not what it was told", regs.rax)));
    }
    expect(guest.run()?, &Stop::WriteMsr(EFER, ANSWER))?;
    Ok("reads and writes of EFER can be answered".to_owned())
}

fn expect(stop: Stop, wanted: &Stop) -> Result<(), Failure> {
    if stop == *wanted { Ok(()) } else { Err(Failure::new(format!("expected {wanted:x?}, got {stop:x?}"))) }
}
