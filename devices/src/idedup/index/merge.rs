//! Bringing claims to their buckets: those of all runs and those that wait, in the order of the buckets.

use super::super::fingerprint::Fingerprint;
use super::super::layout::bucket_capacity;
use super::super::page::{self, BLOCK, Kind};
use super::staged::Claims;
use super::{Claim, Index, bucket};
use crate::block::Result;

/// So many buckets between two that are changed are written too, as they are: a request takes longer than they do.
const GAP: u64 = 4;

/// Claims that go to one bucket, oldest first.
#[derive(Debug)]
pub(super) struct Group {
    bucket: u64,
    claims: Vec<(Fingerprint, Claim)>,
}

/// Buckets side by side, with their pages.
pub(super) struct Run {
    pub(super) first: u64,
    pub(super) pages: Vec<u8>,
}

impl Run {
    /// The bucket behind the last.
    fn end(&self) -> u64 {
        self.first + (self.pages.len() / BLOCK) as u64
    }

    /// Grows up to a bucket.
    pub(super) fn reach(&mut self, bucket: u64) {
        let more = usize::try_from((bucket + 1).saturating_sub(self.end())).unwrap_or(0);
        self.pages.resize(self.pages.len() + more * BLOCK, 0);
    }

    pub(super) fn buckets(&mut self) -> impl Iterator<Item = (u64, &mut [u8])> {
        (self.first..).zip(self.pages.chunks_exact_mut(BLOCK))
    }
}

/// Claims that are in no run, in their order.
type Newest<'a> = std::iter::Peekable<&'a mut dyn Iterator<Item = (Fingerprint, Claim)>>;

impl Index {
    /// Brings all runs to the buckets, and `newest` claims, which are in order. Claims that are no longer `valid` make
    /// room.
    pub(super) fn merge(
        &mut self,
        newest: &mut dyn Iterator<Item = (Fingerprint, Claim)>,
        valid: &dyn Fn(Claim) -> bool,
    ) -> Result<()> {
        let mut newest = newest.peekable();
        let mut runs: Vec<Claims> = self.staged.iter().map(|staged| Claims::new(staged.at)).collect();
        let mut next = Some(0);
        while let Some(first) = next {
            let (groups, end) = self.groups(&mut runs, &mut newest, first, valid)?;
            self.change_all(&groups, valid)?;
            next = end;
        }
        self.counts.merges += u64::from(!self.staged.is_empty());
        self.staged.clear();
        Ok(())
    }

    /// The next claims of buckets from `first` on, those of [`batch`](Self::batch) buckets at most, and where to go on.
    fn groups(
        &self,
        runs: &mut [Claims],
        newest: &mut Newest<'_>,
        first: u64,
        valid: &dyn Fn(Claim) -> bool,
    ) -> Result<(Vec<Group>, Option<u64>)> {
        let mut groups: Vec<Group> = Vec::new();
        let mut from = first;
        while groups.len() < self.batch {
            // The lowest bucket that anybody has a claim for.
            let mut bucket = newest.peek().map(|(name, _)| self.bucket_of(name));
            for run in &mut *runs {
                while let Some((name, claim)) = run.peek(&*self.storage, &self.layout)? {
                    let there = self.bucket_of(&name);
                    // A run that is not in order would lead back.
                    if there >= from && valid(claim) {
                        bucket = Some(bucket.map_or(there, |bucket| bucket.min(there)));
                        break;
                    }
                    run.take();
                }
            }
            let Some(bucket) = bucket else { return Ok((groups, None)) };
            let mut claims = Vec::new();
            for run in &mut *runs {
                while let Some((name, claim)) = run.peek(&*self.storage, &self.layout)? {
                    if self.bucket_of(&name) != bucket {
                        break;
                    }
                    run.take();
                    if valid(claim) {
                        claims.push((name, claim));
                    }
                }
            }
            while let Some(claim) = newest.next_if(|(name, _)| self.bucket_of(name) == bucket) {
                claims.push(claim);
            }
            groups.push(Group { bucket, claims });
            from = bucket + 1;
        }
        Ok((groups, Some(from)))
    }

    /// Puts the claims of some buckets there.
    fn change_all(&mut self, groups: &[Group], valid: &dyn Fn(Claim) -> bool) -> Result<()> {
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
        let mut kept = Vec::new();
        for (bucket, page) in runs.iter_mut().flat_map(Run::buckets) {
            if let Some(group) = group_of(bucket) {
                if self.pages.has(&bucket) {
                    kept.push(bucket);
                }
                self.change(page, group, valid);
            }
        }
        let pieces: Vec<(u64, &[u8])> =
            runs.iter().map(|run| (self.layout.bucket_place(run.first), run.pages.as_slice())).collect();
        self.storage.write_many(&pieces)?;
        for (bucket, page) in runs.iter_mut().flat_map(Run::buckets) {
            self.counts.writes += 1;
            if kept.binary_search(&bucket).is_ok() {
                self.pages.insert(bucket, page.to_vec());
            }
        }
        Ok(())
    }

    /// Puts claims into the page of their bucket, which is about to be written.
    fn change(&mut self, page: &mut [u8], group: &Group, valid: &dyn Fn(Claim) -> bool) {
        let (verify, bucket) = (self.layout.verify, group.bucket);
        let mut entries: Vec<_> = bucket::entries(verify, page).filter(|(_, claim)| valid(*claim)).collect();
        let before = entries.len();
        for (name, claim) in &group.claims {
            // Most are new, and their filter has not seen them.
            if self.filter.may_have(bucket, name) || entries.len() > before {
                entries.retain(|(there, _)| there != name);
            }
            entries.push((*name, *claim));
        }
        self.counts.dropped += entries.len().saturating_sub(bucket_capacity(verify)) as u64;
        let encoded = bucket::encode(verify, Kind::Bucket, self.layout.identity, bucket, &entries);
        page.copy_from_slice(&encoded);
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

    /// All claims on the medium and those that wait, for who checks them. What is no page is passed over.
    ///
    /// # Errors
    /// The medium failed, or those of `claim`.
    pub(in crate::idedup) fn each(
        &self,
        claim: &mut dyn FnMut(Fingerprint, Claim) -> Result<()>,
    ) -> Result<()> {
        let mut page = vec![0; BLOCK];
        for bucket in (0..self.layout.buckets).filter(|bucket| self.is_written(*bucket)) {
            self.storage.read(self.layout.bucket_place(bucket), &mut page)?;
            if page::number(Kind::Bucket, self.layout.identity, &page) == Some(bucket) {
                bucket::entries(self.layout.verify, &page)
                    .try_for_each(|(name, found)| claim(name, found))?;
            }
        }
        for at in self.staged_at() {
            let mut run = Claims::new(at);
            while let Some((name, found)) = run.peek(&*self.storage, &self.layout)? {
                run.take();
                claim(name, found)?;
            }
        }
        self.waiting.iter().try_for_each(|(name, (_, found))| claim(*name, *found))
    }
}
