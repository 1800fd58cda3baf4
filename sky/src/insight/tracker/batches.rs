//! Reads and writes that a process queues and submits in one call: libaio and io_uring.
//!
//! The call says what is to be done, not when it will be: writes are put together at entry, and count as done when they
//! have been accepted.

use std::collections::HashMap;

use super::transfer::{Buffers, Place, Supply, Transfer};
use super::{Guest, Inner, Note};
use crate::guest::{Gva, Submissions};
use crate::insight::Origin;
use crate::syscall::RawCall;

const IO_SUBMIT: u64 = 209;
/// Makes a ring.
pub(super) const IO_URING_SETUP: u64 = 425;
const IO_URING_ENTER: u64 = 426;

/// The calls that are looked at here, by number.
pub(super) const BATCHES: [u64; 2] = [IO_SUBMIT, IO_URING_ENTER];

/// Entries of one call that are followed.
const MAX_ENTRIES: u32 = 256;
/// `IORING_SETUP_SQPOLL`, and where the flags are in `struct io_uring_params`.
const SQPOLL: u32 = 1 << 1;
const PARAMS_FLAGS: u64 = 8;

/// A batch on its way: its reads and writes, by their places in it.
pub(super) type Batch = Vec<(u64, Note)>;

/// One entry of a batch, from whatever queue.
struct Entry {
    fd: u32,
    place: Place,
    buffers: Option<Buffers>,
    writes: bool,
}

/// `struct iocb` (include/uapi/linux/aio_abi.h).
fn iocb(guest: Guest<'_>, at: Gva) -> Option<Entry> {
    let mut bytes = [0; 64];
    guest.view.read(at, &mut bytes).ok()?;
    let (vector, writes) = match bytes[16] {
        0 => (false, false),
        1 => (false, true),
        7 => (true, false),
        8 => (true, true),
        _ => return None,
    };
    let (at, length) = (Gva(word(&bytes, 24)), word(&bytes, 32));
    Some(Entry {
        fd: half(&bytes, 20),
        place: Place::Offset(word(&bytes, 40)),
        buffers: if vector { Buffers::read(guest.view, at, length) } else { Some(Buffers::one(at, length)) },
        writes,
    })
}

/// `struct io_uring_sqe` (include/uapi/linux/io_uring.h).
fn submission(guest: Guest<'_>, bytes: &[u8; 64]) -> Result<Option<Entry>, Unclear> {
    /// The file, or the buffer, is one of a table that was registered before.
    const FIXED_FILE: u8 = 1;
    const BUFFER_SELECT: u8 = 1 << 5;
    let (vector, writes) = match bytes[0] {
        1 => (true, false),
        2 => (true, true),
        4 | 22 => (false, false),
        5 | 23 => (false, true),
        _ => return Ok(None),
    };
    if bytes[1] & (FIXED_FILE | BUFFER_SELECT) != 0 {
        return Err(Unclear);
    }
    let (at, length) = (Gva(word(bytes, 16)), u64::from(half(bytes, 24)));
    let offset = word(bytes, 8);
    Ok(Some(Entry {
        fd: half(bytes, 4),
        place: if offset == u64::MAX { Place::Position } else { Place::Offset(offset) },
        buffers: if vector { Buffers::read(guest.view, at, length) } else { Some(Buffers::one(at, length)) },
        writes,
    }))
}

/// An entry that reads or writes something that it does not name.
struct Unclear;

fn word(bytes: &[u8; 64], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |word| u64::from_le_bytes(*word))
}

fn half(bytes: &[u8; 64], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |half| u32::from_le_bytes(*half))
}

impl Inner {
    /// A batch is about to be submitted.
    pub(super) fn batch_entered(
        &mut self,
        guest: Guest<'_>,
        call: &RawCall,
        origin: &Origin,
    ) -> Option<Batch> {
        self.drafts = Some(HashMap::new());
        let batch = self.entries(guest, call, origin);
        self.drafts = None;
        batch.filter(|batch| !batch.is_empty())
    }

    fn entries(&mut self, guest: Guest<'_>, call: &RawCall, origin: &Origin) -> Option<Batch> {
        let [a, b, c, ..] = call.args;
        let mut batch = Vec::new();
        match call.number {
            IO_SUBMIT => {
                for at in 0..b.min(u64::from(MAX_ENTRIES)) {
                    let iocbs = Gva(c).offset(at * 8);
                    let entry = guest.view.read_u64(iocbs).ok().and_then(|iocb_at| iocb(guest, Gva(iocb_at)));
                    batch.extend(
                        entry.and_then(|entry| self.entry(guest, entry, origin)).map(|note| (at, note)),
                    );
                }
            }
            IO_URING_ENTER => {
                let fd = u32::try_from(a & u64::from(u32::MAX)).ok()?;
                let most = u32::try_from(b & u64::from(u32::MAX)).ok()?.min(MAX_ENTRIES);
                match guest.linux.submissions(guest.view, guest.task, fd, most) {
                    Ok(Some(Submissions::Entries(all))) => {
                        for (at, bytes) in (0..).zip(&all) {
                            match submission(guest, bytes) {
                                Ok(Some(entry)) => {
                                    batch.extend(self.entry(guest, entry, origin).map(|note| (at, note)));
                                }
                                Ok(None) => {}
                                Err(Unclear) => self.counts.unclear_submissions += 1,
                            }
                        }
                    }
                    // Counted when the ring was made.
                    Ok(Some(Submissions::Polled)) => {}
                    // A ring that is a registered descriptor, say.
                    Ok(None) | Err(_) => self.counts.unclear_submissions += 1,
                }
            }
            _ => return None,
        }
        Some(batch)
    }

    fn entry(&mut self, guest: Guest<'_>, entry: Entry, origin: &Origin) -> Option<Note> {
        let Some(buffers) = entry.buffers else {
            self.counts.unreadable += 1;
            return None;
        };
        let from = Supply::Memory(buffers);
        let transfer = Transfer { fd: entry.fd, place: entry.place, from, append: None, sync: true };
        if entry.writes {
            self.write_entered(guest, transfer, origin.clone()).map(Note::Write)
        } else {
            self.read_entered(guest, transfer, origin.clone()).map(Note::Read)
        }
    }

    /// A batch was submitted, or so many of its entries.
    pub(super) fn batch_returned(&mut self, guest: Guest<'_>, batch: &Batch, result: i64) {
        for (at, note) in batch {
            let accepted = i64::try_from(*at).is_ok_and(|at| at < result);
            match note {
                Note::Write(note) => {
                    self.write_returned(guest, note, if accepted { note.whole() } else { 0 });
                }
                // What has not arrived yet is nothing that a disk gave.
                Note::Read(note) if accepted => self.read_returned(guest, note, note.whole()),
                Note::Read(_) | Note::Batch(_) => {}
            }
        }
    }

    /// A ring was made.
    pub(super) fn ring_made(&mut self, guest: Guest<'_>, call: &RawCall) {
        let flags = guest.view.read_u32(Gva(call.args[1]).offset(PARAMS_FLAGS));
        self.counts.polled_rings += u64::from(flags.is_ok_and(|flags| flags & SQPOLL != 0));
    }
}
