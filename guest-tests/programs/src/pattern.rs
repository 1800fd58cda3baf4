//! File contents that can be checked without keeping them: every block follows from a seed, a file number and its
//! own number, and no two blocks are alike.
//!
//! Word `w` (little-endian, 64 bits) of block `b` of file `f` under seed `s` is
//! `mix(s * 0x9e3779b97f4a7c15 + f * 2^40 + b * 2^9 + w)`, all modulo 2^64, where `mix` is the finalizer of SplitMix64.

/// The block size of ext4 and of the insight into files.
pub const BLOCK: usize = 4096;

/// One block of one file.
pub fn block(seed: u64, file: u64, block: u64) -> [u8; BLOCK] {
    let start = seed
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(file.wrapping_shl(40))
        .wrapping_add(block.wrapping_shl(9));
    let mut bytes = [0; BLOCK];
    for (word, chunk) in (0u64..).zip(bytes.as_chunks_mut::<8>().0) {
        *chunk = mix(start.wrapping_add(word)).to_le_bytes();
    }
    bytes
}

/// The bytes behind the last whole block of a file: the beginning of the block that would come next. Every third
/// file has such a tail.
pub fn tail(seed: u64, file: u64, blocks: u64) -> Vec<u8> {
    let length = if file % 3 == 2 { 1000 + usize::try_from(file % 1000).unwrap_or(0) } else { 0 };
    block(seed, file, blocks)[..length].to_vec()
}

/// A whole file.
pub fn file(seed: u64, file: u64, blocks: u64) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..blocks).flat_map(|number| block(seed, file, number)).collect();
    bytes.extend(tail(seed, file, blocks));
    bytes
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// FNV-1a with 64 bits, over as many pieces as one likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum(u64);

impl Default for Checksum {
    fn default() -> Checksum {
        Checksum(0xcbf2_9ce4_8422_2325)
    }
}

impl Checksum {
    /// Of one piece.
    pub fn of(bytes: &[u8]) -> Checksum {
        let mut sum = Checksum::default();
        sum.add(bytes);
        sum
    }

    /// Takes in the next piece.
    pub fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

impl std::fmt::Display for Checksum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_checksum_is_fnv_1a() {
        assert_eq!(Checksum::of(b"").to_string(), "cbf29ce484222325");
        assert_eq!(Checksum::of(b"foobar").to_string(), "85944171f73967e8");
    }

    #[test]
    fn the_first_word_follows_the_formula() {
        // SplitMix64 seeded with 0 gives this number first: mix(0x9e3779b97f4a7c15).
        assert_eq!(block(1, 0, 0)[..8], 0xe220_a839_7b1d_cdaf_u64.to_le_bytes());
    }

    #[test]
    fn no_two_blocks_are_alike() {
        let mut seen = HashSet::new();
        for seed in 0..3 {
            for file in 0..5 {
                for number in 0..20 {
                    assert!(seen.insert(block(seed, file, number)));
                }
            }
        }
    }

    #[test]
    fn every_third_file_has_a_tail() {
        assert_eq!(file(1, 0, 2).len(), 2 * BLOCK);
        assert_eq!(file(1, 2, 2).len(), 2 * BLOCK + 1002);
        assert_eq!(file(1, 2, 2)[2 * BLOCK..], block(1, 2, 2)[..1002]);
    }
}
