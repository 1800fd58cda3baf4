//! Signal handlers, as the fake guest's kernel runs them: the frame that it builds, and rt_sigreturn.

use super::super::frames::RF;
use super::{Fake, HANDLER, Ran};

impl Fake {
    /// The call gives `result`, or is to be made again, and a handler runs first.
    pub(in crate::trap::engine) fn signal(&mut self, cpu: usize, result: Option<i64>) -> Ran {
        let saved = self.saved(cpu);
        let word = |offset| self.kernel.get(saved + offset);
        let (ip, ax) = match result {
            Some(result) => (word(0x80), result.cast_unsigned()),
            None => (word(0x80) - 2, word(0x78)),
        };
        let registers = [0x48, 0x40, 0x38, 0x30, 0x18, 0x10, 0x08, 0x00, 0x70, 0x68, 0x20, 0x28, 0x60];
        let words: Vec<u64> =
            registers.map(word).into_iter().chain([ax, word(0x58), word(0x98), ip, word(0x90)]).collect();
        let frame = ((word(0x98) - 128 - 0x300) & !15) - 8;
        for (at, word) in (0u64..).zip(words) {
            self.kernel.word(frame + 48 + at * 8, word);
        }
        for (offset, value) in
            [(0x50, 0), (0x70, 10), (0x80, HANDLER), (0x90, word(0x90) & !RF), (0x98, frame)]
        {
            self.kernel.word(saved + offset, value);
        }
        self.leave(cpu)
    }

    /// The handler returns: rt_sigreturn brings the registers back.
    pub(in crate::trap::engine) fn handled(&mut self, cpu: usize) -> Ran {
        let thread = self.cpus[cpu].thread;
        // `ret` has taken the address of the restorer, which makes the call.
        self.tasks[thread].user.rsp += 8;
        assert_eq!(self.call(cpu, 15, [0; 6]), Ran::Dispatcher);
        let saved = self.saved(cpu);
        let frame = self.get(cpu, 0x98) - 8;
        let registers = [
            0x48, 0x40, 0x38, 0x30, 0x18, 0x10, 0x08, 0x00, 0x70, 0x68, 0x20, 0x28, 0x60, 0x50, 0x58, 0x98,
            0x80, 0x90,
        ];
        for (at, offset) in (0u64..).zip(registers) {
            self.kernel.word(saved + offset, self.kernel.get(frame + 48 + at * 8));
        }
        self.kernel.word(saved + 0x78, u64::MAX);
        self.leave(cpu)
    }
}
