//! Many reads at a time by io_uring.
//!
//! The kernel writes to the callers' memory, or where that is not aligned to memory of the ring, from which it is
//! copied. Nobody gets memory back that the kernel may still write to: a call waits for all reads that it has begun, and
//! does so too when it fails or panics.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use io_uring::{IoUring, cqueue, opcode, squeue, types};

use super::aligned::AlignedBuffer;
use crate::block::range::to_u64;

/// Reads under way at a time.
const DEPTH: usize = 32;

/// The longest request that is read into the ring's own memory.
const SLOT: usize = 512 * 1024;

/// Rings of one file. When all are in use, others read without.
const RINGS: usize = 16;

/// A request that could not be read this way. The caller reads it another way, which names the error.
pub(super) type Unread = usize;

/// The rings of one file, made when they are needed.
#[derive(Debug)]
pub(super) struct Rings {
    /// What direct access wants of addresses, in bytes.
    alignment: usize,
    free: Mutex<Vec<Ring>>,
    made: AtomicUsize,
    refused: AtomicBool,
}

impl Rings {
    /// None yet.
    pub(super) fn new(alignment: usize) -> Self {
        Self { alignment, free: Mutex::default(), made: AtomicUsize::new(0), refused: AtomicBool::new(false) }
    }

    /// A ring for one call, to be [given](Self::give) back. Nothing where the kernel refuses, or all are in use.
    pub(super) fn take(&self) -> Option<Ring> {
        if let Some(ring) = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Some(ring);
        }
        let another = |made| (made < RINGS).then_some(made + 1);
        if self.are_refused()
            || self.made.fetch_update(Ordering::Relaxed, Ordering::Relaxed, another).is_err()
        {
            return None;
        }
        match Ring::new(self.alignment) {
            Ok(ring) => Some(ring),
            Err(error) => {
                tracing::debug!(%error, "no io_uring: reading without it");
                self.refuse();
                None
            }
        }
    }

    /// Takes a ring back, unless it is broken.
    pub(super) fn give(&self, ring: Ring) {
        if ring.broken {
            self.refuse();
        } else {
            self.free.lock().unwrap_or_else(PoisonError::into_inner).push(ring);
        }
    }

    /// No more rings are made.
    pub(super) fn refuse(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    /// Whether no more are made.
    pub(super) fn are_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }
}

/// A queue for reads.
pub(super) struct Ring {
    ring: IoUring,
    alignment: usize,
    /// Memory for each read under way, once it was needed.
    slots: [Option<AlignedBuffer>; DEPTH],
    /// Not to be used again.
    broken: bool,
}

impl Ring {
    fn new(alignment: usize) -> io::Result<Self> {
        let ring = IoUring::new(u32::try_from(DEPTH).map_err(|_| io::ErrorKind::InvalidInput)?)?;
        Ok(Self { ring, alignment, slots: [const { None }; DEPTH], broken: false })
    }

    /// Fills each buffer from its offset in `file`, and calls `arrived` with each that is there, in any order. Answers
    /// which could not be read, in order.
    pub(super) fn read(
        &mut self,
        file: &File,
        requests: &mut [(u64, &mut [u8])],
        mut arrived: impl FnMut(usize, &mut [u8]),
    ) -> Vec<Unread> {
        let mut is_there = vec![false; requests.len()];
        let mut waiting = 0..requests.len();
        let mut under_way: [Option<usize>; DEPTH] = [None; DEPTH];
        let mut reads = Reads { ring: &mut self.ring, unanswered: 0 };
        loop {
            for (slot, place) in under_way.iter_mut().enumerate().filter(|(_, place)| place.is_none()) {
                *place = waiting.by_ref().find(|&number| {
                    let (offset, buffer) = &mut requests[number];
                    let length = buffer.len();
                    let memory = if buffer.as_ptr().addr().is_multiple_of(self.alignment) {
                        buffer.as_mut_ptr()
                    } else if length <= SLOT {
                        let make = || AlignedBuffer::new(SLOT, self.alignment);
                        self.slots[slot].get_or_insert_with(make).as_mut_slice().as_mut_ptr()
                    } else {
                        return false;
                    };
                    let Ok(bytes) = u32::try_from(length) else { return false };
                    let entry = opcode::Read::new(types::Fd(file.as_raw_fd()), memory, bytes)
                        .offset(*offset)
                        .build()
                        .user_data(to_u64(slot));
                    // SAFETY: `memory` is `length` bytes of this request or of this slot, and neither is touched again
                    // before the read is answered, for which `reads` waits before `requests` and `self` are anybody's.
                    // The file is open until then.
                    unsafe { reads.begin(&entry) }
                });
            }
            if reads.unanswered == 0 {
                break;
            }
            if let Err(error) = reads.wait() {
                tracing::warn!(%error, "io_uring failed: reading without it");
                self.broken = true;
                break;
            }
            while let Some(answer) = reads.answer() {
                let slot = usize::try_from(answer.user_data()).unwrap_or(DEPTH);
                let Some(number) = under_way.get_mut(slot).and_then(Option::take) else { continue };
                let buffer = &mut *requests[number].1;
                if usize::try_from(answer.result()) != Ok(buffer.len()) {
                    continue;
                }
                if !buffer.as_ptr().addr().is_multiple_of(self.alignment)
                    && let Some(memory) = &self.slots[slot]
                {
                    buffer.copy_from_slice(&memory.as_slice()[..buffer.len()]);
                }
                is_there[number] = true;
                arrived(number, buffer);
            }
        }
        (0..requests.len()).filter(|&number| !is_there[number]).collect()
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("broken", &self.broken).finish_non_exhaustive()
    }
}

/// Reads that have begun. Their memory is the kernel's until each is answered, which is waited for at the latest when
/// this is dropped.
struct Reads<'a> {
    ring: &'a mut IoUring,
    unanswered: usize,
}

impl Reads<'_> {
    /// Queues one. False if the queue is full, which it is not while there is a slot for each entry.
    ///
    /// # Safety
    /// What the entry names stays as it is, and is nobody else's, until the read is answered or `self` is dropped.
    unsafe fn begin(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: as the caller promises; no read outlives `self`.
        let queued = unsafe { self.ring.submission().push(entry) }.is_ok();
        self.unanswered += usize::from(queued);
        queued
    }

    /// Waits for an answer.
    fn wait(&self) -> io::Result<()> {
        match self.ring.submit_and_wait(1) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }

    fn answer(&mut self) -> Option<cqueue::Entry> {
        let answer = self.ring.completion().next()?;
        self.unanswered -= 1;
        Some(answer)
    }
}

impl Drop for Reads<'_> {
    fn drop(&mut self) {
        // What the kernel has not taken by now it never will: a ring that failed is not used again.
        self.unanswered = self.unanswered.saturating_sub(self.ring.submission().len());
        while self.unanswered > 0 {
            // The kernel answers on its own, if need be with an error. It cannot be asked to wake us any more.
            if self.answer().is_none() {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
}
