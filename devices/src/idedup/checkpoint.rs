//! The checkpoint areas: which slot of each table page counts, which buckets were ever written, which runs of claims
//! there are, and where the journal goes on.

use super::journal::LAST;
use super::layout::Layout;
use super::page::{self, Identity, Kind};
use crate::block::{Error, ErrorKind, Operation, Result, Storage};

const START: usize = 24;
const FILTER: usize = 32;
const RUNS: usize = 40;
const RUN: usize = 48;
/// Bytes before the states of the pages.
pub(super) const SLOTS: usize = RUN + MOST_STAGED * 24;
/// Runs that there are at most.
pub(super) const MOST_STAGED: usize = 32;

/// Where a run of claims lies, and what its pages are known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StagedAt {
    pub(super) serial: u64,
    /// Its first page in the area of runs.
    pub(super) first: u64,
    pub(super) pages: u64,
}

/// Where a table page lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// Nowhere: all of it is zeros.
    None,
    First,
    Second,
}

impl Slot {
    /// The slot to write next.
    pub(super) fn other(self) -> Self {
        if self == Self::First { Self::Second } else { Self::First }
    }

    /// Its number, 0 or 1.
    pub(super) fn number(self) -> u64 {
        u64::from(self == Self::Second)
    }
}

/// What a checkpoint area says.
#[derive(Clone, Debug)]
pub(super) struct Checkpoint {
    identity: Identity,
    pub(super) number: u64,
    /// Sequence of the first page of its journal.
    pub(super) start: u64,
    /// What the pages of the stored filter are known by; 0 if none is.
    pub(super) filter: u64,
    /// Runs of claims, oldest first.
    pub(super) runs: Vec<StagedAt>,
    /// Two bits for each table page.
    slots: Vec<u8>,
    /// A bit for each bucket that was ever written.
    pub(super) buckets: Vec<u8>,
    pages: u64,
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl Checkpoint {
    /// That of an empty image.
    pub(super) fn first(layout: &Layout) -> Self {
        Self {
            identity: layout.identity,
            number: 1,
            start: 0,
            filter: 0,
            runs: Vec::new(),
            slots: vec![0; index(layout.table_pages.div_ceil(4))],
            buckets: vec![0; index(layout.buckets.div_ceil(8))],
            pages: layout.table_pages,
        }
    }

    /// Where a table page lies. What is no page lies nowhere.
    pub(super) fn slot(&self, page: u64) -> Slot {
        let bits = self.slots.get(index(page / 4)).map_or(0, |byte| byte >> (page % 4 * 2) & 3);
        match bits {
            1 => Slot::First,
            2 => Slot::Second,
            _ => Slot::None,
        }
    }

    pub(super) fn set_slot(&mut self, page: u64, slot: Slot) {
        if let Some(byte) = self.slots.get_mut(index(page / 4)) {
            let shift = page % 4 * 2;
            let bits = match slot {
                Slot::None => 0u8,
                Slot::First => 1,
                Slot::Second => 2,
            };
            *byte = *byte & !(3 << shift) | bits << shift;
        }
    }

    /// The area, of `length` bytes.
    pub(super) fn encode(&self, length: usize) -> Vec<u8> {
        let mut area = vec![0; SLOTS];
        area[START..START + 8].copy_from_slice(&self.start.to_le_bytes());
        area[FILTER..FILTER + 8].copy_from_slice(&self.filter.to_le_bytes());
        let count = u32::try_from(self.runs.len()).unwrap_or(0);
        area[RUNS..RUNS + 4].copy_from_slice(&count.to_le_bytes());
        for (bytes, run) in area[RUN..].chunks_exact_mut(24).zip(&self.runs) {
            bytes[..8].copy_from_slice(&run.serial.to_le_bytes());
            bytes[8..16].copy_from_slice(&run.first.to_le_bytes());
            bytes[16..].copy_from_slice(&run.pages.to_le_bytes());
        }
        area.extend_from_slice(&self.slots);
        area.extend_from_slice(&self.buckets);
        area.resize(length, 0);
        page::seal(Kind::Checkpoint, self.identity, self.number, &mut area);
        area
    }

    /// The newest of both areas.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if neither is sound, or the medium failed.
    pub(super) fn read(storage: &dyn Storage, layout: &Layout) -> Result<Self> {
        let corrupt = |why: &str| Error::new(ErrorKind::Corrupt, Operation::Open).because(why);
        let mut newest: Option<(u64, Vec<u8>)> = None;
        for parity in [1, 2] {
            let mut area = vec![0; index(layout.checkpoint)];
            storage.read(layout.checkpoint_place(parity), &mut area)?;
            let Some(number) = page::number(Kind::Checkpoint, layout.identity, &area) else { continue };
            if number % 2 == parity % 2 && newest.as_ref().is_none_or(|(newest, _)| *newest < number) {
                newest = Some((number, area));
            }
        }
        let (number, area) = newest.ok_or_else(|| corrupt("it has no sound checkpoint"))?;
        let mut checkpoint = Self::first(layout);
        checkpoint.number = number;
        checkpoint.start = page::u64_at(&area, START);
        if number > LAST || checkpoint.start > LAST {
            return Err(corrupt("it has numbered its last page"));
        }
        checkpoint.filter = page::u64_at(&area, FILTER);
        checkpoint.runs = runs(layout, &area).ok_or_else(|| corrupt("a run of its index lies nowhere"))?;
        let (slots, rest) = area[SLOTS..].split_at(checkpoint.slots.len());
        checkpoint.slots.copy_from_slice(slots);
        checkpoint.buckets = rest[..checkpoint.buckets.len()].to_vec();
        if (0..checkpoint.pages).any(|page| checkpoint.slots[index(page / 4)] >> (page % 4 * 2) & 3 == 3) {
            return Err(corrupt("a table page lies in no slot that there is"));
        }
        Ok(checkpoint)
    }
}

/// The runs that an area tells of, if they lie one behind the other.
fn runs(layout: &Layout, area: &[u8]) -> Option<Vec<StagedAt>> {
    let count = usize::try_from(page::u32_at(area, RUNS)).ok().filter(|count| *count <= MOST_STAGED)?;
    let (mut runs, mut end) = (Vec::new(), 0);
    for bytes in area[RUN..].chunks_exact(24).take(count) {
        let run = StagedAt {
            serial: page::u64_at(bytes, 0),
            first: page::u64_at(bytes, 8),
            pages: page::u64_at(bytes, 16),
        };
        let free = layout.staged_pages.checked_sub(run.first)?;
        if run.serial > LAST >> 24 || run.first < end || run.pages > free.min(1 << 24) {
            return None;
        }
        end = run.first + run.pages;
        runs.push(run);
    }
    Some(runs)
}
