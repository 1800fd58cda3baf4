//! Counters of a storage: what benchmarks and tests read instead of a clock.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// What a storage has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StorageCounts {
    /// Reads that went to the medium.
    pub reads: u64,
    /// Bytes that these read.
    pub read_bytes: u64,
    /// Writes that went to the medium.
    pub writes: u64,
    /// Bytes that these wrote.
    pub written_bytes: u64,
    /// Calls that asked for durability.
    pub syncs: u64,
    /// Times that the medium was made to write its cache: fewer than `syncs` where several callers shared one.
    pub flushes: u64,
    /// Holes made.
    pub punches: u64,
    /// Times that the medium grew.
    pub grows: u64,
}

/// [`StorageCounts`] while they are counted.
#[derive(Debug, Default)]
pub(super) struct Counters {
    reads: AtomicU64,
    read_bytes: AtomicU64,
    writes: AtomicU64,
    written_bytes: AtomicU64,
    syncs: AtomicU64,
    flushes: AtomicU64,
    punches: AtomicU64,
    grows: AtomicU64,
}

impl Counters {
    pub(super) fn read(&self, bytes: u64) {
        add(&self.reads, 1);
        add(&self.read_bytes, bytes);
    }

    pub(super) fn write(&self, bytes: u64) {
        add(&self.writes, 1);
        add(&self.written_bytes, bytes);
    }

    pub(super) fn sync(&self) {
        add(&self.syncs, 1);
    }

    pub(super) fn flush(&self) {
        add(&self.flushes, 1);
    }

    pub(super) fn punch(&self) {
        add(&self.punches, 1);
    }

    pub(super) fn grow(&self) {
        add(&self.grows, 1);
    }

    /// The numbers now. Those of requests that are under way may be counted in part.
    pub(super) fn counts(&self) -> StorageCounts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StorageCounts {
            reads: of(&self.reads),
            read_bytes: of(&self.read_bytes),
            writes: of(&self.writes),
            written_bytes: of(&self.written_bytes),
            syncs: of(&self.syncs),
            flushes: of(&self.flushes),
            punches: of(&self.punches),
            grows: of(&self.grows),
        }
    }
}

// Nothing else is published by a counter, so no order is needed.
fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}
