//! Collecting the mappings of Z zones in their summaries, so that recovery need not look at each cluster.
//!
//! A cluster's header may still change while nothing but the header knows of the cluster. So what a summary is to
//! speak of is frozen first: from then on changes go through the tables, with a higher sequence than the summary's.

use std::sync::atomic::Ordering;

use super::format::{Entry, SUMMARY, SUMMARY_ENTRY, Summarised, Virtual};
use super::zones::Batch;
use super::{Cluster, Core, Summaries, lock};
use crate::block::{Operation, Result};

/// Full zones that may wait for their summaries: recovery has to look at every cluster of theirs.
const MAX_FULL: usize = 4;

impl Core {
    /// Writes the summaries of full Z zones, or of all.
    pub(super) fn commit(&self, all: bool) -> Result<()> {
        if !all && (self.zones.full() == 0 || self.options.summaries == Summaries::None) {
            return Ok(());
        }
        let _one = lock(&self.committing);
        self.check_usable(Operation::Flush)?;
        let batches = self.zones.freeze(all);
        if batches.is_empty() {
            return Ok(());
        }
        // Whoever was given one of these clusters has filled it, and nobody changes a header of theirs any more.
        self.locks.settle();
        let done = self.write_summaries(&batches);
        batches.iter().for_each(|batch| self.zones.let_go(batch));
        done
    }

    /// Called where a write begins, without a lock: keeps full zones from piling up faster than anybody commits them.
    pub(super) fn throttle(&self) -> Result<()> {
        if self.zones.full() > MAX_FULL { self.commit(false) } else { Ok(()) }
    }

    fn write_summaries(&self, batches: &[Batch]) -> Result<()> {
        let summaries: Vec<_> = batches.iter().map(|batch| self.summary(batch)).collect();
        // A cluster that is dead by now is in no summary, so what has replaced it has to be durable first.
        self.make_durable()?;
        for (batch, bytes) in batches.iter().zip(&summaries) {
            let at = batch.entry.summary.offset() + u64::from(batch.entry.part) * SUMMARY as u64;
            self.write_at(at, bytes)?;
        }
        self.sync()?;
        self.counters.summaries.fetch_add(batches.len() as u64, Ordering::Relaxed);
        batches.iter().try_for_each(|batch| self.zones.committed(batch))?;
        if self.has_backing() {
            // Until its zone's entry is durable a header counts, and no block that it calls fresh may become zeros.
            self.sync()?;
            batches.iter().for_each(|batch| self.settle(batch));
        }
        Ok(())
    }

    /// What a summary speaks of is durable: no block of it is fresh any more.
    fn settle(&self, batch: &Batch) {
        for of in batch.owners.iter().flatten() {
            let _alone = self.locks.exclusive(*of);
            let entry = self.map.get(*of);
            if entry.blocks != entry.blocks.settled() && self.zones.is_committed(entry.cluster) {
                self.map.set(*of, &Entry { blocks: entry.blocks.settled(), ..entry });
            }
        }
    }

    /// What a zone's clusters hold.
    fn summary(&self, batch: &Batch) -> Vec<u8> {
        let mut bytes = vec![0; SUMMARY];
        let Some(first) = self.layout.zone(batch.zone) else { return bytes };
        let places = (0..batch.end).zip(bytes.chunks_exact_mut(SUMMARY_ENTRY));
        for ((slot, place), owner) in places.zip(&batch.owners) {
            let at = Cluster(first.0 + u32::from(slot));
            if let Some(summarised) = owner.and_then(|of| self.summarise(of, at)) {
                place.copy_from_slice(&summarised.encode(at));
            }
        }
        bytes
    }

    fn summarise(&self, of: Virtual, at: Cluster) -> Option<Summarised> {
        let entry = self.map.get(of);
        let (rotation, sequence) = (entry.rotation, entry.sequence);
        (entry.cluster == at).then(|| Summarised { of, rotation, sequence, blocks: entry.blocks.settled() })
    }
}
