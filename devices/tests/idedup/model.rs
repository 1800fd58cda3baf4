//! Any requests, compared with plain memory; and what the image takes, compared with a set of blocks.

use std::collections::HashSet;
use std::sync::Arc;

use proptest::prelude::*;
use sky_devices::block::{BlockDevice, Storage};
use sky_devices::idedup::{CreateOptions, OpenOptions, Verify, check};

use super::disk::{BLOCK, block, cases, made, open};

const BLOCKS: usize = 150;
const SECTOR: usize = 512;

#[derive(Clone, Debug)]
enum Step {
    /// Blocks of few contents, from a sector on, as many sectors.
    Write {
        sector: usize,
        sectors: usize,
        content: u64,
    },
    Zero {
        sector: usize,
        sectors: usize,
        discard: bool,
    },
    Read {
        sector: usize,
        sectors: usize,
    },
    Flush,
    Close,
}

fn step(sectors: usize) -> impl Strategy<Value = Step> {
    let range = (0..sectors, prop_oneof![1..9usize, Just(8), Just(64), 1..700usize], any::<bool>());
    let range = range.prop_map(move |(at, count, whole)| {
        let at = if whole { at / 8 * 8 } else { at };
        let count = if whole { count.next_multiple_of(8) } else { count };
        (at, count.min(sectors - at))
    });
    prop_oneof![
        8 => (range.clone(), 0..12u64)
            .prop_map(|((sector, sectors), content)| Step::Write { sector, sectors, content }),
        2 => (range.clone(), any::<bool>())
            .prop_map(|((sector, sectors), discard)| Step::Zero { sector, sectors, discard }),
        2 => range.prop_map(|(sector, sectors)| Step::Read { sector, sectors }),
        1 => Just(Step::Flush),
        1 => Just(Step::Close),
    ]
}

/// Does all of it. Answers how many blocks the image takes, how many different ones there are, and how many that are
/// not zeros.
fn run(create: &CreateOptions, options: OpenOptions, steps: &[Step]) -> (u64, u64, u64) {
    let disk = made(create);
    let mut image = open(&disk, options);
    let mut model = vec![0; usize::try_from(create.size).unwrap()];
    for step in steps {
        match *step {
            Step::Write { sector, sectors, content } => {
                let range = sector * SECTOR..(sector + sectors) * SECTOR;
                let contents: Vec<Vec<u8>> = (content..content + 3).map(block).collect();
                for at in range.clone() {
                    model[at] = contents[(at / BLOCK) % 3][at % BLOCK];
                }
                image.write((sector * SECTOR) as u64, &model[range], &[]).unwrap();
            }
            Step::Zero { sector, sectors, discard } => {
                let (offset, length) = ((sector * SECTOR) as u64, (sectors * SECTOR) as u64);
                model[sector * SECTOR..(sector + sectors) * SECTOR].fill(0);
                if discard {
                    image.discard(offset, length).unwrap();
                } else {
                    image.write_zeroes(offset, length, true).unwrap();
                }
            }
            Step::Read { sector, sectors } => {
                let mut bytes = vec![1; sectors * SECTOR];
                image.read((sector * SECTOR) as u64, &mut bytes, &[]).unwrap();
                assert!(bytes == model[sector * SECTOR..][..bytes.len()]);
            }
            Step::Flush => image.flush().unwrap(),
            Step::Close => {
                image.close().unwrap();
                let report = check(&(Arc::clone(&disk) as Arc<dyn Storage>)).unwrap();
                assert!(report.is_clean(), "{report:?}");
                image = open(&disk, options);
            }
        }
    }
    let mut bytes = vec![1; model.len()];
    image.read(0, &mut bytes, &[]).unwrap();
    assert!(bytes == model);
    model.resize(model.len().next_multiple_of(BLOCK), 0);
    let there: Vec<&[u8]> = model.chunks(BLOCK).filter(|block| block.iter().any(|&byte| byte != 0)).collect();
    let different: HashSet<&[u8]> = there.iter().copied().collect();
    let stats = image.stats();
    assert_eq!(stats.mapped_blocks, there.len() as u64);
    (stats.used_blocks, different.len() as u64, there.len() as u64)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(40), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_disk_is_what_was_written_and_takes_one_block_for_equal_ones(
        compare in any::<bool>(),
        hints in any::<bool>(),
        cut in 0..8usize,
        steps in proptest::collection::vec(step(BLOCKS * 8 - 8), 1..60),
    ) {
        let size = (BLOCKS * BLOCK - cut * SECTOR) as u64;
        let verify = if compare { Verify::Compare { bits: 128 } } else { Verify::Fingerprint };
        let create = CreateOptions { verify, journal: 64 << 10, ..CreateOptions::new(size) };
        let hints = OpenOptions::default().hints.filter(|_| hints);
        let (used, different, _) = run(&create, OpenOptions { hints, ..OpenOptions::default() }, &steps);
        prop_assert_eq!(used, different);
    }

    #[test]
    fn colliding_fingerprints_cross_no_blocks(
        bits in 1..6u8,
        threshold in 0..4u32,
        steps in proptest::collection::vec(step(BLOCKS * 8), 1..60),
    ) {
        let size = (BLOCKS * BLOCK) as u64;
        let verify = Verify::Compare { bits };
        let create = CreateOptions { verify, ..CreateOptions::new(size) };
        let options = OpenOptions { threshold, index_memory: 0, ..OpenOptions::default() };
        let (used, different, there) = run(&create, options, &steps);
        prop_assert!((different..=there).contains(&used));
    }
}
