//! The index of fingerprints, on the medium and larger than its memory.
//!
//! ```text
//!   find ──▶ waiting claims ──▶ filter ──▶ bucket pages in memory ──▶ one read of 4 KiB
//!   insert ─▶ waiting claims ──spill──▶ buckets, in their order
//! ```
//!
//! It is a hint: what it loses is a duplicate that is not found. But it never makes a claim that is neither true nor
//! refuted by the block's generation, so a claim may wait here until the journal has made it durable.

use std::collections::HashMap;
use std::sync::Arc;

use super::fingerprint::Fingerprint;
use super::layout::{Layout, bucket_capacity};
use super::lru::Lru;
use super::page::{self, BLOCK, Kind};
use crate::block::{Result, Storage};

mod bucket;
mod filter;

pub(super) use bucket::Claim;
use filter::Filter;

/// Buckets that are read or written at once.
const BATCH: usize = 64;
/// Bytes of memory that a waiting claim takes, about.
const WAITING: usize = 96;
/// The same of a page, with what is known of it.
const PAGE: usize = BLOCK + 96;
const LEAST_MEMORY: usize = 64 << 10;

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

#[derive(Debug)]
pub(super) struct Index {
    storage: Arc<dyn Storage>,
    layout: Layout,
    waiting: HashMap<Fingerprint, (u64, Claim)>,
    most_waiting: usize,
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
            waiting: HashMap::new(),
            most_waiting: memory / 4 / WAITING,
            serial: 0,
            filter,
            pages: Lru::new(memory / 4 / PAGE),
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
        let chosen = self.waiting.iter().filter(|(_, (serial, _))| *serial <= mark);
        let mut claims: Vec<_> =
            chosen.map(|(name, (serial, claim))| (self.bucket_of(name), *serial, *name, *claim)).collect();
        claims.sort_unstable_by_key(|(bucket, serial, ..)| (*bucket, *serial));
        let groups: Vec<_> = claims.chunk_by(|(a, ..), (b, ..)| a == b).collect();
        let result = groups.chunks(BATCH).try_for_each(|groups| self.spill_some(groups, valid));
        if result.is_err() && self.is_full() {
            self.waiting.clear();
        }
        result
    }

    /// Puts the claims of some buckets there.
    fn spill_some(
        &mut self,
        groups: &[&[(u64, u64, Fingerprint, Claim)]],
        valid: &dyn Fn(Claim) -> bool,
    ) -> Result<()> {
        let mut buckets: Vec<(u64, Vec<u8>)> = Vec::new();
        for (bucket, ..) in groups.iter().filter_map(|group| group.first()) {
            let page = self.pages.get(bucket).cloned().unwrap_or_else(|| vec![0; BLOCK]);
            buckets.push((*bucket, page));
        }
        let absent = |bucket: u64, index: &Self| index.is_written(bucket) && !index.pages.has(&bucket);
        let mut reads: Vec<(u64, &mut [u8])> = Vec::new();
        for (bucket, page) in buckets.iter_mut().filter(|(bucket, _)| absent(*bucket, self)) {
            reads.push((self.layout.bucket_place(*bucket), page));
        }
        self.storage.read_many(&mut reads)?;
        for ((bucket, page), group) in buckets.iter_mut().zip(groups) {
            if absent(*bucket, self) {
                self.arrived(*bucket, page);
            }
            let verify = self.layout.verify;
            let mut entries: Vec<_> =
                bucket::entries(verify, page).filter(|(_, claim)| valid(*claim)).collect();
            entries.retain(|(name, _)| group.iter().all(|(_, _, newer, _)| newer != name));
            entries.extend(group.iter().map(|(_, _, name, claim)| (*name, *claim)));
            self.counts.dropped += entries.len().saturating_sub(bucket_capacity(verify)) as u64;
            *page = bucket::encode(verify, self.layout.identity, *bucket, &entries);
        }
        for run in buckets.chunk_by(|(a, _), (b, _)| a + 1 == *b) {
            let Some((first, _)) = run.first() else { continue };
            let bytes: Vec<u8> = run.iter().flat_map(|(_, page)| page.iter().copied()).collect();
            let written = self.storage.write(self.layout.bucket_place(*first), &bytes);
            for (bucket, page) in run {
                // A failed write may have happened in part: what is kept of the bucket is what was there, or this.
                self.pages.remove(bucket);
                let names = bucket::entries(self.layout.verify, page).map(|(name, _)| name);
                self.filter.learn(*bucket, names);
                let byte = usize::try_from(bucket / 8).ok().and_then(|at| self.written.get_mut(at));
                byte.into_iter().for_each(|byte| *byte |= 1 << (bucket % 8));
            }
            written?;
            self.counts.writes += run.len() as u64;
            run.iter().for_each(|(bucket, page)| self.pages.insert(*bucket, page.clone()));
        }
        for (_, serial, name, _) in groups.iter().copied().flatten() {
            if self.waiting.get(name).is_some_and(|(now, _)| now == serial) {
                self.waiting.remove(name);
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
