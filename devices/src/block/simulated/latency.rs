//! How long a simulated disk takes: a request's own time, its bytes, and how far the head has to move for it.

use std::time::Duration;

mod seek;
#[cfg(test)]
mod tests;

pub use seek::{Arm, Seek};

/// Time that one request takes: a fixed part, and one for its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Nanoseconds of any request.
    pub fixed: u64,
    /// Nanoseconds of each KiB.
    pub per_kib: u64,
}

impl Cost {
    fn of(self, bytes: u64) -> u64 {
        self.fixed.saturating_add(self.bytes(bytes))
    }

    fn bytes(self, bytes: u64) -> u64 {
        bytes.saturating_mul(self.per_kib) / 1024
    }
}

/// How long the requests of a simulated disk take, in simulated time: nobody waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// A read.
    pub read: Cost,
    /// A write to the disk's cache.
    pub write: Cost,
    /// Nanoseconds that a write of the disk's cache to its medium takes.
    pub flush: u64,
    /// What a read or write takes more if it does not begin where the last one ended.
    pub seek: Seek,
    /// Reads of one batch that the disk does at a time; zero means one.
    pub depth: u64,
}

/// Nanoseconds of a KiB at 100 MB/s, which the disks of the papers had, about.
const AT_100_MB: u64 = 10_240;
/// The same at 250 MB/s.
const AT_250_MB: u64 = 4_096;

impl Latency {
    /// A solid-state disk with a volatile cache, in round numbers of no particular product.
    #[must_use]
    pub fn ssd() -> Self {
        Self {
            read: Cost { fixed: 80_000, per_kib: 500 },
            write: Cost { fixed: 20_000, per_kib: 700 },
            flush: 300_000,
            seek: Seek::NONE,
            depth: 32,
        }
    }

    /// A disk of 7,200 revolutions a minute with a volatile cache, in round numbers of no particular product. Every
    /// seek takes the same.
    #[must_use]
    pub fn rotating() -> Self {
        let cost = Cost { fixed: 100_000, per_kib: 6_500 };
        Self { read: cost, write: cost, flush: 8_300_000, seek: Seek::constant(12_000_000), depth: 1 }
    }

    /// The solid-state disk of the papers: 250 MB/s, 85 microseconds for a read and 115 for a write. A flush is taken
    /// for another write.
    #[must_use]
    pub fn paper_ssd() -> Self {
        Self {
            read: Cost { fixed: 85_000, per_kib: AT_250_MB },
            write: Cost { fixed: 115_000, per_kib: AT_250_MB },
            flush: 115_000,
            seek: Seek::NONE,
            depth: 32,
        }
    }

    /// A disk of 5,400 revolutions a minute: the seek times of Hitachi's Travelstar 5K320 (320 GB; read and write:
    /// 1.0 and 1.1 ms to the next track, 12 and 13 ms on average), at 100 MB/s. A flush takes a revolution.
    ///
    /// [`Seek`] says what part of the whole stroke a small image on it has: narrow the stroke for a small disk.
    #[must_use]
    pub fn hdd_5400() -> Self {
        let seek = Seek {
            read: Arm::averaging(1_000_000, 12_000_000),
            write: Arm::averaging(1_100_000, 13_000_000),
            stroke: 320_000_000_000,
            rotation: 5_500_000,
        };
        Self::hard_disk(seek)
    }

    /// A disk of 7,200 revolutions a minute: the seek times of Ultrastar's HC310 (6 TB; 0.23 and 0.32 ms to the next
    /// track, 7.4 and 8.2 ms on average), else like [`hdd_5400`](Self::hdd_5400).
    #[must_use]
    pub fn hdd_7200() -> Self {
        let seek = Seek {
            read: Arm::averaging(230_000, 7_400_000),
            write: Arm::averaging(320_000, 8_200_000),
            stroke: 6_000_000_000_000,
            rotation: 4_160_000,
        };
        Self::hard_disk(seek)
    }

    fn hard_disk(seek: Seek) -> Self {
        let cost = Cost { fixed: 0, per_kib: AT_100_MB };
        Self { read: cost, write: cost, flush: seek.rotation.saturating_mul(2), seek, depth: 1 }
    }
}

/// Simulated time, and where the last request ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock {
    nanoseconds: u64,
    head: u64,
}

impl Clock {
    pub(super) fn write(&mut self, latency: &Latency, offset: u64, bytes: u64) {
        let time =
            latency.write.of(bytes).saturating_add(self.seek(latency.seek.write, latency, offset, bytes));
        self.pass(time);
    }

    /// Reads that are asked for together: as many at a time as the disk does.
    pub(super) fn read_batch(&mut self, latency: &Latency, requests: impl Iterator<Item = (u64, u64)>) {
        let (mut count, mut bytes, mut seeks) = (0, 0_u64, 0_u64);
        for (offset, length) in requests {
            count += 1;
            bytes = bytes.saturating_add(length);
            seeks = seeks.saturating_add(self.seek(latency.seek.read, latency, offset, length));
        }
        let rounds = u64::div_ceil(count, latency.depth.max(1));
        let fixed = latency.read.fixed.saturating_mul(rounds);
        self.pass(fixed.saturating_add(latency.read.bytes(bytes)).saturating_add(seeks));
    }

    pub(super) fn flush(&mut self, latency: &Latency) {
        self.pass(latency.flush);
    }

    pub(super) fn now(&self) -> Duration {
        Duration::from_nanos(self.nanoseconds)
    }

    fn seek(&mut self, arm: Arm, latency: &Latency, offset: u64, bytes: u64) -> u64 {
        let from = std::mem::replace(&mut self.head, offset.saturating_add(bytes));
        latency.seek.time(arm, from.abs_diff(offset))
    }

    fn pass(&mut self, nanoseconds: u64) {
        self.nanoseconds = self.nanoseconds.saturating_add(nanoseconds);
    }
}
