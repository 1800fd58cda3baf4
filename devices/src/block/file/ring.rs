//! Many reads at a time by io_uring.
//!
//! The kernel writes only to memory that the ring owns, and the bytes are copied from there. So nothing that goes wrong
//! can leave the kernel writing to memory that its owner has taken back; a copy is nothing beside a read of a disk.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, opcode, types};

use super::aligned::AlignedBuffer;
use crate::block::range::to_u64;

/// Reads under way at a time.
const DEPTH: usize = 32;

/// Bytes of one read: longer requests are several.
const SLOT: usize = 128 * 1024;

/// A request of which at least one piece could not be read this way. The caller reads it another way, which names the
/// error.
pub(super) type Unread = usize;

/// One read under way.
struct Piece {
    /// Which of the requests.
    request: usize,
    /// First byte within its buffer.
    start: usize,
    length: usize,
}

/// A queue for reads.
pub(super) struct Ring {
    ring: IoUring,
    slots: Vec<AlignedBuffer>,
    /// Reads are under way that nobody waits for any more: no use, and its memory is the kernel's for good.
    abandoned: bool,
}

impl Ring {
    /// A queue whose memory suits direct access with `alignment` bytes.
    ///
    /// # Errors
    /// The kernel has no io_uring, or does not let this process use it.
    pub(super) fn new(alignment: usize) -> io::Result<Self> {
        let ring = IoUring::new(u32::try_from(DEPTH).map_err(|_| io::ErrorKind::InvalidInput)?)?;
        let slots = (0..DEPTH).map(|_| AlignedBuffer::new(SLOT, alignment)).collect();
        Ok(Self { ring, slots, abandoned: false })
    }

    /// Fills each buffer from its offset in `file`. Answers which requests it could not read.
    pub(super) fn read(&mut self, file: &File, requests: &mut [(u64, &mut [u8])]) -> Vec<Unread> {
        if self.abandoned {
            return (0..requests.len()).collect();
        }
        let mut unread = Vec::new();
        let mut waiting = pieces(requests).into_iter();
        let mut under_way: [Option<Piece>; DEPTH] = [const { None }; DEPTH];
        // Whatever ends this before the last read has come back ends the ring.
        self.abandoned = true;
        loop {
            for (slot, place) in under_way.iter_mut().enumerate().filter(|(_, place)| place.is_none()) {
                let Some(piece) = waiting.next() else { break };
                let offset = requests[piece.request].0.saturating_add(to_u64(piece.start));
                if self.push(file, slot, piece.length, offset) {
                    *place = Some(piece);
                } else {
                    unread.push(piece.request);
                }
            }
            if under_way.iter().all(Option::is_none) {
                break;
            }
            if let Err(error) = self.ring.submit_and_wait(1)
                && error.kind() != io::ErrorKind::Interrupted
            {
                tracing::warn!(%error, "io_uring failed: reading without it");
                return (0..requests.len()).collect();
            }
            for entry in self.ring.completion() {
                let slot = usize::try_from(entry.user_data()).unwrap_or(DEPTH);
                let Some(piece) = under_way.get_mut(slot).and_then(Option::take) else { continue };
                if usize::try_from(entry.result()) == Ok(piece.length) {
                    let bytes = &self.slots[slot].as_slice()[..piece.length];
                    requests[piece.request].1[piece.start..][..piece.length].copy_from_slice(bytes);
                } else {
                    unread.push(piece.request);
                }
            }
        }
        self.abandoned = false;
        unread.sort_unstable();
        unread.dedup();
        unread
    }

    /// Queues one read. False if the queue is full, which it is not while there is a slot for each entry.
    fn push(&mut self, file: &File, slot: usize, length: usize, offset: u64) -> bool {
        let Ok(bytes) = u32::try_from(length) else { return false };
        let memory = self.slots[slot].as_mut_slice()[..length].as_mut_ptr();
        let entry = opcode::Read::new(types::Fd(file.as_raw_fd()), memory, bytes)
            .offset(offset)
            .build()
            .user_data(to_u64(slot));
        // SAFETY: the slot is not in use and belongs to the ring, which does not touch it before the read completes
        // and gives it up for good if it stops waiting (see `drop`). The file is open until this call returns, and
        // the kernel holds its own reference from submission on.
        unsafe { self.ring.submission().push(&entry) }.is_ok()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.abandoned {
            // The kernel may still write there.
            std::mem::forget(std::mem::take(&mut self.slots));
        }
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("abandoned", &self.abandoned).finish_non_exhaustive()
    }
}

/// Cuts requests into pieces that fit a slot.
fn pieces(requests: &[(u64, &mut [u8])]) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(requests.len());
    for (request, (_, buffer)) in requests.iter().enumerate() {
        for start in (0..buffer.len()).step_by(SLOT) {
            pieces.push(Piece { request, start, length: SLOT.min(buffer.len() - start) });
        }
    }
    pieces
}
