//! Test: 64-bit code runs, and a port exit shows its registers.

use std::sync::Arc;

use kvm_ioctls::Kvm;

use super::Failure;
use super::guest::{KERNEL, KERNEL_CODE, Leash, TinyGuest};

const PORT: u8 = 0x40;
const VALUE: u64 = 0x1122_3344_5566_7788;

pub(super) fn test(kvm: &Kvm, leash: Arc<Leash>) -> Result<String, Failure> {
    let mut code = vec![0x48, 0xb8]; // mov rax, VALUE
    code.extend(VALUE.to_le_bytes());
    code.extend([0xe6, PORT]); // out PORT, al
    let mut guest = TinyGuest::new(kvm, leash, &[(KERNEL, &code)])?;
    let regs = guest.expect_out(PORT, "the port exit")?;
    // Whether RIP is before or behind the OUT only matters to the port traps, which have a test of their own.
    if regs.rax != VALUE || guest.code_selector()? != KERNEL_CODE {
        return Err(Failure::new(format!("wrong registers: RAX {:#x}, RIP {:#x}", regs.rax, regs.rip)));
    }
    Ok("64-bit code runs, port exits arrive".to_owned())
}
