//! What blocks are recognised by.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

use xxhash_rust::xxh3::xxh3_128;

use super::options::Verify;

/// The name of a block's content. Of a short one the rest is zeros.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint(pub(super) [u8; 32]);

impl Fingerprint {
    /// One of which `bytes` are stored.
    pub(super) fn stored(bytes: &[u8]) -> Self {
        let mut name = [0; 32];
        let length = bytes.len().min(32);
        name[..length].copy_from_slice(&bytes[..length]);
        Self(name)
    }

    /// Its first bits, which are as good as any.
    pub(super) fn bits(&self) -> u64 {
        super::page::u64_at(&self.0, 0)
    }

    /// Other bits, which are as good as any of long fingerprints.
    pub(super) fn more_bits(&self) -> u64 {
        super::page::u64_at(&self.0, 8)
    }
}

// In the order of `bits`, so that those of one bucket lie side by side.
impl Ord for Fingerprint {
    fn cmp(&self, other: &Self) -> Ordering {
        self.bits().cmp(&other.bits()).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for Fingerprint {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

// It is a hash already.
impl Hash for Fingerprint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.bits());
    }
}

impl std::fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.bits())
    }
}

impl Verify {
    /// Bytes of a fingerprint that are stored.
    pub(super) fn width(self) -> usize {
        match self {
            Self::Fingerprint => 32,
            Self::Compare { .. } => 16,
        }
    }

    /// The name of a block.
    pub(super) fn name(self, block: &[u8]) -> Fingerprint {
        match self {
            Self::Fingerprint => Fingerprint(*blake3::hash(block).as_bytes()),
            Self::Compare { bits } => {
                // The high bits decide the bucket, so they are the ones that stay.
                let kept = u128::MAX.checked_shl(128_u32.saturating_sub(bits.into())).unwrap_or(0);
                let hash = (xxh3_128(block) & kept).to_be_bytes();
                let (mut high, mut low) = ([0; 8], [0; 8]);
                high.copy_from_slice(&hash[..8]);
                low.copy_from_slice(&hash[8..]);
                high.reverse();
                low.reverse();
                Fingerprint::stored(&[high, low].concat())
            }
        }
    }
}
