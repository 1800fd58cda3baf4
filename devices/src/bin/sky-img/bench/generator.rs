//! The threads that send requests.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sky_devices::block::{BlockDevice, Error, ErrorKind, Operation, Result};

use super::{Data, Pattern};

/// The load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) write: bool,
    pub(super) pattern: Pattern,
    /// Bytes of a request.
    pub(super) size: u64,
    pub(super) depth: u64,
    pub(super) count: u64,
    pub(super) flush_interval: u64,
    pub(super) data: Data,
    pub(super) seed: u64,
    /// Requests that fit on the disk side by side.
    pub(super) slots: u64,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Measured {
    /// How long each request took with its flush, in order of length.
    pub(super) latencies: Vec<Duration>,
    pub(super) flushes: u64,
    /// From the first request to the last answer.
    pub(super) elapsed: Duration,
}

/// Runs the load to its end.
pub(super) fn run(load: &Load, device: &dyn BlockDevice, stop: &AtomicBool) -> Result<Measured> {
    let results: Mutex<Vec<Result<Measured>>> = Mutex::new(Vec::new());
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..load.depth {
            let results = &results;
            scope.spawn(move || {
                let result = one_thread(load, thread, device, stop);
                results.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(result);
            });
        }
    });
    let mut all = Measured { elapsed: begin.elapsed(), ..Measured::default() };
    for result in results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        let part = result?;
        all.latencies.extend(part.latencies);
        all.flushes += part.flushes;
    }
    all.latencies.sort_unstable();
    Ok(all)
}

fn one_thread(load: &Load, thread: u64, device: &dyn BlockDevice, stop: &AtomicBool) -> Result<Measured> {
    let share = load.count / load.depth + u64::from(thread < load.count % load.depth);
    let mut random = Random(load.seed.wrapping_add(thread.wrapping_mul(0x5851_f42d_4c95_7f2d)));
    let size = usize::try_from(load.size).map_err(|_| Error::new(ErrorKind::OutOfRange, Operation::Read))?;
    let mut buffer = vec![0; size];
    let mut measured = Measured::default();
    // Each thread has a part of its own, of the same number of slots, which it goes round.
    let part = load.slots / load.depth;
    for request in 0..share {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Interrupted, Operation::Read));
        }
        let slot = match load.pattern {
            Pattern::Seq => thread * part + request % part,
            Pattern::Rand => random.below(load.slots),
        };
        if load.write {
            fill(&mut buffer, load.data, &mut random);
        }
        let begin = Instant::now();
        if load.write {
            device.write(slot * load.size, &buffer, &[])?;
            if load.flush_interval != 0 && (request + 1).is_multiple_of(load.flush_interval) {
                device.flush()?;
                measured.flushes += 1;
            }
        } else {
            device.read(slot * load.size, &mut buffer, &[])?;
        }
        measured.latencies.push(begin.elapsed());
    }
    Ok(measured)
}

fn fill(buffer: &mut [u8], data: Data, random: &mut Random) {
    for chunk in buffer.chunks_mut(8) {
        let number = random.next();
        let bytes = match data {
            Data::Zero => [0; 8],
            Data::Random => number.to_le_bytes(),
            // One byte in eight is chosen freely, of 16 that there are.
            Data::Text => (0x6520_6e69_2061_2000 | (number & 15) | 0x60).to_le_bytes(),
        };
        let length = chunk.len();
        chunk.copy_from_slice(&bytes[..length]);
    }
}

/// splitmix64 (Steele, Lea, Flood 2014): quick, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which is not zero.
    fn below(&mut self, limit: u64) -> u64 {
        let product = u128::from(self.next()) * u128::from(limit);
        u64::try_from(product >> 64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use sky_devices::block::MemoryDisk;

    use super::*;

    fn load(pattern: Pattern) -> Load {
        Load {
            write: true,
            pattern,
            size: 4096,
            depth: 3,
            count: 100,
            flush_interval: 10,
            data: Data::Random,
            seed: 7,
            slots: 64,
        }
    }

    #[test]
    fn all_requests_are_made_and_the_seed_decides_them() {
        let disks = [0, 1].map(|_| MemoryDisk::new(64 * 4096).unwrap());
        let stop = AtomicBool::new(false);
        // One thread: with several, the later of two writes to one place is not always the same.
        for disk in &disks {
            let measured = run(&Load { depth: 1, ..load(Pattern::Rand) }, disk, &stop).unwrap();
            assert_eq!((measured.latencies.len(), measured.flushes), (100, 10));
        }
        assert_eq!(disks[0].contents(), disks[1].contents());
    }

    #[test]
    fn threads_in_sequence_share_the_disk_out() {
        let disk = MemoryDisk::new(64 * 4096).unwrap();
        let measured = run(&load(Pattern::Seq), &disk, &AtomicBool::new(false)).unwrap();
        assert_eq!((measured.latencies.len(), measured.flushes), (100, 9));
        // Each goes round its own 21 slots; the last slot belongs to nobody.
        let written = disk.contents().chunks(4096).filter(|slot| slot.iter().any(|&byte| byte != 0)).count();
        assert_eq!(written, 63);
    }
}
