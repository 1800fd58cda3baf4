//! Several threads on one image: each has blocks of its own, in all regions, and writes what others write, too. Meanwhile
//! garbage is collected.

use std::sync::Arc;
use std::thread;

use sky_devices::block::simulated::Random;
use sky_devices::block::{BlockDevice, Storage};
use sky_devices::idedup::{CreateOptions, Idedup, OpenOptions, Reread, check};

use super::disk::{BLOCK, block, cases, made, open};

const THREADS: u64 = 4;
const BLOCKS: u64 = 400;

/// Works with every fourth block of the disk, and says what is there in the end.
fn work(image: &Idedup, number: u64, seed: u64) -> Vec<(u64, Option<u64>)> {
    let mut random = Random::new(seed << 8 | number);
    let mut held = vec![None; usize::try_from(BLOCKS / THREADS).unwrap()];
    let mut bytes = vec![0; BLOCK];
    for _ in 0..300 {
        let at = random.below(BLOCKS / THREADS);
        let offset = (at * THREADS + number) * BLOCK as u64;
        let mine = &mut held[usize::try_from(at).unwrap()];
        match random.below(10) {
            0..=5 => {
                let content = random.below(40);
                image.write(offset, &block(content), &[]).unwrap();
                *mine = Some(content);
            }
            6 => {
                image.discard(offset, BLOCK as u64).unwrap();
                *mine = None;
            }
            7 => image.flush().unwrap(),
            _ => {
                image.read(offset, &mut bytes, &[]).unwrap();
                assert!(bytes == mine.map_or(vec![0; BLOCK], block));
            }
        }
    }
    (number..).step_by(4).zip(held).collect()
}

#[test]
fn nobody_sees_what_others_wrote() {
    for seed in 0..u64::from(cases(6)) {
        // So few blocks that those which are freed are used again soon.
        let capacity = Some((BLOCKS + 8) * BLOCK as u64);
        let options =
            CreateOptions { capacity, journal: 64 << 10, ..CreateOptions::new(BLOCKS * BLOCK as u64) };
        let disk = made(&options);
        let image = open(&disk, OpenOptions { index_memory: 0, ..OpenOptions::default() });
        let held: Vec<_> = thread::scope(|scope| {
            let image = &image;
            let threads: Vec<_> =
                (0..THREADS).map(|number| scope.spawn(move || work(image, number, seed))).collect();
            // The free blocks that it sets aside are missed by nobody.
            for _ in 0..8 {
                image.collect(Reread::Everything, &mut |_| true).unwrap();
            }
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        image.close().unwrap();
        let report = check(&(Arc::clone(&disk) as Arc<dyn Storage>)).unwrap();
        let mapped = held.iter().filter(|(_, content)| content.is_some()).count();
        assert!(report.is_clean() && report.mapped_blocks == mapped as u64, "{report:?}");
        assert_eq!(report.used_blocks + report.free_blocks, BLOCKS + 8);
        let image = open(&disk, OpenOptions::default());
        let mut bytes = vec![0; BLOCK];
        for (at, content) in held {
            image.read(at * BLOCK as u64, &mut bytes, &[]).unwrap();
            assert!(bytes == content.map_or(vec![0; BLOCK], block), "block {at}");
        }
    }
}
