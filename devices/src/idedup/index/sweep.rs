//! Going through all buckets, to throw out what is void.

use super::super::page::{self, BLOCK, Kind};
use super::merge::Run;
use super::{Claim, Index, bucket};
use crate::block::Result;

/// Buckets that are looked at at once.
const BUCKETS: u64 = 64;

/// What was found in buckets.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::idedup) struct Swept {
    /// Buckets that were looked at.
    pub(in crate::idedup) buckets: u64,
    /// Those that were no pages, and are empty now.
    pub(in crate::idedup) torn: u64,
    /// Claims that were thrown out.
    pub(in crate::idedup) void: u64,
}

impl Index {
    /// Buckets that were ever written.
    pub(in crate::idedup) fn written_buckets(&self) -> u64 {
        self.written.iter().map(|byte| u64::from(byte.count_ones())).sum()
    }

    /// Looks at some buckets from `first` on, and throws out the claims that are not to be kept; so a crash at any time
    /// costs claims, and makes none. Answers where to go on, or nothing behind the last bucket.
    ///
    /// # Errors
    /// The medium failed. What was not written back is what it was.
    pub(in crate::idedup) fn sweep(
        &mut self,
        first: u64,
        keep: &mut dyn FnMut(Claim) -> bool,
        swept: &mut Swept,
    ) -> Result<Option<u64>> {
        let Some(first) = (first..self.layout.buckets).find(|bucket| self.is_written(*bucket)) else {
            return Ok(None);
        };
        let end = (first + BUCKETS).min(self.layout.buckets);
        let mut run = Run { first, pages: Vec::new() };
        run.reach(end - 1);
        self.storage.read(self.layout.bucket_place(first), &mut run.pages)?;
        let (verify, identity) = (self.layout.verify, self.layout.identity);
        let mut changed = Vec::new();
        for (bucket, page) in run.buckets() {
            if !self.is_written(bucket) {
                continue;
            }
            swept.buckets += 1;
            self.counts.reads += 1;
            let sound = page::number(Kind::Bucket, identity, page) == Some(bucket);
            if !sound {
                swept.torn += 1;
                page.fill(0);
            }
            let mut entries: Vec<_> = bucket::entries(verify, page).collect();
            let before = entries.len();
            entries.retain(|(_, claim)| keep(*claim));
            swept.void += (before - entries.len()) as u64;
            if !sound || entries.len() < before {
                page.copy_from_slice(&bucket::encode(verify, Kind::Bucket, identity, bucket, &entries));
                changed.push(bucket);
                self.pages.remove(&bucket);
            }
            self.filter.learn(bucket, entries.iter().map(|(name, _)| *name));
        }
        let pieces: Vec<(u64, &[u8])> = changed
            .chunk_by(|a, b| a + 1 == *b)
            .filter_map(|row| {
                let from = usize::try_from(row.first()? - first).ok()? * BLOCK;
                let bytes = run.pages.get(from..from + row.len() * BLOCK)?;
                Some((self.layout.bucket_place(first) + from as u64, bytes))
            })
            .collect();
        self.storage.write_many(&pieces)?;
        self.counts.writes += changed.len() as u64;
        Ok((end < self.layout.buckets).then_some(end))
    }

    /// The claims that are in no bucket yet.
    pub(in crate::idedup) fn waiting(&self) -> impl Iterator<Item = Claim> + '_ {
        self.waiting.values().map(|(_, claim)| *claim)
    }
}
