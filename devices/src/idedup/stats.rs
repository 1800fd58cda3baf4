//! What was done, and what it saved.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::index::Answered;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// What an open image has done since it was opened.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
            /// Pages of the index that were read: buckets, and runs by look-ups.
            pub index_reads: u64,
            /// Pages of the index that were written: buckets and runs.
            pub index_writes: u64,
            /// Buckets that a crash had torn; they count as empty.
            pub index_torn: u64,
            /// Claims of the index that gave way in a full bucket.
            pub index_dropped: u64,
            /// How often runs of claims were brought to their buckets.
            pub index_merges: u64,
            /// Blocks of the disk that are not zeros.
            pub mapped_blocks: u64,
            /// Blocks that they take.
            pub used_blocks: u64,
            /// Blocks that could be taken now.
            pub free_blocks: u64,
            /// Bytes of memory that the map, the generations and the references take. The index comes on top.
            pub map_memory_bytes: u64,
        }

        /// [`Stats`] while they are counted.
        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $name: AtomicU64,)*
        }

        impl Counters {
            pub(super) fn stats(&self) -> Stats {
                Stats { $($name: self.$name.load(Ordering::Relaxed),)* ..Stats::default() }
            }
        }
    };
}

counters! {
    /// Whole blocks that the guest wrote, or that were made of what it wrote and what was there.
    written_blocks,
    /// Of these, zeros, which are stored nowhere.
    zero_blocks,
    /// Of these, blocks that were stored because nothing like them was known.
    new_blocks,
    /// Of these, blocks that hints call unique: stored without a look.
    unique_blocks,
    /// Of these, blocks that were there already.
    duplicate_blocks,
    /// Duplicates that were stored again, because too few of them came in a row.
    below_threshold,
    /// Look-ups that the memory of blocks just read or written answered.
    answered_recent,
    /// Of these, blocks that a hint calls copies.
    answered_copies,
    /// Look-ups that another block of the same request answered.
    answered_request,
    /// Look-ups that a claim answered which waits for its bucket.
    answered_waiting,
    /// Look-ups that the filter answered: there is no such block.
    answered_filter,
    /// Look-ups that a bucket in memory answered.
    answered_cache,
    /// Look-ups that had to read a bucket.
    answered_disk,
    /// Look-ups that failed; the block was stored.
    failed_lookups,
    /// Claims that spoke of what was in a block before.
    stale_claims,
    /// Blocks that have the fingerprint of another one, but are not equal.
    collisions,
    /// Flushes that the guest asked for.
    flushes,
    /// Syncs of the medium.
    syncs,
    /// Checkpoints.
    checkpoints,
    /// Bytes of data that were written.
    data_bytes,
    /// Bytes of the journal that were written.
    journal_bytes,
    /// Bytes of tables and checkpoint areas that were written.
    table_bytes,
    /// Blocks whose space was given back.
    given_back_blocks,
    /// Blocks that recovery found missing, so that what leads there was never flushed.
    recovered_without,
}

/// Counts; nothing else is published by that.
pub(super) fn count(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

impl Counters {
    pub(super) fn answered(&self, by: Answered) {
        let counter = match by {
            Answered::Waiting => &self.answered_waiting,
            Answered::Filter => &self.answered_filter,
            Answered::Cache => &self.answered_cache,
            Answered::Disk => &self.answered_disk,
        };
        count(counter, 1);
    }
}

impl Stats {
    /// Bytes that the disk holds and the image does not.
    #[must_use]
    pub fn saved_bytes(&self) -> u64 {
        self.mapped_blocks.saturating_sub(self.used_blocks).saturating_mul(4096)
    }
}
