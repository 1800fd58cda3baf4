//! What the layers of a disk have done, for people and scripts.

use serde::Serialize;

use crate::icache::{ClassStats, ICache};
use crate::idedup::{self, Idedup};
use crate::policy::ClassId;

/// What the layers of a disk have done since it was opened, and what they hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LayerStats {
    /// The deduplication, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dedup: Option<DedupStats>,
    /// The cache, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheStats>,
}

/// What a deduplication has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DedupStats {
    /// Bytes that the disk holds and the image does not.
    pub saved_bytes: u64,
    /// Its counters.
    #[serde(flatten)]
    pub counters: idedup::Stats,
}

/// What a cache has done, and what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CacheStats {
    /// By class; those that have anything to say.
    pub classes: Vec<CacheClass>,
    /// Bytes of the fast tier that are used.
    pub size_bytes: u64,
    /// Blocks of 4 KiB that fit.
    pub capacity_blocks: u32,
    /// Blocks of which the image holds something older.
    pub dirty_blocks: u32,
    /// Blocks that were written back.
    pub written_back_blocks: u64,
    /// Reads and writes that the fast tier did not do.
    pub fast_errors: u64,
    /// Reads among them of what only the fast tier has.
    pub lost_reads: u64,
    /// Nothing is brought in any more, because the fast tier cannot be written.
    pub failed: bool,
}

/// What happened to the blocks of a class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CacheClass {
    /// Number of the class.
    pub id: u8,
    /// Its name.
    pub name: String,
    /// The rest.
    #[serde(flatten)]
    pub counters: ClassStats,
}

impl LayerStats {
    pub(super) fn of(dedup: Option<&Idedup>, cache: Option<&ICache>) -> Self {
        let dedup = dedup.map(Idedup::stats);
        Self {
            dedup: dedup.map(|counters| DedupStats { saved_bytes: counters.saved_bytes(), counters }),
            cache: cache.map(CacheStats::of),
        }
    }

    /// Whether there is no layer.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.dedup.is_none() && self.cache.is_none()
    }
}

impl CacheStats {
    fn of(cache: &ICache) -> Self {
        let (stats, policy) = (cache.stats(), cache.policy());
        let class = |(id, counters): (ClassId, ClassStats)| CacheClass {
            id: id.get(),
            name: policy.class(id).name().to_owned(),
            counters,
        };
        Self {
            classes: stats.classes.into_iter().map(class).collect(),
            size_bytes: stats.size,
            capacity_blocks: stats.capacity,
            dirty_blocks: stats.dirty,
            written_back_blocks: stats.written_back,
            fast_errors: stats.fast_errors,
            lost_reads: stats.lost_reads,
            failed: stats.failed,
        }
    }
}
