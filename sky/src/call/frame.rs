//! The frame that Linux builds on a thread's user stack for a signal handler (`struct rt_sigframe`,
//! arch/x86/include/asm/sigframe.h; `struct sigcontext_64` in its uapi header).
//!
//! A signal that arrives at the end of a system call leaves the thread's registers there. Behind one frame may lie
//! another: handlers for several signals are stacked, the last one runs first.

use crate::guest::{Gva, View};
use crate::syscall::RawCall;
use crate::{Error, Result};

/// `pretcode`, then `uc_flags`, `uc_link` and `uc_stack` of the `ucontext`.
const REGISTERS: u64 = 8 + 40;
/// r8 to r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, eflags.
const COUNT: usize = 18;
const R8: usize = 0;
const R9: usize = 1;
const R10: usize = 2;
const RDI: usize = 8;
const RSI: usize = 9;
const RDX: usize = 12;
const RAX: usize = 13;
const RSP: usize = 15;
const RIP: usize = 16;
/// Linux has 64 signals.
const MAX_FRAMES: usize = 64;
/// Bytes of SYSCALL.
const SYSCALL_LENGTH: u64 = 2;

/// The registers in one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SignalFrame {
    at: Gva,
    words: [u64; COUNT],
}

impl SignalFrame {
    /// Reads the frame whose first byte is at `at`.
    fn read(view: &View<'_>, at: Gva) -> Result<Self> {
        let mut bytes = [0; COUNT * 8];
        view.read(at.offset(REGISTERS), &mut bytes)?;
        let mut words = [0; COUNT];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
        }
        Ok(Self { at, words })
    }

    /// RAX.
    pub(crate) fn result(&self) -> i64 {
        self.words[RAX].cast_signed()
    }

    /// Whether SYSCALL is executed again when the handler returns.
    pub(crate) fn restarts(&self, resumes_at: u64) -> bool {
        self.words[RIP] != resumes_at
    }

    /// Makes the handler return to `rip` with `rax`, and the arguments of `call` in their registers.
    pub(crate) fn rewrite(mut self, view: &View<'_>, call: &RawCall, rip: u64, rax: u64) -> Result<()> {
        let [first, second, third, fourth, fifth, sixth] = call.args;
        for (register, value) in [
            (RDI, first),
            (RSI, second),
            (RDX, third),
            (R10, fourth),
            (R8, fifth),
            (R9, sixth),
            (RAX, rax),
            (RIP, rip),
        ] {
            self.words[register] = value;
        }
        let bytes: Vec<u8> = self.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        view.write(self.at.offset(REGISTERS), &bytes)
    }
}

/// Looks for the frame of an interrupted system call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frames {
    /// Address behind the SYSCALL.
    pub(crate) resumes_at: u64,
    /// The thread's RSP at the call.
    pub(crate) rsp: u64,
}

impl Frames {
    /// Goes from the newest frame, at user address `sp`, to the one that holds the registers of the call itself.
    ///
    /// # Errors
    /// [`Error::NotMapped`], or [`Error::Kernel`] when no frame is that call's.
    pub(crate) fn find(&self, view: &View<'_>, sp: u64) -> Result<SignalFrame> {
        let mut at = Gva(sp);
        for _ in 0..MAX_FRAMES {
            let frame = SignalFrame::read(view, at)?;
            let rip = frame.words[RIP];
            let ours = rip == self.resumes_at || rip == self.resumes_at.wrapping_sub(SYSCALL_LENGTH);
            if ours && frame.words[RSP] == self.rsp {
                return Ok(frame);
            }
            // The one before was built for a handler that has not run yet: its RSP is that frame.
            at = Gva(frame.words[RSP]);
        }
        Err(Error::Kernel("no signal frame holds the interrupted call"))
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

    use super::*;

    /// Identity-maps the first 2 MiB.
    fn guest() -> GuestMemoryMmap {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap();
        for (at, entry) in [(0x1000u64, 0x2003u64), (0x2000, 0x3003), (0x3000, 0x83)] {
            memory.write_obj(entry, GuestAddress(at)).unwrap();
        }
        memory
    }

    #[test]
    fn the_layout_is_that_of_libc() {
        let registers = offset_of!(libc::ucontext_t, uc_mcontext);
        assert_eq!(REGISTERS, 8 + u64::try_from(registers).unwrap());
        for (ours, theirs) in [
            (R8, libc::REG_R8),
            (R9, libc::REG_R9),
            (R10, libc::REG_R10),
            (RDI, libc::REG_RDI),
            (RSI, libc::REG_RSI),
            (RDX, libc::REG_RDX),
            (RAX, libc::REG_RAX),
            (RSP, libc::REG_RSP),
            (RIP, libc::REG_RIP),
        ] {
            assert_eq!(ours, usize::try_from(theirs).unwrap());
        }
    }

    fn put(memory: &GuestMemoryMmap, at: u64, register: usize, value: u64) {
        memory.write_obj(value, GuestAddress(at + REGISTERS + register as u64 * 8)).unwrap();
    }

    #[test]
    fn stacked_handlers_lead_to_the_call() {
        let memory = guest();
        let view = View::new(&memory, 0x1000, false);
        // The newest frame at 0x8000 was built over a handler whose frame is at 0x9000.
        put(&memory, 0x8000, RIP, 0x40_5000);
        put(&memory, 0x8000, RSP, 0x9000);
        put(&memory, 0x9000, RIP, 0x40_0102);
        put(&memory, 0x9000, RSP, 0xa000);
        put(&memory, 0x9000, RAX, u64::MAX);
        let frames = Frames { resumes_at: 0x40_0102, rsp: 0xa000 };
        let frame = frames.find(&view, 0x8000).unwrap();
        assert_eq!((frame.at, frame.result(), frame.restarts(0x40_0102)), (Gva(0x9000), -1, false));
        let call = RawCall { number: 1, args: [1, 2, 3, 4, 5, 6] };
        frame.rewrite(&view, &call, 0x40_0100, 1).unwrap();
        let again = frames.find(&view, 0x8000).unwrap();
        assert!(again.restarts(0x40_0102));
        let registers = [RDI, RSI, RDX, R10, R8, R9].map(|register| again.words[register]);
        assert_eq!((registers, again.words[RAX], again.words[RSP]), ([1, 2, 3, 4, 5, 6], 1, 0xa000));
    }

    #[test]
    fn frames_in_a_circle_end() {
        let memory = guest();
        let view = View::new(&memory, 0x1000, false);
        put(&memory, 0x8000, RSP, 0x8000);
        assert!(Frames { resumes_at: 0x40_0102, rsp: 0xa000 }.find(&view, 0x8000).is_err());
        assert!(Frames { resumes_at: 0x40_0102, rsp: 0xa000 }.find(&view, u64::MAX).is_err());
    }
}
