//! A guest without a kernel: a few pages, mapped at one place.

use std::cell::Cell;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::guest::{Gva, View};
use crate::syscall::{Decoded, Limits, Moment, Outcome, RawCall, decode};

/// Where the pages are mapped. The pages before and behind are absent.
pub(super) const START: u64 = 0x7f00_0000_0000;
const PAGES: u64 = 64;
/// The first byte behind them.
pub(super) const END: u64 = START + PAGES * 4096;
const FRAMES: u64 = 0x10_000;

pub(super) struct Guest {
    memory: GuestMemoryMmap,
    next: Cell<u64>,
}

impl Guest {
    pub(super) fn new() -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let put = |at: u64, value: u64| memory.write_obj(value, GuestAddress(at)).unwrap();
        for (level, table) in [(39, 0x1000u64), (30, 0x2000), (21, 0x3000)] {
            put(table + ((START >> level) & 0x1ff) * 8, (table + 0x1000) | 7);
        }
        for page in 0..PAGES {
            put(0x4000 + page * 8, (FRAMES + page * 4096) | 7);
        }
        Self { memory, next: Cell::new(START) }
    }

    pub(super) fn view(&self) -> View<'_> {
        View::new(&self.memory, 0x1000, false)
    }

    pub(super) fn write(&self, address: u64, bytes: &[u8]) {
        self.view().write(Gva(address), bytes).unwrap();
    }

    /// Stores bytes at a place of their own.
    pub(super) fn bytes(&self, bytes: &[u8]) -> u64 {
        let at = self.next.get();
        self.next.set((at + bytes.len() as u64).next_multiple_of(16));
        self.write(at, bytes);
        at
    }

    pub(super) fn string(&self, text: &str) -> u64 {
        self.bytes(format!("{text}\0").as_bytes())
    }

    pub(super) fn words(&self, words: &[u64]) -> u64 {
        self.bytes(&words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>())
    }

    pub(super) fn decode(&self, call: &RawCall, moment: Moment) -> Decoded {
        decode(call, &self.view(), moment, Limits::default())
    }

    /// The line of a call that returned `result`, entered and returned separately; whoever decodes both at once must
    /// get the same.
    pub(super) fn line(&self, number: i64, args: &[u64], result: i64) -> String {
        let call = raw(number, args);
        let outcome = Outcome::Returned(result);
        let mut decoded = self.decode(&call, Moment::Entered);
        decoded.returned(&self.view(), outcome);
        let line = decoded.line().to_string();
        assert_eq!(self.decode(&call, Moment::Returned(outcome)).line().to_string(), line);
        line
    }
}

/// A call with up to six arguments; the other registers hold what nobody put there.
pub(super) fn raw(number: i64, args: &[u64]) -> RawCall {
    let mut all = [0xdead_beef_dead_beef; 6];
    all[..args.len()].copy_from_slice(args);
    RawCall { number: number.try_into().unwrap(), args: all }
}

/// An `int` in a register.
pub(super) fn int(value: i32) -> u64 {
    u64::from(value.cast_unsigned())
}

/// `AT_FDCWD`.
pub(super) const CWD: u64 = 0xffff_ff9c;
