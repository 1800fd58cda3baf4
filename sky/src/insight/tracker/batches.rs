//! Reads and writes that a process queues and submits in one call: libaio and io_uring.
//!
//! The call says what is to be done, not when it will be: writes are put together at entry, and count as done when they
//! have been accepted.

use std::collections::HashMap;

use super::transfer::{Buffers, MAX_RW_COUNT, Place, Supply, Transfer, offset};
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

/// Entries of one call that are followed, and the bytes of all of them.
const MAX_ENTRIES: u32 = 256;
const MAX_BYTES: u64 = MAX_RW_COUNT;
/// `IORING_SETUP_SQPOLL`, and where the flags are in `struct io_uring_params`.
const SQPOLL: u32 = 1 << 1;
const PARAMS_FLAGS: u64 = 8;

/// A batch on its way: its reads and writes, by their places in it.
pub(super) type Batch = Vec<(u64, Note)>;

/// One entry of a batch, from whatever queue.
struct Entry {
    fd: u32,
    place: Place,
    buffers: Buffers,
    writes: bool,
}

/// What is queued.
enum Queued {
    Transfer(Entry),
    /// Something else, or what the kernel will refuse.
    Other,
    /// Something that the entry does not name.
    Unclear,
}

/// A `struct iocb` (include/uapi/linux/aio_abi.h).
fn iocb(guest: Guest<'_>, at: Gva) -> Queued {
    const PREAD: u16 = 0;
    const PWRITE: u16 = 1;
    const PREADV: u16 = 7;
    const PWRITEV: u16 = 8;
    let mut bytes = [0; 64];
    if guest.view.read(at, &mut bytes).is_err() {
        return Queued::Other;
    }
    let operation = u16::from_le_bytes([bytes[16], bytes[17]]);
    let (vector, writes) = match operation {
        PREAD | PWRITE => (false, operation == PWRITE),
        PREADV | PWRITEV => (true, operation == PWRITEV),
        _ => return Queued::Other,
    };
    let memory = (Gva(word(&bytes, 24)), word(&bytes, 32));
    entry(guest, half(&bytes, 20), offset(word(&bytes, 40)), memory, (vector, writes))
}

/// A `struct io_uring_sqe` (include/uapi/linux/io_uring.h).
fn submission(guest: Guest<'_>, bytes: &[u8; 64]) -> Queued {
    const READV: u8 = 1;
    const WRITEV: u8 = 2;
    const READ_FIXED: u8 = 4;
    const WRITE_FIXED: u8 = 5;
    const READ: u8 = 22;
    const WRITE: u8 = 23;
    /// The file, or the buffer, is one that was registered before.
    const FIXED_FILE: u8 = 1;
    const BUFFER_SELECT: u8 = 1 << 5;
    let operation = bytes[0];
    let (vector, writes) = match operation {
        READV | WRITEV => (true, operation == WRITEV),
        READ_FIXED | READ => (false, false),
        WRITE_FIXED | WRITE => (false, true),
        _ => return Queued::Other,
    };
    if bytes[1] & (FIXED_FILE | BUFFER_SELECT) != 0 {
        return Queued::Unclear;
    }
    let memory = (Gva(word(bytes, 16)), u64::from(half(bytes, 24)));
    let place = if word(bytes, 8) == u64::MAX { Some(Place::Position) } else { offset(word(bytes, 8)) };
    entry(guest, half(bytes, 4), place, memory, (vector, writes))
}

/// `memory` is a buffer and its length, or an array of such and how many.
fn entry(
    guest: Guest<'_>,
    fd: u32,
    place: Option<Place>,
    (at, length): (Gva, u64),
    (vector, writes): (bool, bool),
) -> Queued {
    let buffers = if vector { Buffers::read(guest.view, at, length) } else { Some(Buffers::one(at, length)) };
    match place.zip(buffers) {
        Some((place, buffers)) => Queued::Transfer(Entry { fd, place, buffers, writes }),
        None => Queued::Other,
    }
}

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
        let queued: Vec<Queued> = match call.number {
            IO_SUBMIT => {
                let pointer = |at: u64| guest.view.read_u64(Gva(c).offset(at * 8));
                let queued = |at| pointer(at).map_or(Queued::Other, |at| iocb(guest, Gva(at)));
                (0..b.min(MAX_ENTRIES.into())).map(queued).collect()
            }
            IO_URING_ENTER => {
                let fd = u32::try_from(a & u64::from(u32::MAX)).ok()?;
                let most = u32::try_from(b & u64::from(u32::MAX)).ok()?.min(MAX_ENTRIES);
                match guest.linux.submissions(guest.view, guest.task, fd, most) {
                    Ok(Some(Submissions::Entries(all))) => {
                        all.iter().map(|bytes| submission(guest, bytes)).collect()
                    }
                    // Counted when the ring was made.
                    Ok(Some(Submissions::Polled)) => return None,
                    // A ring that is a registered descriptor, say.
                    Ok(None) | Err(_) => vec![Queued::Unclear],
                }
            }
            _ => return None,
        };
        let (mut batch, mut left) = (Vec::new(), MAX_BYTES);
        for (at, queued) in (0..).zip(queued) {
            match queued {
                Queued::Transfer(entry) if entry.buffers.length() <= left => {
                    left -= entry.buffers.length();
                    batch.extend(self.entry(guest, entry, origin.clone()).map(|note| (at, note)));
                }
                Queued::Transfer(_) | Queued::Unclear => self.counts.unclear_submissions += 1,
                Queued::Other => {}
            }
        }
        Some(batch)
    }

    fn entry(&mut self, guest: Guest<'_>, entry: Entry, origin: Origin) -> Option<Note> {
        let from = Supply::Memory(entry.buffers);
        let transfer = Transfer { fd: entry.fd, place: entry.place, from, append: None, sync: true };
        if entry.writes {
            self.write_entered(guest, transfer, origin).map(Note::Write)
        } else {
            self.read_entered(guest, transfer, origin).map(Note::Read)
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
                Note::Read(_) | Note::Batch(_) | Note::Change { .. } => {}
            }
        }
    }

    /// A ring was made.
    pub(super) fn ring_made(&mut self, guest: Guest<'_>, call: &RawCall) {
        let flags = guest.view.read_u32(Gva(call.args[1]).offset(PARAMS_FLAGS));
        self.counts.polled_rings += u64::from(flags.is_ok_and(|flags| flags & SQPOLL != 0));
    }
}
