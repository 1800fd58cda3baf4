//! What a system call leaves as it was: every register but RAX, RCX and R11, the flags, and the SSE registers.
//!
//! RCX and R11 are known as well: the address behind the instruction and the flags. Linux gives the same in both ways
//! of returning, by SYSRET and by IRET. Only the resume flag in R11 may differ: whoever made the kernel choose IRET
//! may have set it, and processors may too.

use std::arch::naked_asm;

/// The resume flag.
const RF: u64 = 1 << 16;
/// What is put in the registers, times their position and one.
const PATTERN: u64 = 0x0123_4567_89ab_cdef;
/// How many general registers and SSE registers are looked at.
const REGISTERS: usize = 14;

/// The registers behind a call.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct After {
    registers: [u64; REGISTERS],
    rcx: u64,
    r11: u64,
    result: u64,
    flags: u64,
    flags_before: u64,
    next: u64,
}

/// Makes call `number` with a pattern in every register, and writes what it finds behind it to `out`. DF and CF are
/// set meanwhile, for flags that matter.
#[unsafe(naked)]
extern "C" fn torture_registers(out: *mut After, number: u64) {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rdi",
        "push rsi",
        "movabs rax, 0x0123456789abcdef",
        "mov rdi, rax",
        "lea rsi, [rdi + rax]",
        "lea rdx, [rsi + rax]",
        "lea r10, [rdx + rax]",
        "lea r8, [r10 + rax]",
        "lea r9, [r8 + rax]",
        "lea rbx, [r9 + rax]",
        "lea rbp, [rbx + rax]",
        "lea r12, [rbp + rax]",
        "lea r13, [r12 + rax]",
        "lea r14, [r13 + rax]",
        "lea r15, [r14 + rax]",
        "lea rcx, [r15 + rax]",
        "movq xmm0, rcx",
        "lea rcx, [rcx + rax]",
        "movq xmm15, rcx",
        "pop rax",
        "stc",
        "std",
        "pushfq",
        "syscall",
        "7:",
        "push rax",
        "mov rax, [rsp + 16]",
        "mov [rax], rdi",
        "mov [rax + 8], rsi",
        "mov [rax + 16], rdx",
        "mov [rax + 24], r10",
        "mov [rax + 32], r8",
        "mov [rax + 40], r9",
        "mov [rax + 48], rbx",
        "mov [rax + 56], rbp",
        "mov [rax + 64], r12",
        "mov [rax + 72], r13",
        "mov [rax + 80], r14",
        "mov [rax + 88], r15",
        "movq [rax + 96], xmm0",
        "movq [rax + 104], xmm15",
        "mov [rax + 112], rcx",
        "mov [rax + 120], r11",
        "pop rcx",
        "mov [rax + 128], rcx",
        "pushfq",
        "pop rcx",
        "mov [rax + 136], rcx",
        "pop rcx",
        "mov [rax + 144], rcx",
        "lea rcx, [rip + 7b]",
        "mov [rax + 152], rcx",
        "cld",
        "pop rdi",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}

/// Makes a call that ignores its arguments, and returns its result, or what it changed.
pub(super) fn call(number: i64) -> Result<i64, &'static str> {
    let mut after = After::default();
    torture_registers(&raw mut after, number.cast_unsigned());
    check(&after)
}

fn check(after: &After) -> Result<i64, &'static str> {
    let patterns = (1u64..).map(|position| PATTERN.wrapping_mul(position));
    if after.registers.iter().zip(patterns).any(|(register, pattern)| *register != pattern) {
        return Err("a call changed a register");
    }
    if after.rcx != after.next {
        return Err("RCX is not the address behind the call");
    }
    if after.flags != after.flags_before {
        return Err("a call changed the flags");
    }
    if after.r11 & !RF != after.flags {
        return Err("R11 is not the flags");
    }
    Ok(after.result.cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_keeps_them() {
        assert_eq!(call(libc::SYS_getpid), Ok(i64::from(std::process::id())));
    }

    #[test]
    fn changes_are_found() {
        let mut after = After::default();
        torture_registers(&raw mut after, libc::SYS_getpid.cast_unsigned());
        assert!(check(&after).is_ok());
        for at in 0..REGISTERS {
            let mut other = after;
            other.registers[at] ^= 1 << 40;
            assert!(check(&other).is_err());
        }
        assert!(check(&After { rcx: after.rcx + 2, ..after }).is_err());
        assert!(check(&After { flags: after.flags ^ 1, ..after }).is_err());
        assert!(check(&After { r11: after.r11 ^ 0x400, ..after }).is_err());
        assert!(check(&After { r11: after.r11 | RF, ..after }).is_ok(), "RF may be seen");
    }
}
