//! The index of fingerprints, on the medium and larger than its memory.
//!
//! ```text
//!   find ──▶ waiting claims ──▶ filters of runs ──▶ filter ──▶ pages in memory ──▶ one read of 4 KiB
//!   insert ─▶ waiting claims ──spill──▶ a run ──merge──▶ buckets, in their order
//! ```
//!
//! It is a hint: what it loses is a duplicate that is not found. But it never makes a claim that is neither true nor
//! refuted by the block's generation, so a claim may wait here until the journal has made it durable.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::checkpoint::{MOST_STAGED, StagedAt};
use super::fingerprint::Fingerprint;
use super::layout::{Layout, bucket_capacity, bucket_load};
use super::lru::Lru;
use super::page::{self, BLOCK, Kind};
use crate::block::{Result, Storage};

mod alone;
mod bucket;
mod filter;
mod merge;
mod staged;
mod stored;
mod sweep;

pub use alone::FingerprintIndex;
pub(super) use bucket::Claim;
use filter::Filter;
use staged::Staged;
pub(super) use sweep::Swept;

/// Buckets that are changed at once. Their pages come on top of the memory, so they are fewer where that is small.
const BATCH: RangeInclusive<usize> = 32..=256;
/// One byte in so many of the memory may come on top for them.
const BATCH_PART: usize = 16;
/// Bytes of memory that a waiting claim takes, about.
const WAITING: usize = 80;
/// The same of a page, with what is known of it.
const PAGE: usize = BLOCK + 96;
/// One byte in so many of the memory is for pages. Few fingerprints are looked up twice.
const PAGES: usize = 8;
/// One byte in so many is for what is known of runs.
const STAGED: usize = 8;
/// Pages of runs are remembered beside those of buckets, under numbers that these do not have.
const OF_RUN: u64 = 1 << 63;
/// Pages of one run at most.
const LONGEST: u64 = 1 << 24;
const LEAST_MEMORY: usize = 16 << 10;

/// Where a question was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answered {
    /// By a claim that waits for its bucket.
    Waiting,
    /// By the filter: there is none.
    Filter,
    /// By a bucket in memory.
    Cache,
    /// By a bucket that was read.
    Disk,
}

/// What the index did.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct IndexCounts {
    pub(super) reads: u64,
    pub(super) writes: u64,
    /// Buckets that were no pages, as a crash leaves them.
    pub(super) torn: u64,
    /// Claims that gave way because their bucket was full.
    pub(super) dropped: u64,
    /// How often runs were brought to the buckets.
    pub(super) merges: u64,
}

#[derive(Debug)]
pub(super) struct Index {
    storage: Arc<dyn Storage>,
    layout: Layout,
    /// In the order of their buckets.
    waiting: BTreeMap<Fingerprint, (u64, Claim)>,
    most_waiting: usize,
    /// Buckets that are changed at once.
    batch: usize,
    /// Claims that were ever inserted.
    serial: u64,
    /// Runs, oldest first.
    staged: Vec<Staged>,
    /// Bytes of memory for what is known of them.
    staged_memory: usize,
    /// What the next run is numbered.
    next_run: u64,
    filter: Filter,
    pages: Lru<u64, Vec<u8>>,
    /// A bit for each bucket that was ever written.
    written: Vec<u8>,
    counts: IndexCounts,
}

impl Index {
    /// The index of an image, of which the `written` buckets hold something, and these runs, in `memory` bytes.
    pub(super) fn new(
        storage: Arc<dyn Storage>,
        layout: Layout,
        memory: usize,
        written: Vec<u8>,
        runs: &[StagedAt],
    ) -> Self {
        let memory = memory.max(LEAST_MEMORY);
        let filter = Filter::new(layout.buckets, bucket_load(layout.verify), memory / 2, &written);
        let staged_memory = memory / STAGED;
        Self {
            storage,
            layout,
            waiting: BTreeMap::new(),
            most_waiting: (memory - memory / PAGES - staged_memory - filter.bytes()) / WAITING,
            batch: (memory / BATCH_PART / BLOCK).clamp(*BATCH.start(), *BATCH.end()),
            serial: 0,
            staged: runs.iter().map(|at| Staged::unread(*at)).collect(),
            staged_memory,
            next_run: runs.iter().map(|at| at.serial + 1).max().unwrap_or(0),
            filter,
            pages: Lru::new((memory / PAGES / PAGE).max(1)),
            written,
            counts: IndexCounts::default(),
        }
    }

    /// Reads what look-ups need of runs, and the filter that was stored with this stamp; 0 is none. Runs that its memory
    /// has no room for are brought to their buckets, where the claims that are no longer `valid` make room.
    ///
    /// # Errors
    /// The medium failed.
    pub(super) fn load(&mut self, stamp: u64, valid: &dyn Fn(Claim) -> bool) -> Result<()> {
        if stamp != 0 {
            self.restore_filter(stamp)?;
        }
        let pages = self.staged_at().map(|at| at.pages).sum();
        if Staged::memory(&self.layout, pages) > self.staged_memory {
            return self.settle(valid);
        }
        for staged in &mut self.staged {
            *staged = Staged::read(&*self.storage, &self.layout, staged.at)?;
        }
        Ok(())
    }

    fn bucket_of(&self, name: &Fingerprint) -> u64 {
        let product = u128::from(name.bits()) * u128::from(self.layout.buckets);
        u64::try_from(product >> 64).unwrap_or(0)
    }

    fn is_written(&self, bucket: u64) -> bool {
        let byte = usize::try_from(bucket / 8).ok().and_then(|at| self.written.get(at));
        byte.is_some_and(|byte| byte >> (bucket % 8) & 1 == 1)
    }

    /// A bit for each bucket that was ever written.
    pub(super) fn written(&self) -> &[u8] {
        &self.written
    }

    /// Where its runs are, oldest first.
    pub(super) fn staged_at(&self) -> impl Iterator<Item = StagedAt> + '_ {
        self.staged.iter().map(|staged| staged.at)
    }

    pub(super) fn counts(&self) -> IndexCounts {
        self.counts
    }

    /// What is claimed of a fingerprint, and who says so. One page is read, and one of a run in vain now and then.
    ///
    /// # Errors
    /// The medium failed.
    pub(super) fn find(&mut self, name: &Fingerprint) -> Result<(Option<Claim>, Answered)> {
        if let Some((_, claim)) = self.waiting.get(name) {
            return Ok((Some(*claim), Answered::Waiting));
        }
        let mut by = Answered::Filter;
        for run in (0..self.staged.len()).rev() {
            let Some(place) = self.staged[run].may_have(name) else { continue };
            if !self.pages.has(&(OF_RUN | place)) {
                let mut page = vec![0; BLOCK];
                self.storage.read(self.layout.staged_place(place), &mut page)?;
                self.counts.reads += 1;
                self.pages.insert(OF_RUN | place, page);
                by = Answered::Disk;
            }
            by = if by == Answered::Filter { Answered::Cache } else { by };
            let page = self.pages.get(&(OF_RUN | place));
            let claim = page.and_then(|page| self.staged[run].find(&self.layout, place, page, name));
            if claim.is_some() {
                return Ok((claim, by));
            }
        }
        let bucket = self.bucket_of(name);
        if !self.is_written(bucket) || !self.filter.may_have(bucket, name) {
            return Ok((None, by));
        }
        let verify = self.layout.verify;
        if let Some(page) = self.pages.get(&bucket) {
            let by = if by == Answered::Filter { Answered::Cache } else { by };
            return Ok((bucket::find(verify, page, name), by));
        }
        let mut page = vec![0; BLOCK];
        self.storage.read(self.layout.bucket_place(bucket), &mut page)?;
        self.arrived(bucket, &mut page);
        let claim = bucket::find(verify, &page, name);
        self.pages.insert(bucket, page);
        Ok((claim, Answered::Disk))
    }

    /// A bucket was read: what is no page becomes an empty one, and the filter learns it.
    fn arrived(&mut self, bucket: u64, page: &mut [u8]) {
        self.counts.reads += 1;
        if page::number(Kind::Bucket, self.layout.identity, page) != Some(bucket) {
            self.counts.torn += 1;
            page.fill(0);
        }
        if !self.filter.is_known(bucket) {
            self.filter.learn(bucket, bucket::entries(self.layout.verify, page).map(|(name, _)| name));
        }
    }

    /// A new claim, in place of what was claimed of the fingerprint before.
    pub(super) fn insert(&mut self, name: Fingerprint, claim: Claim) {
        self.serial += 1;
        self.waiting.insert(name, (self.serial, claim));
    }

    /// More claims wait than there is memory for.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= self.most_waiting
    }

    /// What [`spill`](Self::spill) is told once everything that was claimed up to now is durable.
    pub(super) fn mark(&self) -> u64 {
        self.serial
    }

    /// Puts the waiting claims up to `mark` on the medium, as a run, or with all runs into their buckets, where the claims
    /// that are no longer `valid` make room. Answers whether buckets have changed: then the place of the runs is to be
    /// used again, and the checkpoint that knows these has to be written anew.
    ///
    /// # Errors
    /// The medium failed. What is not on it waits on, but no longer than there is memory for.
    pub(super) fn spill(&mut self, mark: u64, valid: &dyn Fn(Claim) -> bool) -> Result<bool> {
        self.waiting.retain(|_, (_, claim)| valid(*claim));
        let waiting = std::mem::take(&mut self.waiting);
        let due = || waiting.iter().filter(|(_, (serial, _))| *serial <= mark);
        let count = due().count();
        let mut claims = due().map(|(name, (_, claim))| (*name, *claim));
        let spilled = match self.room(count) {
            _ if count == 0 => Ok(false),
            Some(at) => self.stage(at, &mut claims).map(|()| false),
            None => self.merge(&mut claims, valid).map(|()| true),
        };
        self.waiting = waiting;
        match spilled {
            Ok(_) => self.waiting.retain(|_, (serial, _)| *serial > mark),
            Err(_) if self.is_full() => self.waiting.clear(),
            Err(_) => {}
        }
        spilled
    }

    /// Brings all runs to their buckets. Claims that are no longer `valid` make room.
    ///
    /// # Errors
    /// The medium failed; the runs stay.
    pub(super) fn settle(&mut self, valid: &dyn Fn(Claim) -> bool) -> Result<()> {
        self.merge(&mut std::iter::empty(), valid)
    }

    /// Where a run of so many claims can be.
    fn room(&self, claims: usize) -> Option<StagedAt> {
        let pages = claims.div_ceil(bucket_capacity(self.layout.verify)) as u64;
        let (mut first, mut taken) = (0, 0);
        for at in self.staged_at() {
            first = first.max(at.first + at.pages);
            taken += at.pages;
        }
        let fits = self.staged.len() < MOST_STAGED
            && pages < LONGEST
            && first + pages <= self.layout.staged_pages
            && Staged::memory(&self.layout, taken + pages) <= self.staged_memory;
        fits.then_some(StagedAt { serial: self.next_run, first, pages })
    }

    fn stage(&mut self, at: StagedAt, claims: &mut dyn Iterator<Item = (Fingerprint, Claim)>) -> Result<()> {
        // Also where it fails, the pages are no longer what they were.
        self.next_run += 1;
        (at.first..at.first + at.pages).for_each(|place| self.pages.remove(&(OF_RUN | place)));
        let staged = Staged::write(&*self.storage, &self.layout, at, claims, self.batch)?;
        self.counts.writes += at.pages;
        self.staged.push(staged);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
