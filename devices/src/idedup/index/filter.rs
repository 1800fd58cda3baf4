//! The filter: a small Bloom filter for each bucket, so that it can be made anew from what the bucket holds whenever
//! that is in memory. So what a bucket forgets the filter forgets, too.

use super::super::fingerprint::Fingerprint;
use super::super::layout::most_filter;

#[derive(Debug)]
pub(super) struct Filter {
    /// Bytes of the filter of one bucket; none if there is no memory.
    segment: usize,
    hashes: u32,
    bits: Vec<u8>,
    /// A bit for each bucket whose filter is right.
    known: Vec<u8>,
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl Filter {
    /// For `buckets` buckets that get `load` entries each, in `memory` bytes at most. The filter of a bucket that is not
    /// `written` is right: it is empty.
    pub(super) fn new(buckets: u64, load: usize, memory: usize, written: &[u8]) -> Self {
        let segment = (memory / index(buckets).max(1)).min(most_filter(load));
        // The best number of hashes: bits for each entry times ln 2.
        let hashes = (segment * 8 * 7).div_ceil(load.max(1) * 10).clamp(1, 8);
        Self {
            segment,
            hashes: u32::try_from(hashes).unwrap_or(1),
            bits: vec![0; segment * index(buckets)],
            known: written.iter().map(|written| !written).collect(),
        }
    }

    /// Bytes that it takes, those of what is known apart.
    pub(super) fn bytes(&self) -> usize {
        self.bits.len()
    }

    /// Bytes of the filter of one bucket.
    pub(super) fn segment(&self) -> usize {
        self.segment
    }

    /// Puts the filters of `count` buckets from `first` on into `bytes`: a bit for each that is right, then the filters.
    pub(super) fn save(&self, first: u64, count: u64, bytes: &mut [u8]) {
        let (known, filters) = bytes.split_at_mut(index(count.div_ceil(8)).min(bytes.len()));
        let parts = self.bits.chunks_exact(self.segment.max(1)).skip(index(first));
        for (at, (bytes, part)) in filters.chunks_exact_mut(self.segment.max(1)).zip(parts).enumerate() {
            if at < index(count) && self.is_known(first + at as u64) {
                known[at / 8] |= 1 << (at % 8);
                bytes.copy_from_slice(part);
            }
        }
    }

    /// Takes what [`save`](Self::save) has put there.
    pub(super) fn restore(&mut self, first: u64, count: u64, bytes: &[u8]) {
        let (known, filters) = bytes.split_at(index(count.div_ceil(8)).min(bytes.len()));
        let parts = self.bits.chunks_exact_mut(self.segment.max(1)).skip(index(first));
        for (at, (bytes, part)) in filters.chunks_exact(self.segment.max(1)).zip(parts).enumerate() {
            if at < index(count) && known[at / 8] >> (at % 8) & 1 == 1 {
                part.copy_from_slice(bytes);
                let bucket = first + at as u64;
                let byte = self.known.get_mut(index(bucket / 8));
                byte.into_iter().for_each(|byte| *byte |= 1 << (bucket % 8));
            }
        }
    }

    fn positions(&self, name: &Fingerprint) -> impl Iterator<Item = usize> + use<> {
        let bits = (self.segment * 8) as u64;
        // The first bits have chosen the bucket; those that say where in it are mixed again.
        let mixed = (name.bits() ^ name.more_bits().rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let (mut at, step) = (mixed >> 32, mixed & 0xffff_ffff | 1);
        (0..self.hashes).map(move |_| {
            at = at.wrapping_add(step);
            index(((at & 0xffff_ffff) * bits) >> 32)
        })
    }

    /// Whether a bucket may have a name in it.
    pub(super) fn may_have(&self, bucket: u64, name: &Fingerprint) -> bool {
        if !self.is_known(bucket) || self.segment == 0 {
            return true;
        }
        let segment = &self.bits[index(bucket) * self.segment..][..self.segment];
        self.positions(name).all(|bit| segment[bit / 8] >> (bit % 8) & 1 == 1)
    }

    pub(super) fn is_known(&self, bucket: u64) -> bool {
        self.known.get(index(bucket / 8)).is_some_and(|known| known >> (bucket % 8) & 1 == 1)
    }

    /// A bucket has exactly these names.
    pub(super) fn learn(&mut self, bucket: u64, names: impl Iterator<Item = Fingerprint>) {
        if let Some(known) = self.known.get_mut(index(bucket / 8)) {
            *known |= 1 << (bucket % 8);
        }
        if self.segment == 0 {
            return;
        }
        let from = index(bucket) * self.segment;
        self.bits[from..from + self.segment].fill(0);
        for name in names {
            for bit in self.positions(&name) {
                self.bits[from + bit / 8] |= 1 << (bit % 8);
            }
        }
    }
}
