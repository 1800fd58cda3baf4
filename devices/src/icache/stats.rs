//! What a cache has done.

use serde::Serialize;

use crate::policy::ClassId;

/// What happened to the blocks of a class since the cache was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClassStats {
    /// Blocks that were read from the fast tier.
    pub hits: u64,
    /// Blocks that were read from the slow tier.
    pub misses: u64,
    /// Bytes that requests read.
    pub read_bytes: u64,
    /// Bytes that requests wrote.
    pub written_bytes: u64,
    /// Lines now.
    pub lines: u32,
}

/// What a cache has done since it was opened, and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    /// By class; those that have anything to say.
    pub classes: Vec<(ClassId, ClassStats)>,
    /// Bytes of the fast tier that are used, with journal and superblocks.
    pub size: u64,
    /// Lines that may hold a block at a time.
    pub capacity: u32,
    /// Lines of which the slow tier holds something older.
    pub dirty: u32,
    /// Blocks that were written back.
    pub written_back: u64,
    /// Reads and writes of lines that the fast tier did not do.
    pub fast_errors: u64,
    /// Reads of dirty lines among them: what was written there is lost unless it can be read again.
    pub lost_reads: u64,
    /// The journal can not be written: nothing is brought in any more.
    pub failed: bool,
}

/// A block that a cache holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cached {
    /// Where it is on the disk, in bytes.
    pub offset: u64,
    /// Its class.
    pub class: ClassId,
    /// The slow tier holds something older.
    pub dirty: bool,
}
