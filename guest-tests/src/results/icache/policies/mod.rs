//! What caches without classes keep: the policies that ours is compared with.
//!
//! Each is a few queues of block numbers and answers one question, whether a block was there. They follow libCacheSim where
//! a paper leaves something open, so that `guest-tests/oracle/hit_ratios.py` can ask it for the same ratios.

mod lirs;
mod lru;
mod queue;
mod s3fifo;
#[cfg(test)]
mod tests;
mod tinylfu;

use lirs::Lirs;
use lru::Lru;
use s3fifo::S3Fifo;
use tinylfu::WTinyLfu;

/// A cache of whole blocks.
pub(super) trait Policy {
    /// A block is used: whether it was there. It is there afterwards unless the policy lets it pass.
    fn access(&mut self, block: u32) -> bool;
}

/// Which policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Classless {
    /// The least recently used goes.
    Lru,
    /// Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023.
    S3Fifo,
    /// Jiang and Zhang, "LIRS: An Efficient Low Inter-reference Recency Set Replacement Policy", SIGMETRICS 2002.
    Lirs,
    /// Einziger, Friedman and Manes, "TinyLFU: A Highly Efficient Cache Admission Policy", ACM TOS 2017.
    WTinyLfu,
}

impl Classless {
    pub(super) const ALL: [Self; 4] = [Self::Lru, Self::S3Fifo, Self::Lirs, Self::WTinyLfu];

    /// As keys of figures have it.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Lru => "lru",
            Self::S3Fifo => "s3fifo",
            Self::Lirs => "lirs",
            Self::WTinyLfu => "wtinylfu",
        }
    }

    /// A cache of `capacity` blocks, which are numbered below `blocks`.
    pub(super) fn cache(self, capacity: u32, blocks: u32) -> Box<dyn Policy> {
        match self {
            Self::Lru => Box::new(Lru::new(capacity, blocks)),
            Self::S3Fifo => Box::new(S3Fifo::new(capacity, blocks)),
            Self::Lirs => Box::new(Lirs::new(capacity, blocks)),
            Self::WTinyLfu => Box::new(WTinyLfu::new(capacity, blocks)),
        }
    }
}
