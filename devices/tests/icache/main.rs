//! The cache over two simulated disks: random workloads in every mode against a map, every kind of crash state at moments
//! of them, errors of either tier, and damaged bytes.
//!
//! After a crash flushed data reads back, a sector whose last write was not flushed holds what it held at the last
//! flush or something written since, and what was read once is read again: after the cache was cleared, after a second
//! crash, and from the slow tier alone after the cache was closed.
//!
//! `SKY_NIGHTLY=1` tries some hundred times as many; `SKY_SEED=N` one workload alone.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]
#![allow(clippy::cast_possible_truncation, reason = "sizes here are small")]

mod any_bytes;
mod crash;
mod disks;
mod faults;
mod model;
mod operations;
mod resize;
mod together;
mod world;

/// Numbers of the workloads to try.
fn seeds(usually: u64) -> std::ops::Range<u64> {
    if let Ok(seed) = std::env::var("SKY_SEED") {
        let seed = seed.parse().unwrap();
        return seed..seed + 1;
    }
    0..if nightly() { usually * 100 } else { usually }
}

fn nightly() -> bool {
    std::env::var_os("SKY_NIGHTLY").is_some()
}
