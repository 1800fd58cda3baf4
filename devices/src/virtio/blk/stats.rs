//! Counters of one block device, shared between its workers and whoever wants to look.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::io_class::{IoClass, IoTag};

/// Counters since the device was created; a reset of the device does not clear them. Each is exact, but a reader sees
/// them at slightly different moments.
#[derive(Debug, Default)]
pub struct Stats {
    reads: AtomicU64,
    writes: AtomicU64,
    flushes: AtomicU64,
    discards: AtomicU64,
    write_zeroes: AtomicU64,
    errors: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    unknown_blocks: AtomicU64,
    metadata_blocks: AtomicU64,
    data_blocks: AtomicU64,
}

/// The values of [`Stats`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StatsSnapshot {
    /// Reads that succeeded.
    pub reads: u64,
    /// Writes that succeeded.
    pub writes: u64,
    /// Flushes that succeeded.
    pub flushes: u64,
    /// Discard requests that succeeded, whatever their number of ranges.
    pub discards: u64,
    /// Write-zeroes requests that succeeded, whatever their number of ranges.
    pub write_zeroes: u64,
    /// Requests of any kind that did not succeed, malformed ones included.
    pub errors: u64,
    /// Bytes of the reads that succeeded.
    pub bytes_read: u64,
    /// Bytes of the writes that succeeded.
    pub bytes_written: u64,
    /// Blocks, or pieces of blocks, of successful writes that nobody knew.
    pub unknown_blocks: u64,
    /// Blocks, or pieces of blocks, of successful writes that were metadata.
    pub metadata_blocks: u64,
    /// Blocks, or pieces of blocks, of successful writes that were data.
    pub data_blocks: u64,
}

impl Stats {
    /// The counters now.
    #[must_use]
    pub fn snapshot(&self) -> StatsSnapshot {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StatsSnapshot {
            reads: get(&self.reads),
            writes: get(&self.writes),
            flushes: get(&self.flushes),
            discards: get(&self.discards),
            write_zeroes: get(&self.write_zeroes),
            errors: get(&self.errors),
            bytes_read: get(&self.bytes_read),
            bytes_written: get(&self.bytes_written),
            unknown_blocks: get(&self.unknown_blocks),
            metadata_blocks: get(&self.metadata_blocks),
            data_blocks: get(&self.data_blocks),
        }
    }

    pub(super) fn read(&self, bytes: u64) {
        add(&self.reads, 1);
        add(&self.bytes_read, bytes);
    }

    pub(super) fn write(&self, bytes: u64, tags: &[IoTag]) {
        add(&self.writes, 1);
        add(&self.bytes_written, bytes);
        for tag in tags {
            add(
                match tag.class {
                    IoClass::Unknown => &self.unknown_blocks,
                    IoClass::Metadata => &self.metadata_blocks,
                    IoClass::Data => &self.data_blocks,
                },
                1,
            );
        }
    }

    pub(super) fn flush(&self) {
        add(&self.flushes, 1);
    }

    pub(super) fn discard(&self) {
        add(&self.discards, 1);
    }

    pub(super) fn write_zeroes(&self) {
        add(&self.write_zeroes, 1);
    }

    pub(super) fn error(&self) {
        add(&self.errors, 1);
    }
}

fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}
