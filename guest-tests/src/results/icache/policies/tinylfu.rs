//! W-TinyLFU: a window of a hundredth, and a segmented LRU that takes from it what is used more often than what would go.

use std::f64::consts::LN_2;

use xxhash_rust::xxh64::xxh64;

use super::Policy;
use super::queue::Queue;

/// Uses of the main part after which all counts are halved, for each of its blocks.
const SAMPLE: u64 = 32;

/// Of the two hash functions.
const SEEDS: [u64; 2] = [0x1234_5678, 0x1234_4321];

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
                // It may have been given more than its share, which counts only now.
                while self.probation.len() > self.probation_most {
                    self.probation.pop();
                }
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

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the oracle truncates")]
impl Counts {
    const HASHES: u32 = 10;

    fn new(blocks: u32) -> Self {
        // -ln(1/1000) / ln(2)^2 counters for each.
        let counters = (1000_f64.ln() / (LN_2 * LN_2) * f64::from(blocks)).ceil();
        Self(vec![0; (counters as usize).max(2 * Self::HASHES as usize)])
    }

    /// As libCacheSim has them, which numbers blocks from 1 here: two hashes give all others (Kirsch and Mitzenmacher,
    /// 2006), in 32 bits.
    fn places(&self, block: u32) -> impl Iterator<Item = usize> + use<> {
        let name = (u64::from(block) + 1).to_le_bytes();
        let [first, step] = SEEDS.map(|seed| xxh64(&name, seed) as u32);
        let count = self.0.len() as u32;
        (0..Self::HASHES).map(move |number| (first.wrapping_add(number.wrapping_mul(step)) % count) as usize)
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
