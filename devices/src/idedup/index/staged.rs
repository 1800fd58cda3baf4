//! Runs: claims that are on the medium and in no bucket yet, in the order of their fingerprints.
//!
//! ```text
//!   waiting claims ──full──▶ a run, written in order ──┐
//!                            a run                    ├──no more room──▶ all buckets, once, in their order
//!                            a run                    ──┘
//! ```
//!
//! A bucket that gets one claim costs as much as one that gets fifty. So claims are collected in runs, as the buffers of a
//! log-structured index are (O'Neil, Cheng, Gawlick and O'Neil, "The Log-Structured Merge-Tree", 1996), until they are
//! many for each bucket. Of each page of a run memory holds the first fingerprint and a filter of two bytes for each
//! claim: a look-up reads no run that does not have it, but one time in a thousand.

use super::super::checkpoint::StagedAt;
use super::super::fingerprint::Fingerprint;
use super::super::layout::{Layout, bucket_capacity, most_filter};
use super::super::page::{self, BLOCK, Kind};
use super::filter::Filter;
use super::{Claim, bucket};
use crate::block::{Result, Storage, length_of};

/// Something that is claimed of a fingerprint.
type Entry = (Fingerprint, Claim);

/// Pages of a run that are read at once.
const READ: u64 = 8;

/// A run, and what memory knows of it.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) at: StagedAt,
    /// The first fingerprint of each page, as far as it decides the order.
    fences: Vec<u64>,
    /// A filter for each page.
    filter: Filter,
}

/// The number in the header of a page.
fn number(at: StagedAt, page: u64) -> u64 {
    at.serial << 24 | page
}

impl Staged {
    /// Bytes of memory for so many pages of a run.
    pub(super) fn memory(layout: &Layout, pages: u64) -> usize {
        let pages = usize::try_from(pages).unwrap_or(usize::MAX);
        pages.saturating_mul(most_filter(bucket_capacity(layout.verify)) + size_of::<u64>())
    }

    /// A run of which nothing is known: nothing is found in it.
    pub(super) fn unread(at: StagedAt) -> Self {
        Self { at, fences: Vec::new(), filter: Filter::new(0, 0, 0, &[]) }
    }

    fn empty(layout: &Layout, at: StagedAt) -> Self {
        let nothing_known = vec![u8::MAX; usize::try_from(at.pages.div_ceil(8)).unwrap_or(0)];
        let filter = Filter::new(at.pages, bucket_capacity(layout.verify), usize::MAX, &nothing_known);
        Self { at, fences: Vec::new(), filter }
    }

    /// The next page has these claims.
    fn learn(&mut self, claims: &[Entry]) {
        let page = self.fences.len() as u64;
        let Some((first, _)) = claims.first() else { return };
        self.fences.push(first.bits());
        self.filter.learn(page, claims.iter().map(|(name, _)| *name));
    }

    /// Writes claims, which are in order and have just room there, to their place, `batch` pages at once.
    pub(super) fn write(
        storage: &dyn Storage,
        layout: &Layout,
        at: StagedAt,
        claims: &mut dyn Iterator<Item = Entry>,
        batch: usize,
    ) -> Result<Self> {
        let mut staged = Self::empty(layout, at);
        let (mut bytes, mut place) = (Vec::new(), layout.staged_place(at.first));
        let capacity = bucket_capacity(layout.verify);
        let mut next: Vec<_> = (&mut *claims).take(capacity).collect();
        while !next.is_empty() {
            let number = number(at, staged.fences.len() as u64);
            bytes.extend(bucket::encode(layout.verify, Kind::Staged, layout.identity, number, &next));
            staged.learn(&next);
            next.clear();
            next.extend((&mut *claims).take(capacity));
            if next.is_empty() || bytes.len() >= batch * BLOCK {
                storage.write(place, &bytes)?;
                place += length_of(&bytes);
                bytes.clear();
            }
        }
        Ok(staged)
    }

    /// Reads a run that was found. It ends with its first page that is none.
    pub(super) fn read(storage: &dyn Storage, layout: &Layout, at: StagedAt) -> Result<Self> {
        let mut staged = Self::empty(layout, at);
        let mut pages = Pages::new(at);
        while let Some(claims) = pages.next(storage, layout)? {
            for claims in claims {
                staged.learn(&claims);
            }
        }
        Ok(staged)
    }

    /// The page that may have a fingerprint, as its number in the area.
    pub(super) fn may_have(&self, name: &Fingerprint) -> Option<u64> {
        let page = self.fences.partition_point(|fence| *fence <= name.bits()).checked_sub(1)? as u64;
        self.filter.may_have(page, name).then_some(self.at.first + page)
    }

    /// What a page of the area says of a fingerprint, if it is a page of this run.
    pub(super) fn find(&self, layout: &Layout, place: u64, page: &[u8], name: &Fingerprint) -> Option<Claim> {
        let number = number(self.at, place.checked_sub(self.at.first)?);
        if page::number(Kind::Staged, layout.identity, page) != Some(number) {
            return None;
        }
        bucket::find(layout.verify, page, name)
    }
}

/// The pages of a run, one behind the other.
struct Pages {
    at: StagedAt,
    next: u64,
    bytes: Vec<u8>,
}

impl Pages {
    fn new(at: StagedAt) -> Self {
        Self { at, next: 0, bytes: Vec::new() }
    }

    /// The claims of the next pages, page by page.
    fn next(&mut self, storage: &dyn Storage, layout: &Layout) -> Result<Option<Vec<Vec<Entry>>>> {
        let count = (self.at.pages - self.next).min(READ);
        if count == 0 {
            return Ok(None);
        }
        self.bytes.resize(usize::try_from(count).unwrap_or(0) * BLOCK, 0);
        storage.read(layout.staged_place(self.at.first + self.next), &mut self.bytes)?;
        let mut claims = Vec::new();
        for (page, bytes) in (self.next..).zip(self.bytes.chunks_exact(BLOCK)) {
            if page::number(Kind::Staged, layout.identity, bytes) != Some(number(self.at, page)) {
                self.next = self.at.pages;
                return Ok(Some(claims));
            }
            claims.push(bucket::entries(layout.verify, bytes).collect());
        }
        self.next += count;
        Ok(Some(claims))
    }
}

/// The claims of a run in their order.
pub(super) struct Claims {
    pages: Pages,
    claims: std::vec::IntoIter<Entry>,
}

impl Claims {
    pub(super) fn new(at: StagedAt) -> Self {
        Self { pages: Pages::new(at), claims: Vec::new().into_iter() }
    }

    /// The next one, which is not taken by that.
    pub(super) fn peek(&mut self, storage: &dyn Storage, layout: &Layout) -> Result<Option<Entry>> {
        while self.claims.as_slice().is_empty() {
            let Some(claims) = self.pages.next(storage, layout)? else { return Ok(None) };
            self.claims = claims.concat().into_iter();
        }
        Ok(self.claims.as_slice().first().copied())
    }

    pub(super) fn take(&mut self) {
        self.claims.next();
    }
}
