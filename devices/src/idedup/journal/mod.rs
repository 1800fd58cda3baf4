//! The journal: a ring of pages that say what has changed since the last checkpoint. It knows nothing of what its
//! records mean, and keeps none that are durable.
//!
//! ```text
//!   push ──▶ waiting records ──write_out──▶ pages ──sync by the caller──▶ durable
//! ```
//!
//! A page is written once in its epoch, the time between two checkpoints. So a torn page was never durable, and the
//! journal ends before it.

use std::collections::VecDeque;

use super::page::{self, BLOCK, HEADER, Identity, Kind};
use crate::block::{Error, ErrorKind, Operation, Result, Storage};

mod record;

pub(super) use record::Record;

const EPOCH: usize = HEADER;
const DURABLE: usize = HEADER + 8;
const LENGTH: usize = HEADER + 16;
const RECORDS: usize = HEADER + 24;
/// Numbers end here; nobody gets so far.
pub(super) const LAST: u64 = 1 << 62;
/// Pages that are read or written at once.
const BATCH: u64 = 64;

/// Where the journal lies, and what its pages are known by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ring {
    /// Byte where it begins.
    pub(super) offset: u64,
    /// Pages that it has.
    pub(super) pages: u64,
    pub(super) identity: Identity,
    /// Bytes of the fingerprints in it.
    pub(super) width: usize,
}

impl Ring {
    fn place(&self, sequence: u64) -> u64 {
        self.offset + sequence % self.pages * BLOCK as u64
    }
}

/// The journal of an image that is written.
#[derive(Debug)]
pub(super) struct Journal {
    ring: Ring,
    epoch: u64,
    /// First page of the epoch.
    first: u64,
    /// The page to be written next.
    next: u64,
    /// All pages before are durable.
    durable: u64,
    /// Records that are in no page.
    waiting: VecDeque<Record>,
}

impl Journal {
    /// The journal behind checkpoint number `epoch`, whose first page has the sequence `first`.
    pub(super) fn new(ring: Ring, epoch: u64, first: u64) -> Self {
        Self { ring, epoch, first, next: first, durable: first, waiting: VecDeque::new() }
    }

    /// Adds records behind all others.
    pub(super) fn extend(&mut self, records: impl IntoIterator<Item = Record>) {
        self.waiting.extend(records);
    }

    /// Whether all that waits has place before the next checkpoint, and `more` pages too.
    pub(super) fn has_room(&self, more: u64) -> bool {
        let length: usize = self.waiting.iter().map(|record| record.length(self.ring.width)).sum();
        // The last record of a page may leave a rest that it does not fit into.
        let pages = (length / (BLOCK - RECORDS - Record::LONGEST) + 1) as u64;
        self.next - self.first + pages + more <= self.ring.pages
    }

    /// Writes all that waits, without a sync. Answers how many pages that were.
    ///
    /// # Errors
    /// The medium failed. What is in no page waits on, and is written to the same pages next time.
    pub(super) fn write_out(&mut self, storage: &dyn Storage) -> Result<u64> {
        let begun = self.next;
        while !self.waiting.is_empty() {
            // A run that does not wrap.
            let most = (self.ring.pages - self.next % self.ring.pages).min(BATCH);
            let (mut bytes, mut taken, mut sequence) = (Vec::new(), 0, self.next);
            while taken < self.waiting.len() && sequence < self.next + most {
                if sequence - self.first >= self.ring.pages {
                    let why = "the journal was not given a checkpoint in time";
                    return Err(Error::new(ErrorKind::NoSpace, Operation::Write).because(why));
                }
                taken += self.page(sequence, taken, &mut bytes);
                sequence += 1;
            }
            storage.write(self.ring.place(self.next), &bytes)?;
            self.waiting.drain(..taken);
            self.next = sequence;
        }
        Ok(self.next - begun)
    }

    /// Adds the page of `sequence` to `bytes`, with the records from number `from` on that fit. Answers how many.
    fn page(&self, sequence: u64, from: usize, bytes: &mut Vec<u8>) -> usize {
        let mut page = Vec::with_capacity(BLOCK);
        page.resize(RECORDS, 0);
        let mut taken = 0;
        for record in self.waiting.iter().skip(from) {
            if page.len() + record.length(self.ring.width) > BLOCK {
                break;
            }
            record.encode(self.ring.width, &mut page);
            taken += 1;
        }
        // A page has fewer bytes than 16 bits can say.
        let length = u16::try_from(page.len() - RECORDS).unwrap_or(0);
        page.resize(BLOCK, 0);
        page[EPOCH..EPOCH + 8].copy_from_slice(&self.epoch.to_le_bytes());
        page[DURABLE..DURABLE + 8].copy_from_slice(&self.durable.to_le_bytes());
        page[LENGTH..LENGTH + 2].copy_from_slice(&length.to_le_bytes());
        page::seal(Kind::Journal, self.ring.identity, sequence, &mut page);
        bytes.extend_from_slice(&page);
        taken
    }

    /// A sync that began after the last [`write_out`](Self::write_out) has returned.
    pub(super) fn synced(&mut self) {
        self.durable = self.next;
    }

    /// Sequence of the first page behind the next checkpoint.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// A checkpoint that holds all records up to now is durable, under the next number.
    pub(super) fn restart(&mut self) {
        self.waiting.clear();
        self.epoch += 1;
        self.first = self.next;
        self.durable = self.next;
    }
}

/// What a journal says.
#[derive(Debug, Default)]
pub(super) struct Replay {
    /// Records that were durable, and so was the data that they speak of.
    pub(super) durable: Vec<Record>,
    /// Records whose data may be missing.
    pub(super) tail: Vec<Record>,
    /// The first sequence that no page of this image ever had.
    pub(super) next: u64,
}

/// Reads the journal behind checkpoint number `epoch`.
///
/// # Errors
/// [`ErrorKind::Corrupt`] if a later checkpoint than that was durable, or a sound page holds what is no record; the
/// medium failed.
pub(super) fn replay(storage: &dyn Storage, ring: Ring, epoch: u64, first: u64) -> Result<Replay> {
    let corrupt = |why: &str| Err(Error::new(ErrorKind::Corrupt, Operation::Open).because(why));
    let mut pages: Vec<(u64, Vec<Record>)> = Vec::new();
    let (mut next, mut highest, mut durable) = (first, first, first);
    let mut ended = false;
    let mut bytes = vec![0; BLOCK * usize::try_from(BATCH).unwrap_or(1)];
    // All of the ring, beginning with the place of the first page.
    let mut at = 0;
    while at < ring.pages {
        let sequence = first.saturating_add(at);
        let run = (ring.pages - at).min(ring.pages - sequence % ring.pages).min(BATCH);
        let bytes = &mut bytes[..BLOCK * usize::try_from(run).unwrap_or(1)];
        storage.read(ring.place(sequence), bytes)?;
        for page in bytes.chunks(BLOCK) {
            let Some(number) = page::number(Kind::Journal, ring.identity, page) else {
                ended = true;
                continue;
            };
            let of = page::u64_at(page, EPOCH);
            if of > epoch && of <= LAST {
                return corrupt("the checkpoint that its journal follows is missing");
            }
            if of > LAST || number > LAST {
                return corrupt("it has numbered its last page");
            }
            highest = highest.max(number + 1);
            if ended || of != epoch || number != next {
                ended = true;
                continue;
            }
            let length = usize::from(page::u16_at(page, LENGTH));
            let Some(records) =
                page.get(RECORDS..RECORDS + length).and_then(|bytes| Record::decode_all(ring.width, bytes))
            else {
                return corrupt("a page of the journal holds what is no record");
            };
            durable = durable.max(page::u64_at(page, DURABLE));
            pages.push((number, records));
            next += 1;
        }
        at += run;
    }
    let mut replay = Replay { next: highest, ..Replay::default() };
    for (sequence, records) in pages {
        let part = if sequence < durable { &mut replay.durable } else { &mut replay.tail };
        part.extend(records);
    }
    Ok(replay)
}

#[cfg(test)]
mod tests;
