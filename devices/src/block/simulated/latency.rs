//! How long a simulated disk takes. The numbers are round ones of no particular product.

use std::time::Duration;

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
    /// Nanoseconds that a read or write takes more if it does not begin where the last one ended.
    pub seek: u64,
    /// Reads of one batch that the disk does at a time; zero means one.
    pub depth: u64,
}

impl Latency {
    /// A solid-state disk with a volatile cache.
    #[must_use]
    pub fn ssd() -> Self {
        Self {
            read: Cost { fixed: 80_000, per_kib: 500 },
            write: Cost { fixed: 20_000, per_kib: 700 },
            flush: 300_000,
            seek: 0,
            depth: 32,
        }
    }

    /// A disk of 7,200 revolutions a minute, with a volatile cache.
    #[must_use]
    pub fn rotating() -> Self {
        Self {
            read: Cost { fixed: 100_000, per_kib: 6_500 },
            write: Cost { fixed: 100_000, per_kib: 6_500 },
            flush: 8_300_000,
            seek: 12_000_000,
            depth: 1,
        }
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
        let time = latency.write.of(bytes).saturating_add(self.seek(latency, offset, bytes));
        self.pass(time);
    }

    /// Reads that are asked for together: as many at a time as the disk does.
    pub(super) fn read_batch(&mut self, latency: &Latency, requests: impl Iterator<Item = (u64, u64)>) {
        let (mut count, mut bytes, mut seeks) = (0, 0_u64, 0_u64);
        for (offset, length) in requests {
            count += 1;
            bytes = bytes.saturating_add(length);
            seeks = seeks.saturating_add(self.seek(latency, offset, length));
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

    fn seek(&mut self, latency: &Latency, offset: u64, bytes: u64) -> u64 {
        let moved = std::mem::replace(&mut self.head, offset.saturating_add(bytes)) != offset;
        if moved { latency.seek } else { 0 }
    }

    fn pass(&mut self, nanoseconds: u64) {
        self.nanoseconds = self.nanoseconds.saturating_add(nanoseconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(work: impl FnOnce(&mut Clock)) -> u64 {
        let mut clock = Clock::default();
        work(&mut clock);
        clock.nanoseconds
    }

    #[test]
    fn a_sequential_disk_does_not_seek() {
        let disk = Latency::rotating();
        let write = 100_000 + 4 * 6_500;
        let sequential = time(|clock| {
            clock.write(&disk, 0, 4096);
            clock.write(&disk, 4096, 4096);
            clock.flush(&disk);
        });
        assert_eq!(sequential, 2 * write + 8_300_000);
        let scattered = time(|clock| {
            clock.write(&disk, 0, 4096);
            clock.write(&disk, 0, 4096);
        });
        assert_eq!(scattered, 2 * write + 12_000_000);
    }

    #[test]
    fn a_batch_overlaps_as_far_as_the_disk_can() {
        let batch = |latency: &Latency, count| {
            time(|clock| clock.read_batch(latency, (0..count).map(|index| (index * 4096, 4096))))
        };
        assert_eq!(batch(&Latency::ssd(), 64), 2 * 80_000 + 64 * 2_000);
        assert_eq!(batch(&Latency::ssd(), 65), 3 * 80_000 + 65 * 2_000);
        assert_eq!(batch(&Latency::rotating(), 3), 3 * (100_000 + 26_000));
    }
}
