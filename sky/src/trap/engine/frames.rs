//! What the CPU and Linux leave on the kernel's stack.

use std::sync::atomic::Ordering;

use vm_memory::{Bytes, VolatileSlice};

use crate::guest::{Gpa, Gva, View};
use crate::syscall::RawCall;
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

/// A thread's registers as Linux saves them at the top of its kernel stack: `struct pt_regs`
/// (`arch/x86/include/asm/ptrace.h`).
pub(super) struct PtRegs<'a>(VolatileSlice<'a>, Gva);

impl<'a> PtRegs<'a> {
    /// Bytes of the structure; the stack begins behind it.
    pub(super) const SIZE: u64 = 0xa8;
    const BYTES: usize = 0xa8;
    const R11: usize = 0x30;
    const R10: usize = 0x38;
    const R9: usize = 0x40;
    const R8: usize = 0x48;
    const AX: usize = 0x50;
    const DX: usize = 0x60;
    const SI: usize = 0x68;
    const DI: usize = 0x70;
    const ORIG_AX: usize = 0x78;
    const IP: usize = 0x80;
    const FLAGS: usize = 0x90;
    const SP: usize = 0x98;
    const ARGS: [usize; 6] = [Self::DI, Self::SI, Self::DX, Self::R10, Self::R8, Self::R9];
    /// What the entry path puts into `ax` until there is a result.
    const ENOSYS: i64 = -38;

    /// Those at `at`.
    pub(super) fn at(view: &View<'a>, at: Gva) -> Result<Self> {
        let mapping = view.translate(at)?;
        if mapping.rest < Self::SIZE {
            return Err(Error::Kernel("saved registers cross a page"));
        }
        view.slice(mapping.gpa, Self::BYTES).map(|slice| Self(slice, at)).ok_or(Error::NotMapped(at))
    }

    fn load(&self, offset: usize) -> Result<u64> {
        self.0.load(offset, Ordering::Relaxed).map_err(|_| Error::NotMapped(self.1))
    }

    fn store(&self, offset: usize, value: u64) -> Result<()> {
        self.0.store(value, offset, Ordering::Relaxed).map_err(|_| Error::NotMapped(self.1))
    }

    /// The result of the call.
    pub(super) fn ax(&self) -> Result<i64> {
        Ok(self.load(Self::AX)?.cast_signed())
    }

    /// Where user mode goes on.
    pub(super) fn ip(&self) -> Result<u64> {
        self.load(Self::IP)
    }

    /// Changes where user mode goes on.
    pub(super) fn set_ip(&self, ip: u64) -> Result<()> {
        self.store(Self::IP, ip)
    }

    /// The user's stack pointer.
    pub(super) fn sp(&self) -> Result<u64> {
        self.load(Self::SP)
    }

    /// The call that the thread is in; none if it came here by an interrupt or an exception.
    pub(super) fn call(&self) -> Result<Option<RawCall>> {
        let number = self.load(Self::ORIG_AX)?;
        if number.cast_signed() < 0 {
            return Ok(None);
        }
        let mut args = [0; 6];
        for (argument, offset) in args.iter_mut().zip(Self::ARGS) {
            *argument = self.load(offset)?;
        }
        Ok(Some(RawCall { number, args }))
    }

    /// Makes Linux return by IRET: it takes that way when RF is set in the flags it saved.
    pub(super) fn return_by_iret(&self) -> Result<()> {
        self.store(Self::FLAGS, self.load(Self::FLAGS)? | RF)
    }

    /// Takes RF out of the flags and of R11, where SYSCALL would have left it clear.
    pub(super) fn clear_rf(&self) -> Result<()> {
        for offset in [Self::R11, Self::FLAGS] {
            self.store(offset, self.load(offset)? & !RF)?;
        }
        Ok(())
    }

    /// As they are when `call` is about to be dispatched.
    pub(super) fn before(&self, call: &RawCall) -> Result<()> {
        self.store(Self::AX, Self::ENOSYS.cast_unsigned())?;
        self.arguments(call)
    }

    /// As they are when `call` has returned `result`.
    pub(super) fn after(&self, call: &RawCall, result: i64) -> Result<()> {
        self.store(Self::AX, result.cast_unsigned())?;
        self.arguments(call)
    }

    fn arguments(&self, call: &RawCall) -> Result<()> {
        self.store(Self::ORIG_AX, call.number)?;
        Self::ARGS.iter().zip(call.args).try_for_each(|(&offset, argument)| self.store(offset, argument))
    }
}
