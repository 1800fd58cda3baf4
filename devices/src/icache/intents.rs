//! Where the slow tier may be ahead of the lines, or behind: a bit for each region, durable before a write gets there.

use super::format::{Layout, REGIONS};

/// Rounds without a write after which a region's bit may be taken away.
const QUIET: u64 = 2;

/// The regions.
#[derive(Debug)]
pub(super) struct Intents {
    bits: Box<[u64; REGIONS / 64]>,
    /// Of these, the ones that are surely durable.
    durable: Box<[u64; REGIONS / 64]>,
    /// Writes to each region that are under way, and the round of the last one.
    writes: Vec<(u32, u64)>,
    round: u64,
    shift: u32,
}

impl Intents {
    pub(super) fn new(layout: Layout, bits: Box<[u64; REGIONS / 64]>) -> Self {
        // Bits that a cache was opened with are not known to be quiet before some rounds.
        Self {
            durable: bits.clone(),
            bits,
            writes: vec![(0, 0); REGIONS],
            round: 0,
            shift: layout.region().trailing_zeros(),
        }
    }

    /// As a page has them.
    pub(super) fn bits(&self) -> &[u64; REGIONS / 64] {
        &self.bits
    }

    fn regions(&self, offset: u64, length: u64) -> std::ops::RangeInclusive<usize> {
        let region =
            |at: u64| usize::try_from(at >> self.shift).map_or(REGIONS - 1, |at| at.min(REGIONS - 1));
        region(offset)..=region(offset.saturating_add(length.max(1)) - 1)
    }

    /// Whether the region of a byte has its bit.
    pub(super) fn has(&self, offset: u64) -> bool {
        let region = *self.regions(offset, 1).start();
        self.bits[region / 64] >> (region % 64) & 1 != 0
    }

    /// A write begins. Answers whether all of its bits are durable.
    pub(super) fn begin(&mut self, offset: u64, length: u64) -> bool {
        let mut durable = true;
        for region in self.regions(offset, length) {
            self.bits[region / 64] |= 1 << (region % 64);
            durable &= self.durable[region / 64] >> (region % 64) & 1 != 0;
            self.writes[region].0 += 1;
        }
        durable
    }

    /// The write is over.
    pub(super) fn end(&mut self, offset: u64, length: u64) {
        for region in self.regions(offset, length) {
            self.writes[region].0 -= 1;
            self.writes[region].1 = self.round;
        }
    }

    /// These bits are durable now. Those that are not among them may have been taken away.
    pub(super) fn committed(&mut self, bits: &[u64; REGIONS / 64]) {
        for ((durable, bits), now) in self.durable.iter_mut().zip(bits).zip(self.bits.iter()) {
            *durable = bits & now;
        }
    }

    /// Some regions have a bit.
    pub(super) fn any(&self) -> bool {
        self.bits.iter().any(|bits| *bits != 0)
    }

    /// A round begins: both tiers are about to be flushed.
    pub(super) fn begin_round(&mut self) -> u64 {
        self.round += 1;
        self.round
    }

    /// Both tiers were flushed since that round began: takes bits away of regions that were quiet, all that were not
    /// written since if `at_once`.
    pub(super) fn settle(&mut self, round: u64, at_once: bool) {
        let quiet = if at_once { 1 } else { QUIET };
        for (region, &(under_way, last)) in self.writes.iter().enumerate() {
            if under_way == 0 && last + quiet <= round {
                self.bits[region / 64] &= !(1 << (region % 64));
                self.durable[region / 64] &= !(1 << (region % 64));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_stays_until_its_region_is_quiet() {
        let layout = Layout { places: 64, journal: 0, slow: 1 << 40 };
        let mut intents = Intents::new(layout, Box::new([0; REGIONS / 64]));
        let region = layout.region();
        assert_eq!(region, 256 << 20);
        assert!(!intents.begin(region - 512, 1024));
        let bits = *intents.bits();
        intents.committed(&bits);
        assert!(intents.begin(0, 512) && intents.has(5) && intents.has(region) && !intents.has(2 * region));
        intents.end(0, 512);
        let round = intents.begin_round();
        intents.settle(round, true);
        assert!(intents.has(0), "a write is under way");
        intents.end(region - 512, 1024);
        intents.settle(round, true);
        assert!(intents.has(0), "it ended after the round had begun");
        let round = intents.begin_round();
        intents.settle(round, false);
        assert!(intents.has(0), "once is not quiet");
        let round = intents.begin_round();
        intents.settle(round, false);
        assert!(!intents.any());
        assert!(!intents.begin(0, 512), "the bit has to be made durable anew");
    }
}
