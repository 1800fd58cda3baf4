//! What the CPU and Linux leave on the kernel's stack.

use std::sync::atomic::Ordering;

use vm_memory::Bytes;

use crate::guest::{Gpa, Gva, View};
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
    /// Reads the frame at physical address `at`.
    pub(super) fn read(view: &View<'_>, at: Gpa) -> Option<Self> {
        let frame = view.slice(at, 4 * size_of::<u64>())?;
        let word = |index| frame.load(index * size_of::<u64>(), Ordering::Relaxed).ok();
        Some(Self { rip: word(0)?, cs: word(1)?, rflags: word(2)?, rsp: word(3)? })
    }
}

/// The stack on which exceptions from user mode arrive. Linux maps one for each CPU while it boots and never again
/// elsewhere (`cpu_entry_area`), so where it lies is looked up once.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct EntryStack {
    rsp: u64,
    gpa: Option<Gpa>,
}

impl EntryStack {
    const FRAME: u64 = 5 * 8;

    /// Physical address of the frame at `rsp`.
    pub(super) fn locate(&mut self, view: &View<'_>, rsp: u64) -> Option<Gpa> {
        if self.rsp != rsp || self.gpa.is_none() {
            let mapping = view.translate(Gva(rsp)).ok()?;
            self.gpa = (mapping.rest >= Self::FRAME).then_some(mapping.gpa);
            self.rsp = rsp;
        }
        self.gpa
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
    const BYTES: usize = 0xa8;
    const R11: usize = 0x30;
    const AX: usize = 0x50;
    const IP: usize = 0x80;
    const FLAGS: usize = 0x90;

    /// Reads what is needed, and takes RF out of the flags and of R11, where SYSCALL would have left it clear.
    pub(super) fn take(view: &View<'_>, at: Gva) -> Result<Self> {
        let mapping = view.translate(at)?;
        if mapping.rest < Self::SIZE {
            return Err(Error::Kernel("saved registers cross a page"));
        }
        let registers = view.slice(mapping.gpa, Self::BYTES).ok_or(Error::NotMapped(at))?;
        let load = |offset| registers.load::<u64>(offset, Ordering::Relaxed);
        let clear = |offset| registers.store(load(offset)? & !RF, offset, Ordering::Relaxed);
        clear(Self::R11)
            .and_then(|()| clear(Self::FLAGS))
            .and_then(|()| Ok(Self { ax: load(Self::AX)?.cast_signed(), ip: load(Self::IP)? }))
            .map_err(|_| Error::NotMapped(at))
    }
}
