//! Images of any bytes: an error or a disk, but no panic, no hang, and no more memory than an image can ask for.
//!
//! This is the run of every day; `cargo +nightly fuzz run selfie` in `devices` goes on from here without end.
//! `SKY_NIGHTLY=1` tries a hundred times as many.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod image;
mod memory;

use proptest::prelude::*;

/// Bytes that the use of one image may take at once. What is in it can ask for some: 64 KiB for a table, 4 MiB for the
/// disk's content that is read here, a few for the tables of a disk of 64 TiB.
const MEMORY: usize = 64 << 20;
/// Some five seconds.
const CASES: u32 = 1500;

fn cases() -> u32 {
    if std::env::var_os("SKY_NIGHTLY").is_some() { CASES * 100 } else { CASES }
}

/// A change: numbers that mean something are tried more often than others.
fn record() -> impl Strategy<Value = Vec<u8>> {
    let value = prop_oneof![
        any::<u8>().prop_map(|byte| vec![byte]),
        any::<u64>().prop_map(|value| value.to_le_bytes().to_vec()),
        (0..64u32).prop_map(|shift| (1u64 << shift).to_le_bytes().to_vec()),
        Just(vec![0xff; 8]),
        Just(vec![0; 16]),
        proptest::collection::vec(any::<u8>(), 0..255),
    ];
    let at =
        prop_oneof![0..256u32, 0..4096u32, (0..64u32, 0..64u32).prop_map(|(cluster, at)| cluster << 16 | at)];
    (any::<u8>(), at, value).prop_map(|(region, at, value)| {
        let [a, b, c, _] = at.to_le_bytes();
        let length = u8::try_from(value.len()).unwrap();
        [&[region, a, b, c, length], &value[..]].concat()
    })
}

/// Sizes of files up to a GiB mostly: each of their zones may have to be looked at.
fn size() -> impl Strategy<Value = u8> {
    prop_oneof![8 => Just(0), 4 => 0..0x60u8, 1 => 0x60..=255u8]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_used_or_refused(
        flags in 0..64u8,
        size in size(),
        records in proptest::collection::vec(record(), 0..6),
    ) {
        let data = [vec![flags, size], records.concat()].concat();
        let (_, peak) = memory::peak(|| image::run(&data));
        prop_assert!(peak < MEMORY, "{peak} bytes");
    }
}

/// What the target starts from works, or it would find nothing.
#[test]
fn images_that_nobody_has_changed_are_used() {
    use image::{BACKED, CLOSED, SEAL_L1, SEAL_SUPERBLOCKS, SEAL_ZONES};
    for state in [0, BACKED, CLOSED, BACKED | CLOSED] {
        for sealed in [0, SEAL_SUPERBLOCKS | SEAL_ZONES | SEAL_L1] {
            assert!(image::run(&[state | sealed, 0]), "{state} {sealed}");
        }
    }
    assert!(!image::run(&[image::EMPTY, 0]));
}

/// Recovery looks at the headers of all zones that an image says it has, but not at once.
#[test]
fn many_zones_to_look_at_take_little_memory() {
    let (clean, peak) = memory::peak(|| image::many_zones(4096));
    assert!(!clean);
    assert!(peak < MEMORY, "{peak} bytes");
}
