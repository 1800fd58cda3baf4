//! What the CPU and Linux leave on the kernel's stack.

use std::sync::atomic::Ordering;

use vm_memory::{Bytes, GuestAddress};

use crate::guest::{Gva, View};
use crate::{Error, Result};

/// RFLAGS.RF: the next instruction is not stopped by a breakpoint, and then it is gone.
pub(super) const RF: u64 = 1 << 16;

/// What the CPU pushes at an exception without an error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InterruptFrame {
    pub(super) rip: u64,
    pub(super) cs: u64,
    pub(super) rflags: u64,
    pub(super) rsp: u64,
}

impl InterruptFrame {
    pub(super) fn read(view: &View<'_>, at: Gva) -> Result<Self> {
        let mut bytes = [0; 32];
        view.read(at, &mut bytes)?;
        Ok(Self {
            rip: word(&bytes, 0),
            cs: word(&bytes, 8),
            rflags: word(&bytes, 16),
            rsp: word(&bytes, 24),
        })
    }
}

/// The parts of Linux's `struct pt_regs` (`arch/x86/include/asm/ptrace.h`) that matter at a return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PtRegs {
    pub(super) ax: i64,
    pub(super) ip: u64,
}

impl PtRegs {
    /// Bytes of the structure; the stack begins behind it.
    pub(super) const SIZE: u64 = 0xa8;
    const R11: u64 = 0x30;
    const AX: u64 = 0x50;
    const IP: u64 = 0x80;
    const FLAGS: u64 = 0x90;

    /// Reads what is needed, and takes RF out of the flags and of R11, where SYSCALL would have left it clear.
    pub(super) fn take(view: &View<'_>, at: Gva) -> Result<Self> {
        let mapping = view.translate(at)?;
        if mapping.rest < Self::SIZE {
            return Err(Error::Kernel("saved registers cross a page"));
        }
        let memory = view.physical();
        let field = |offset: u64| GuestAddress(mapping.gpa.0 + offset);
        let load = |offset| memory.load::<u64>(field(offset), Ordering::Relaxed);
        let clear = |offset| memory.store(load(offset)? & !RF, field(offset), Ordering::Relaxed);
        clear(Self::R11)
            .and_then(|()| clear(Self::FLAGS))
            .and_then(|()| Ok(Self { ax: load(Self::AX)?.cast_signed(), ip: load(Self::IP)? }))
            .map_err(|_| Error::NotMapped(at))
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    if let Some(source) = bytes.get(at..at + 8) {
        word.copy_from_slice(source);
    }
    u64::from_le_bytes(word)
}

/// Name of system call `number`; `beyond` stands for all that are not counted one by one.
pub(super) fn call_name(number: usize, beyond: usize) -> String {
    if number == beyond {
        return "(other)".to_owned();
    }
    match syscalls::Sysno::new(number) {
        Some(call) => call.name().to_owned(),
        None => format!("#{number}"),
    }
}
