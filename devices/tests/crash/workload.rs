//! What is done to a disk.

use sky_devices::block::simulated::Random;

use super::content::Kind;

/// Sectors of the largest cluster that a format here allocates at a time.
const CLUSTER: u64 = 128;

/// One thing to do.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Write {
        sector: u64,
        count: u64,
        kind: Kind,
    },
    Discard {
        sector: u64,
        count: u64,
    },
    Zero {
        sector: u64,
        count: u64,
        unmap: bool,
    },
    Flush,
    Read {
        sector: u64,
        count: u64,
    },
    /// Something that the format does when it finds the time, by its number.
    Chore(u64),
    /// Ends as a killed process does, and opens again.
    Kill,
    /// Ends in order, and opens again.
    Close,
}

/// The next thing to do to a disk of `sectors` sectors.
pub(super) fn step(random: &mut Random, sectors: u64, chores: bool) -> Step {
    let (sector, count) = range(random, sectors);
    match random.below(if chores { 50 } else { 40 }) {
        0..=22 => {
            let kind = match random.below(5) {
                0 | 1 => Kind::Text,
                2 | 3 => Kind::Noise,
                _ => Kind::Mixed,
            };
            Step::Write { sector, count, kind }
        }
        23..=29 => Step::Flush,
        30..=32 => Step::Discard { sector, count },
        33..=35 => Step::Zero { sector, count, unmap: random.one_in(2) },
        36 | 37 => Step::Read { sector, count },
        38 => Step::Kill,
        39 => Step::Close,
        _ => Step::Chore(random.bits()),
    }
}

/// Sectors to write: some of every size that a format treats in its own way, close enough together to meet.
fn range(random: &mut Random, sectors: u64) -> (u64, u64) {
    let (unit, most) = match random.below(20) {
        0..=3 => (1, 1),
        4..=6 => (1, 16),
        7..=11 => (8, 8),
        12..=15 => (8, 64),
        16 => (1, CLUSTER),
        17 => (CLUSTER, CLUSTER),
        18 => (CLUSTER, 4 * CLUSTER),
        _ => (8, 3 * CLUSTER),
    };
    let count = ((1 + random.below(most / unit)) * unit).min(sectors);
    // Half of it goes to few places, so that they are written many times.
    let reach = if random.one_in(2) { (2 * CLUSTER).min(sectors) } else { sectors };
    let sector = random.below(reach) / unit * unit;
    (sector.min(sectors - count), count)
}
