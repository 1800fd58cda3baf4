//! What system calls say about disk blocks.
//!
//! [`Tracker`] follows the reads and writes of monitored processes and files a fingerprint of every 4 KiB block;
//! [`BlockIndex`] recognises the same content when it arrives at the disk, or came from there.

mod index;
mod pattern;
mod tracker;
mod unique;

pub use index::{
    Assume, BlockCounts, BlockIndex, CachedPages, ClassCount, ClassLifetimes, DiskBlocks, FileId,
    FileSummary, LIFETIME_BUCKETS, MAX_FILES, Origin, Prior, Writer,
};
pub(crate) use index::{Sharer, Sharing};
pub use pattern::FilePattern;
pub use tracker::{Tracker, TrackerCounts};
pub use unique::{UniqueCounts, UniqueRules};
