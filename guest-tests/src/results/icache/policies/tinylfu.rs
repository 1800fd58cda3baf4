//! W-TinyLFU: a window of a hundredth, and a segmented LRU that takes from it what is used more often than what would go.

use super::Policy;
use super::queue::Queue;

/// Uses of the main part after which all counts are halved, for each of its blocks.
const SAMPLE: u64 = 32;

pub(super) struct WTinyLfu {
    capacity: u32,
    window: Queue,
    /// Blocks of the main part that were used once there.
    probation: Queue,
    probation_most: u32,
    /// And more often: four fifths.
    protected: Queue,
    protected_most: u32,
    main_most: u32,
    counts: Counts,
    uses: u64,
}

impl WTinyLfu {
    pub(super) fn new(capacity: u32, blocks: u32) -> Self {
        let main_most = capacity - capacity / 100;
        Self {
            capacity,
            window: Queue::new(blocks),
            probation: Queue::new(blocks),
            probation_most: main_most / 5,
            protected: Queue::new(blocks),
            protected_most: main_most - main_most.div_ceil(5),
            main_most,
            counts: Counts::new(main_most),
            uses: 0,
        }
    }

    fn use_main(&mut self, block: u32) -> bool {
        if self.probation.remove(block) {
            self.protected.push(block);
            if self.protected.len() > self.protected_most
                && let Some(oldest) = self.protected.pop()
            {
                self.probation.push(oldest);
            }
            return true;
        }
        self.protected.renew(block)
    }

    /// As long as nothing had to go, both parts fill.
    fn admit(&mut self, block: u32) {
        if self.probation.len() >= self.probation_most && self.protected.len() < self.protected_most {
            self.protected.push(block);
        } else {
            self.probation.push(block);
        }
    }

    fn evict(&mut self) {
        while let Some(candidate) = self.window.pop() {
            let full = self.probation.len() + self.protected.len() >= self.main_most;
            if !full {
                self.admit(candidate);
            } else if let Some(victim) = self.probation.oldest().or(self.protected.oldest())
                && self.counts.of(candidate) > self.counts.of(victim)
            {
                let _ = self.probation.remove(victim) || self.protected.remove(victim);
                self.admit(candidate);
            }
            self.counts.add(candidate);
            if full {
                return;
            }
        }
        let _ = self.probation.pop().or_else(|| self.protected.pop());
    }
}

impl Policy for WTinyLfu {
    fn access(&mut self, block: u32) -> bool {
        if self.window.renew(block) {
            return true;
        }
        if self.use_main(block) {
            self.counts.add(block);
            self.uses += 1;
            if self.uses >= SAMPLE * u64::from(self.main_most) {
                self.uses = 0;
                self.counts.halve();
            }
            return true;
        }
        while self.window.len() + self.probation.len() + self.protected.len() >= self.capacity {
            self.evict();
        }
        self.window.push(block);
        self.counts.add(block);
        false
    }
}

/// How often blocks were used, at least: a counting Bloom filter that is wrong once in a thousand times when it holds as
/// many blocks as the main part.
struct Counts(Vec<u32>);

impl Counts {
    const HASHES: u64 = 10;

    fn new(blocks: u32) -> Self {
        // ln(1000) / ln(2)^2 counters for each.
        Self(vec![0; usize::try_from(u64::from(blocks) * 14_378 / 1000 + 20).unwrap_or(usize::MAX)])
    }

    fn places(&self, block: u32) -> impl Iterator<Item = usize> + use<> {
        // The finalizer of SplitMix64 gives two hashes, and those all others (Kirsch and Mitzenmacher, 2006).
        let mut hash = u64::from(block).wrapping_add(0x9e37_79b9_7f4a_7c15);
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        hash ^= hash >> 31;
        let (first, step, count) = (hash >> 32, (hash & 0xffff_ffff) | 1, self.0.len() as u64);
        (0..Self::HASHES).map(move |number| usize::try_from((first + number * step) % count).unwrap_or(0))
    }

    fn of(&self, block: u32) -> u32 {
        self.places(block).map(|place| self.0[place]).min().unwrap_or(0)
    }

    fn add(&mut self, block: u32) {
        self.places(block).for_each(|place| self.0[place] = self.0[place].saturating_add(1));
    }

    fn halve(&mut self) {
        self.0.iter_mut().for_each(|count| *count /= 2);
    }
}
