//! Signals that a block is like no other, so that looking for its like is wasted: who wrote it, what its file is
//! called, and what it looks like.

use std::sync::LazyLock;

use serde::Serialize;
use sky_devices::io_class::{BLOCK_SIZE, Unique};

/// What counts as a signal. Section 4.2 of the Sky paper has the first two.
#[derive(Clone, Debug, PartialEq)]
pub struct UniqueRules {
    /// Programs that encrypt, by the names that Linux keeps of them (15 bytes).
    pub programs: Vec<String>,
    /// Extensions of encrypted files, without the dot.
    pub extensions: Vec<String>,
    /// From so many bits of entropy for each byte on a block looks encrypted, or compressed; 0 to 8. Random bytes have 7.955
    /// in a block, less than 8 because there are only 4096 of them.
    pub entropy: f64,
}

impl Default for UniqueRules {
    fn default() -> Self {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Self {
            programs: owned(&["gpg", "openssl", "age", "rage", "ccrypt", "mcrypt", "scrypt"]),
            extensions: owned(&["gpg", "pgp", "age", "aes", "enc", "cpt", "nc", "scrypt"]),
            entropy: 7.9,
        }
    }
}

/// Blocks with each signal. A block may have several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UniqueCounts {
    /// Written by a program that encrypts.
    pub program: u64,
    /// Of a file with the extension of encrypted ones.
    pub extension: u64,
    /// That look encrypted or compressed.
    pub entropy: u64,
}

impl UniqueCounts {
    pub(super) fn add(&mut self, unique: Unique) {
        self.program += u64::from(unique.program);
        self.extension += u64::from(unique.extension);
        self.entropy += u64::from(unique.entropy);
    }
}

impl UniqueRules {
    /// The signals of a block.
    pub(super) fn signals(&self, program: Option<&str>, path: Option<&str>, block: &[u8]) -> Unique {
        let name = path.and_then(|path| path.rsplit('/').next());
        let extension = name.and_then(|name| name.rsplit_once('.')).map(|(_, extension)| extension);
        Unique {
            program: program.is_some_and(|program| self.programs.iter().any(|name| name == program)),
            extension: extension
                .is_some_and(|name| self.extensions.iter().any(|other| other.eq_ignore_ascii_case(name))),
            entropy: f64::from(entropy(block)) >= self.entropy,
        }
    }
}

/// Shannon's entropy of a block's bytes, in bits for each byte.
fn entropy(block: &[u8]) -> f32 {
    /// `n * log2(n)`.
    static TERMS: LazyLock<Vec<f32>> = LazyLock::new(|| {
        let term = |count: u16| f32::from(count) * f32::from(count).log2();
        (0..=4096).map(|count| if count == 0 { 0.0 } else { term(count) }).collect()
    });
    let Some(block) = block.first_chunk::<BLOCK_SIZE>() else { return 0.0 };
    // Four tables: equal bytes in a row would wait for each other.
    let mut counts = [[0u16; 256]; 4];
    for bytes in block.as_chunks::<4>().0 {
        for (table, &byte) in counts.iter_mut().zip(bytes) {
            table[usize::from(byte)] += 1;
        }
    }
    let count = |byte: usize| counts.iter().map(|table| usize::from(table[byte])).sum::<usize>();
    let sum: f32 = (0..256).filter_map(|byte| TERMS.get(count(byte))).sum();
    12.0 - sum / 4096.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As the definition has it.
    fn naive(block: &[u8]) -> f64 {
        let length = f64::from(u32::try_from(block.len()).unwrap());
        (0..=255u8)
            .map(|byte| {
                f64::from(u32::try_from(block.iter().filter(|&&other| other == byte).count()).unwrap())
            })
            .filter(|&count| count > 0.0)
            .map(|count| -(count / length) * (count / length).log2())
            .sum()
    }

    #[test]
    fn signals_are_told_apart() {
        let rules = UniqueRules::default();
        let text: Vec<u8> = "It was a dark and stormy night. ".bytes().cycle().take(BLOCK_SIZE).collect();
        let signals = |program, path| rules.signals(program, path, &text);
        assert_eq!(signals(Some("gpg"), Some("/a/b")), Unique { program: true, ..Unique::default() });
        assert_eq!(signals(Some("cp"), Some("/a/b.GPG")), Unique { extension: true, ..Unique::default() });
        assert_eq!(signals(None, Some("/a.gpg/b")), Unique::default(), "a directory's name");
        assert_eq!(signals(None, None), Unique::default());
        assert_eq!(rules.signals(None, None, &[0; 512]), Unique::default(), "no whole block");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn entropy_is_what_the_definition_says(seed: u64, values in 1u64..=256) {
            let mut state = seed;
            let block: Vec<u8> = (0..BLOCK_SIZE)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    u8::try_from((state >> 33) % values).unwrap()
                })
                .collect();
            let ours = f64::from(entropy(&block));
            prop_assert!((ours - naive(&block)).abs() < 0.001, "{ours} {}", naive(&block));
            if values == 256 {
                prop_assert!(UniqueRules::default().signals(None, None, &block).entropy);
            }
        }
    }
}
