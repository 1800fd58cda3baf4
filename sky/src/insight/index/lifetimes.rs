//! How long blocks live: from the write that brought them to the disk to whatever made an end of them.

use std::time::Duration;

use serde::Serialize;
use sky_devices::policy::ClassId;

use super::CLASSES;

/// What made an end of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Death {
    /// Something else was written in its place.
    Overwritten,
    /// Its file became shorter, or has a hole there.
    Truncated,
    /// Its file was deleted.
    Deleted,
    /// The guest's file system said that it no longer needs it.
    Discarded,
}

/// Lifetimes up to `2^(n+1)` seconds are counted in place `n`; the last has the rest, from 12 days on.
pub const LIFETIME_BUCKETS: usize = 21;

/// The blocks of a class that have come to an end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClassLifetimes {
    /// The class, by its number.
    pub class: u8,
    /// Blocks in whose place something else was written.
    pub overwritten: u64,
    /// Blocks whose file became shorter, or has a hole there.
    pub truncated: u64,
    /// Blocks whose file was deleted.
    pub deleted: u64,
    /// Blocks that the guest's file system discarded.
    pub discarded: u64,
    /// How many lived less than 2, 4, 8 ... seconds, and not less than the one before; as many as the last that is not 0.
    pub seconds: Vec<u64>,
}

/// Counts ends.
#[derive(Debug)]
pub(super) struct Lifetimes([[u64; LIFETIME_BUCKETS + 4]; CLASSES]);

impl Lifetimes {
    pub(super) fn new() -> Self {
        Self([[0; LIFETIME_BUCKETS + 4]; CLASSES])
    }

    pub(super) fn ended(&mut self, class: ClassId, age: Duration, death: Death) {
        let bucket = usize::try_from(age.as_secs().max(1).ilog2()).unwrap_or(usize::MAX);
        let cause = LIFETIME_BUCKETS + death as usize;
        let Some(counts) = self.0.get_mut(usize::from(class.get())) else { return };
        for place in [bucket.min(LIFETIME_BUCKETS - 1), cause] {
            counts[place] += 1;
        }
    }

    /// Of the classes that have any.
    pub(super) fn summary(&self) -> Vec<ClassLifetimes> {
        let numbered = (0u8..).zip(&self.0);
        let summary = |(class, counts): (u8, &[u64; LIFETIME_BUCKETS + 4])| {
            let (seconds, causes) = counts.split_at(LIFETIME_BUCKETS);
            let length = seconds.iter().rposition(|&count| count > 0)? + 1;
            Some(ClassLifetimes {
                class,
                overwritten: causes[0],
                truncated: causes[1],
                deleted: causes[2],
                discarded: causes[3],
                seconds: seconds[..length].to_vec(),
            })
        };
        numbered.filter_map(summary).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_causes_are_counted() {
        let mut lifetimes = Lifetimes::new();
        assert_eq!(lifetimes.summary(), []);
        let class = ClassId::PREFETCH;
        for (millis, death) in [
            (0, Death::Overwritten),
            (1999, Death::Truncated),
            (2000, Death::Deleted),
            (3999, Death::Discarded),
            (8000, Death::Discarded),
        ] {
            lifetimes.ended(class, Duration::from_millis(millis), death);
        }
        let expected = ClassLifetimes {
            class: class.get(),
            overwritten: 1,
            truncated: 1,
            deleted: 1,
            discarded: 2,
            seconds: vec![2, 2, 0, 1],
        };
        assert_eq!(lifetimes.summary(), [expected]);
        lifetimes.ended(class, Duration::MAX, Death::Deleted);
        assert_eq!(lifetimes.summary()[0].seconds.len(), LIFETIME_BUCKETS);
    }
}
