//! The index of fingerprints, on the medium and larger than its memory.
//!
//! ```text
//!   find ──▶ waiting claims ──▶ filter ──▶ bucket pages in memory ──▶ one read of 4 KiB
//!   insert ─▶ waiting claims ──spill──▶ buckets, in their order
//! ```
//!
//! It is a hint: what it loses is a duplicate that is not found. But it never makes a claim that is neither true nor
//! refuted by the block's generation, so a claim may wait here until the journal has made it durable.

use std::collections::BTreeMap;
use std::ops::{Bound, RangeInclusive};
use std::sync::Arc;

use super::fingerprint::Fingerprint;
use super::layout::{Layout, bucket_capacity};
use super::lru::Lru;
use super::page::{self, BLOCK, Kind};
use crate::block::{Result, Storage};

mod alone;
mod bucket;
mod filter;
mod sweep;

pub use alone::FingerprintIndex;
pub(super) use bucket::Claim;
use filter::Filter;
pub(super) use sweep::Swept;

/// Buckets that are changed at once. Their pages come on top of the memory, so they are fewer where that is small.
const BATCH: RangeInclusive<usize> = 32..=256;
/// One byte in so many of the memory may come on top for them.
const BATCH_PART: usize = 16;
/// So many buckets between two that are changed are written too, as they are: a request takes longer than they do.
const GAP: u64 = 4;
/// Bytes of memory that a waiting claim takes, about.
const WAITING: usize = 80;
/// The same of a page, with what is known of it.
const PAGE: usize = BLOCK + 96;
/// One byte in so many of the memory is for pages. Few fingerprints are looked up twice.
const PAGES: usize = 8;
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
}

/// Claims that go to one bucket, oldest first, with their serials.
#[derive(Debug)]
struct Group {
    bucket: u64,
    claims: Vec<(u64, Fingerprint, Claim)>,
}

/// Buckets side by side, with their pages.
struct Run {
    first: u64,
    pages: Vec<u8>,
}

impl Run {
    /// The bucket behind the last.
    fn end(&self) -> u64 {
        self.first + (self.pages.len() / BLOCK) as u64
    }

    /// Grows up to a bucket.
    fn reach(&mut self, bucket: u64) {
        let more = usize::try_from((bucket + 1).saturating_sub(self.end())).unwrap_or(0);
        self.pages.resize(self.pages.len() + more * BLOCK, 0);
    }

    fn buckets(&mut self) -> impl Iterator<Item = (u64, &mut [u8])> {
        (self.first..).zip(self.pages.chunks_exact_mut(BLOCK))
    }
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
    filter: Filter,
    pages: Lru<u64, Vec<u8>>,
    /// A bit for each bucket that was ever written.
    written: Vec<u8>,
    counts: IndexCounts,
}

impl Index {
    /// The index of an image, of which the `written` buckets hold something, in `memory` bytes.
    pub(super) fn new(storage: Arc<dyn Storage>, layout: Layout, memory: usize, written: Vec<u8>) -> Self {
        let memory = memory.max(LEAST_MEMORY);
        let load = bucket_capacity(layout.verify) * 7 / 10;
        let filter = Filter::new(layout.buckets, load, memory / 2, &written);
        Self {
            storage,
            layout,
            waiting: BTreeMap::new(),
            most_waiting: (memory - memory / PAGES - filter.bytes()) / WAITING,
            batch: (memory / BATCH_PART / BLOCK).clamp(*BATCH.start(), *BATCH.end()),
            serial: 0,
            filter,
            pages: Lru::new((memory / PAGES / PAGE).max(1)),
            written,
            counts: IndexCounts::default(),
        }
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

    pub(super) fn counts(&self) -> IndexCounts {
        self.counts
    }

    /// What is claimed of a fingerprint, and who says so. At most one bucket is read.
    ///
    /// # Errors
    /// The medium failed.
    pub(super) fn find(&mut self, name: &Fingerprint) -> Result<(Option<Claim>, Answered)> {
        if let Some((_, claim)) = self.waiting.get(name) {
            return Ok((Some(*claim), Answered::Waiting));
        }
        let bucket = self.bucket_of(name);
        if !self.is_written(bucket) || !self.filter.may_have(bucket, name) {
            return Ok((None, Answered::Filter));
        }
        let verify = self.layout.verify;
        let find = |page: &[u8]| {
            bucket::entries(verify, page).find(|(found, _)| found == name).map(|(_, claim)| claim)
        };
        if let Some(page) = self.pages.get(&bucket) {
            return Ok((find(page), Answered::Cache));
        }
        let mut page = vec![0; BLOCK];
        self.storage.read(self.layout.bucket_place(bucket), &mut page)?;
        self.arrived(bucket, &mut page);
        let claim = find(&page);
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

    /// Puts the waiting claims up to `mark` into their buckets, where the claims that are no longer `valid` make room.
    ///
    /// # Errors
    /// The medium failed. What is in no bucket waits on, but no longer than there is memory for.
    pub(super) fn spill(&mut self, mark: u64, valid: &dyn Fn(Claim) -> bool) -> Result<()> {
        self.waiting.retain(|_, (_, claim)| valid(*claim));
        let mut done = Bound::Unbounded;
        loop {
            let (groups, last) = self.groups(done, mark);
            let Some(last) = last else { return Ok(()) };
            let result = self.spill_some(&groups, valid);
            if result.is_err() && self.is_full() {
                self.waiting.clear();
            }
            result?;
            done = Bound::Excluded(last);
        }
    }

    /// The next claims up to `mark`, those of [`batch`](Self::batch) buckets at most, and the last of them.
    fn groups(&self, behind: Bound<Fingerprint>, mark: u64) -> (Vec<Group>, Option<Fingerprint>) {
        let (mut groups, mut last): (Vec<Group>, _) = (Vec::new(), None);
        let claims = self.waiting.range((behind, Bound::Unbounded));
        for (name, (serial, claim)) in claims.filter(|(_, (serial, _))| *serial <= mark) {
            let bucket = self.bucket_of(name);
            let claim = (*serial, *name, *claim);
            let count = groups.len();
            match groups.last_mut().filter(|group| group.bucket == bucket) {
                Some(group) => group.claims.push(claim),
                None if count == self.batch => break,
                None => groups.push(Group { bucket, claims: vec![claim] }),
            }
            last = Some(*name);
        }
        groups.iter_mut().for_each(|group| group.claims.sort_unstable_by_key(|(serial, ..)| *serial));
        (groups, last)
    }

    /// Puts the claims of some buckets there.
    fn spill_some(&mut self, groups: &[Group], valid: &dyn Fn(Claim) -> bool) -> Result<()> {
        let mut runs: Vec<Run> = Vec::new();
        for Group { bucket, .. } in groups {
            match runs.last_mut().filter(|run| *bucket <= run.end() + GAP) {
                Some(run) => run.reach(*bucket),
                None => runs.push(Run { first: *bucket, pages: vec![0; BLOCK] }),
            }
        }
        self.read_runs(&mut runs)?;
        let group_of = |bucket: u64| {
            groups.binary_search_by_key(&bucket, |group| group.bucket).ok().map(|at| &groups[at])
        };
        for (bucket, page) in runs.iter_mut().flat_map(Run::buckets) {
            if let Some(group) = group_of(bucket) {
                self.change(page, group, valid);
            }
        }
        let pieces: Vec<(u64, &[u8])> =
            runs.iter().map(|run| (self.layout.bucket_place(run.first), run.pages.as_slice())).collect();
        self.storage.write_many(&pieces)?;
        for (bucket, page) in runs.iter_mut().flat_map(Run::buckets) {
            self.counts.writes += 1;
            if group_of(bucket).is_some() {
                self.pages.insert(bucket, page.to_vec());
            }
        }
        for (_, name, _) in groups.iter().flat_map(|group| &group.claims) {
            self.waiting.remove(name);
        }
        Ok(())
    }

    /// Puts claims into the page of their bucket, which is about to be written.
    fn change(&mut self, page: &mut [u8], group: &Group, valid: &dyn Fn(Claim) -> bool) {
        let (verify, bucket) = (self.layout.verify, group.bucket);
        let mut entries: Vec<_> = bucket::entries(verify, page).filter(|(_, claim)| valid(*claim)).collect();
        entries.retain(|(name, _)| group.claims.iter().all(|(_, newer, _)| newer != name));
        entries.extend(group.claims.iter().map(|(_, name, claim)| (*name, *claim)));
        self.counts.dropped += entries.len().saturating_sub(bucket_capacity(verify)) as u64;
        page.copy_from_slice(&bucket::encode(verify, self.layout.identity, bucket, &entries));
        // If its write fails it may have happened in part: what is kept of the bucket is what was there, or this.
        self.pages.remove(&bucket);
        self.filter.learn(bucket, bucket::entries(verify, page).map(|(name, _)| name));
        let byte = usize::try_from(bucket / 8).ok().and_then(|at| self.written.get_mut(at));
        byte.into_iter().for_each(|byte| *byte |= 1 << (bucket % 8));
    }

    /// Reads the buckets of runs that are not in memory; what never was a bucket is empty.
    fn read_runs(&mut self, runs: &mut [Run]) -> Result<()> {
        let mut reads: Vec<(u64, &mut [u8])> = Vec::new();
        for run in runs.iter_mut() {
            let absent = |bucket: u64| self.is_written(bucket) && !self.pages.has(&bucket);
            if (run.first..run.end()).any(absent) {
                reads.push((self.layout.bucket_place(run.first), &mut run.pages));
            }
        }
        self.storage.read_many(&mut reads)?;
        for (bucket, page) in runs.iter_mut().flat_map(Run::buckets) {
            if !self.is_written(bucket) {
                page.fill(0);
            } else if let Some(known) = self.pages.get(&bucket) {
                page.copy_from_slice(known);
            } else {
                self.arrived(bucket, page);
            }
        }
        Ok(())
    }

    /// All claims in the buckets, for who checks them. Buckets that are no pages are passed over.
    ///
    /// # Errors
    /// The medium failed, or those of `claim`.
    pub(super) fn each(&self, claim: &mut dyn FnMut(Fingerprint, Claim) -> Result<()>) -> Result<()> {
        let mut page = vec![0; BLOCK];
        for bucket in (0..self.layout.buckets).filter(|bucket| self.is_written(*bucket)) {
            self.storage.read(self.layout.bucket_place(bucket), &mut page)?;
            if page::number(Kind::Bucket, self.layout.identity, &page) == Some(bucket) {
                bucket::entries(self.layout.verify, &page)
                    .try_for_each(|(name, found)| claim(name, found))?;
            }
        }
        self.waiting.iter().try_for_each(|(name, (_, found))| claim(*name, *found))
    }
}

#[cfg(test)]
mod tests;
