//! Names of blocks that are only remembered: made in a third of the time of a fingerprint, and good as long as the image
//! is open.
//!
//! It is NH with two Toeplitz iterations of UMAC (Black, Halevi, Krawczyk, Krovetz and Rogaway, "UMAC: Fast and Secure
//! Message Authentication", CRYPTO 1999), on words of 64 bits. That is a universal hash: for any two blocks that
//! differ, 2^-128 of the keys at most give both the same name, whatever is in them. The key is drawn when the image is
//! opened. Neither it nor a name ever leaves this process, so nobody can choose blocks to fit it.

use super::fingerprint::Fingerprint;
use super::page::{BLOCK, u64_at};
use crate::block::{Error, Operation, Result};

/// Words of a block.
const WORDS: usize = BLOCK / 8;
/// How far the key of the second iteration is shifted.
const SHIFT: usize = 2;

/// A key.
pub(super) struct Secret(Box<[u64; WORDS + SHIFT]>);

// A key is not shown.
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// A new one.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub(super) fn draw() -> Result<Self> {
        let mut bytes = [0; (WORDS + SHIFT) * 8];
        getrandom::fill(&mut bytes)
            .map_err(|error| Error::from_io(Operation::Open, std::io::Error::other(error)))?;
        let mut key = Box::new([0; WORDS + SHIFT]);
        for (word, bytes) in key.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64_at(bytes, 0);
        }
        Ok(Self(key))
    }

    /// The name of a block, which is [`BLOCK`] bytes.
    pub(super) fn name(&self, block: &[u8]) -> Fingerprint {
        let (mut first, mut second) = (0u128, 0u128);
        for (pair, key) in block.chunks_exact(16).zip(self.0.windows(4).step_by(2)) {
            let (a, b) = (u64_at(pair, 0), u64_at(pair, 8));
            let product = |at: usize| {
                u128::from(a.wrapping_add(key[at])).wrapping_mul(u128::from(b.wrapping_add(key[at + 1])))
            };
            first = first.wrapping_add(product(0));
            second = second.wrapping_add(product(SHIFT));
        }
        let mut name = [0; 32];
        name[..16].copy_from_slice(&first.to_le_bytes());
        name[16..].copy_from_slice(&second.to_le_bytes());
        Fingerprint(name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, a word at a time.
    fn by_the_book(key: &[u64], block: &[u8]) -> u128 {
        let word = |at: usize| u64::from_le_bytes(block[8 * at..8 * at + 8].try_into().unwrap());
        (0..WORDS / 2).fold(0, |sum, pair| {
            let a = word(2 * pair).wrapping_add(key[2 * pair]);
            let b = word(2 * pair + 1).wrapping_add(key[2 * pair + 1]);
            sum.wrapping_add(u128::from(a) * u128::from(b))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn a_name_is_nh_under_the_key_and_under_the_shifted_key(seed in any::<u64>(), fill in any::<u8>(), at in 0..BLOCK) {
            let secret = Secret::draw().unwrap();
            let mut block = [fill; BLOCK];
            block[at] = block[at].wrapping_add(1);
            block[..8].copy_from_slice(&seed.to_le_bytes());
            let name = secret.name(&block).0;
            prop_assert_eq!(&name[..16], &by_the_book(&secret.0[..WORDS], &block).to_le_bytes());
            prop_assert_eq!(&name[16..], &by_the_book(&secret.0[SHIFT..], &block).to_le_bytes());
        }
    }

    #[test]
    fn one_byte_anywhere_makes_another_name_and_another_key_too() {
        let (secret, other) = (Secret::draw().unwrap(), Secret::draw().unwrap());
        let mut names = std::collections::HashSet::new();
        for at in 0..BLOCK {
            let mut block = [0; BLOCK];
            block[at] = 1;
            assert!(names.insert(secret.name(&block).0) && names.insert(other.name(&block).0), "{at}");
        }
    }
}
