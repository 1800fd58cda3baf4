//! Memory for the results of an insight-call: below the thread's red zone, put back as it was.

use super::thread::{Refused, Request};
use crate::guest::{Gva, View};
use crate::syscall::RawCall;

/// What the x86-64 ABI lets a function use below RSP without saying so.
const RED_ZONE: u64 = 128;
const ALIGN: u64 = 16;
const PAGE: u64 = 4096;

/// The place of one call's input and output, and what was there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scratch {
    at: Gva,
    input: usize,
    saved: Vec<u8>,
}

impl Scratch {
    /// Finds the place below `rsp`, keeps what is there, and writes the input. Gives the call with its addresses.
    pub(crate) fn prepare(view: &View<'_>, rsp: u64, request: &Request) -> Result<(Self, RawCall), Refused> {
        let input = request.input.len().next_multiple_of(usize::try_from(ALIGN).unwrap_or(16));
        let size = input.checked_add(request.room).ok_or(Refused::NoScratch)?;
        if size == 0 {
            return Ok((Self { at: Gva(0), input, saved: Vec::new() }, request.call));
        }
        let below = RED_ZONE.saturating_add(size as u64);
        let at = Gva(rsp.checked_sub(below).ok_or(Refused::NoScratch)? & !(ALIGN - 1));
        if at.is_kernel() {
            return Err(Refused::NoScratch);
        }
        let mut saved = vec![0; size];
        // A page that was never there reads as zeros once it is; one that is elsewhere cannot be put back.
        pieces(at, size, |piece, range| match view.read(piece, &mut saved[range]) {
            Ok(()) => Ok(()),
            Err(_) if view.is_untouched(piece) => Ok(()),
            Err(_) => Err(Refused::NoScratch),
        })?;
        let scratch = Self { at, input, saved };
        pieces(at, request.input.len(), |piece, range| write_own(view, piece, &request.input[range]))?;
        let mut call = request.call;
        let arguments = [(request.input_at, at), (request.output_at, at.offset(input as u64))];
        for (index, address) in arguments {
            if let Some(argument) = index.and_then(|index| call.args.get_mut(index)) {
                *argument = address.0;
            }
        }
        Ok((scratch, call))
    }

    /// The bytes behind the input.
    pub(crate) fn output(&self, view: &View<'_>) -> Result<Vec<u8>, Refused> {
        let mut bytes = vec![0; self.saved.len() - self.input];
        view.read(self.at.offset(self.input as u64), &mut bytes).map_err(|_| Refused::NoScratch)?;
        Ok(bytes)
    }

    /// Puts back what was there. A page that is absent, or not this process's own, was not written to.
    pub(crate) fn restore(&self, view: &View<'_>) {
        let _ = pieces(self.at, self.saved.len(), |piece, range| {
            let _ = write_own(view, piece, &self.saved[range]);
            Ok(())
        });
    }
}

/// Writes to a page that the process itself could write to: not one that it still shares with another since a fork.
fn write_own(view: &View<'_>, at: Gva, bytes: &[u8]) -> Result<(), Refused> {
    let own = view.translate(at).is_ok_and(|mapping| mapping.writable);
    if own { view.write(at, bytes).map_err(|_| Refused::NoScratch) } else { Err(Refused::NoScratch) }
}

/// Calls `visit` for each part of `size` bytes from `at` that lies on one page.
fn pieces(
    at: Gva,
    size: usize,
    mut visit: impl FnMut(Gva, std::ops::Range<usize>) -> Result<(), Refused>,
) -> Result<(), Refused> {
    let mut done = 0;
    while done < size {
        let piece = at.offset(done as u64);
        let rest = usize::try_from(PAGE - piece.0 % PAGE).unwrap_or(size).min(size - done);
        visit(piece, done..done + rest)?;
        done += rest;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

    use super::super::calls::{Getpid, InsightCall, Newfstatat};
    use super::*;

    /// Pages at 0x10_0000 and 0x10_2000 are there, 0x10_1000 was never, 0x10_3000 is in swap.
    fn guest() -> GuestMemoryMmap {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        for (at, entry) in [
            (0x1000u64, 0x2003u64),
            (0x2000, 0x3003),
            (0x3000, 0x4003),
            (0x4000 + 0x100 * 8, 0x5003),
            (0x4000 + 0x102 * 8, 0x6003),
            (0x4000 + 0x103 * 8, 0x1_2340),
        ] {
            memory.write_obj(entry, GuestAddress(at)).unwrap();
        }
        memory.write_slice(&[0xaa; 0x2000], GuestAddress(0x5000)).unwrap();
        memory
    }

    #[test]
    fn what_was_there_is_put_back() {
        let memory = guest();
        let view = View::new(&memory, 0x1000, false);
        let request = Newfstatat { directory: None, path: "/etc/passwd".into() }.request().0;
        // The input would lie on the page that is not there.
        let refused = Scratch::prepare(&view, 0x10_2000 + 128 + 64, &request).unwrap_err();
        assert_eq!(refused, Refused::NoScratch);
        let (scratch, call) = Scratch::prepare(&view, 0x10_2000 + 128 + 256, &request).unwrap();
        assert_eq!(call.args[1], scratch.at.0);
        assert_eq!(call.args[2], scratch.at.0 + 16);
        assert_eq!(view.read_string(scratch.at, 64).unwrap(), "/etc/passwd");
        view.write(scratch.at.offset(16), &[0x55; 144]).unwrap();
        assert_eq!(scratch.output(&view).unwrap(), [0x55; 144]);
        scratch.restore(&view);
        let mut page = [0; 4096];
        view.read(Gva(0x10_2000), &mut page).unwrap();
        assert_eq!(page, [0xaa; 4096]);
    }

    /// After a fork parent and child share their pages until one of them writes.
    #[test]
    fn a_page_that_is_shared_is_not_written_to() {
        let memory = guest();
        memory.write_obj(0x6001u64, GuestAddress(0x4000 + 0x102 * 8)).unwrap();
        let view = View::new(&memory, 0x1000, false);
        let request = Newfstatat { directory: None, path: "/".into() }.request().0;
        assert_eq!(Scratch::prepare(&view, 0x10_2800, &request).unwrap_err(), Refused::NoScratch);
        let (scratch, _) =
            Scratch::prepare(&view, 0x10_2800, &super::super::calls::Fstat { fd: 1 }.request().0).unwrap();
        memory.write_slice(&[0x77; 0x1000], GuestAddress(0x6000)).unwrap();
        scratch.restore(&view);
        assert_eq!(
            memory.read_obj::<[u8; 32]>(GuestAddress(scratch.at.0 - 0x10_2000 + 0x6000)).unwrap(),
            [0x77; 32]
        );
    }

    #[test]
    fn a_page_in_swap_is_left_alone() {
        let memory = guest();
        let view = View::new(&memory, 0x1000, false);
        let request = super::super::calls::Fstat { fd: 1 }.request().0;
        let refused = Scratch::prepare(&view, 0x10_3800, &request).unwrap_err();
        assert_eq!(refused, Refused::NoScratch);
        assert!(Scratch::prepare(&view, 0x10_1800, &request).is_ok(), "never touched: zeros");
        for rsp in [0, 100, u64::MAX] {
            assert_eq!(Scratch::prepare(&view, rsp, &request).unwrap_err(), Refused::NoScratch);
        }
        assert!(Scratch::prepare(&view, 0x10_3800, &Getpid.request().0).is_ok(), "needs no room");
    }
}
