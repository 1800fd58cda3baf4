//! What hints save, by the counters of the image and of the disk below.

use std::sync::Arc;

use sky_devices::block::BlockDevice;
use sky_devices::idedup::{CreateOptions, Hints, OpenOptions, Stats, Unique};
use sky_devices::io_class::{IoTag, Source, Unique as Tagged};

use super::disk::{BLOCK, block, blocks, made, open};

/// Blocks of the file.
const FILE: u64 = 3000;
const FILE_BYTES: u64 = FILE * BLOCK as u64;

fn source(number: u64) -> Source {
    Source { path: Arc::from("/a"), file_size: FILE_BYTES, offset: number * BLOCK as u64 }
}

/// Copies a file of unlike blocks, which was written before the image was opened, with memory for a tenth of the index.
fn copy(hints: Option<Hints>) -> (Stats, u64) {
    let disk = made(&CreateOptions::new(4 * FILE_BYTES));
    let image = open(&disk, OpenOptions::default());
    image.write(0, &blocks(0..FILE), &[]).unwrap();
    image.close().unwrap();
    let image = open(&disk, OpenOptions { hints, index_memory: 0, ..OpenOptions::default() });
    let before = disk.counts().reads;
    let mut buffer = vec![0; 32 * BLOCK];
    for at in (0..FILE).step_by(32) {
        let count = usize::try_from((FILE - at).min(32)).unwrap();
        let bytes = &mut buffer[..count * BLOCK];
        image.read(at * BLOCK as u64, bytes, &[]).unwrap();
        let tags: Vec<IoTag> = (at..)
            .take(count)
            .map(|number| IoTag { copied_from: Some(source(number)), ..IoTag::default() })
            .collect();
        image.write(FILE_BYTES + at * BLOCK as u64, bytes, &tags).unwrap();
    }
    image.flush().unwrap();
    let mut bytes = vec![0; usize::try_from(FILE_BYTES).unwrap()];
    image.read(FILE_BYTES, &mut bytes, &[]).unwrap();
    assert!(bytes == blocks(0..FILE));
    let stats = image.stats();
    assert_eq!((stats.mapped_blocks, stats.used_blocks), (2 * FILE, FILE));
    assert_eq!(stats.saved_bytes(), FILE_BYTES);
    (stats, disk.counts().reads - before)
}

#[test]
fn a_copy_of_what_was_read_asks_no_index() {
    let (hinted, reads) = copy(Some(Hints::default()));
    assert_eq!((hinted.answered_recent, hinted.answered_copies), (FILE, FILE));
    assert_eq!((hinted.index_reads, hinted.answered_disk), (0, 0));
    let (plain, more_reads) = copy(None);
    assert_eq!((plain.answered_recent, plain.duplicate_blocks), (0, FILE));
    assert!(plain.answered_disk > FILE / 2 && more_reads > reads + FILE / 2, "{plain:?}");
}

#[test]
fn a_copy_of_what_was_just_written_asks_no_index_if_its_file_is_known() {
    let disk = made(&CreateOptions::new(4 * FILE_BYTES));
    let image = open(&disk, OpenOptions { index_memory: 0, ..OpenOptions::default() });
    let write = |from: u64, tag: &dyn Fn(u64) -> IoTag| {
        let tags: Vec<IoTag> = (0..FILE).map(tag).collect();
        image.write(from, &blocks(0..FILE), &tags).unwrap();
    };
    write(0, &|number| IoTag { source: Some(source(number)), ..IoTag::default() });
    let before = image.stats();
    write(FILE_BYTES, &|number| IoTag { copied_from: Some(source(number)), ..IoTag::default() });
    let after = image.stats();
    assert_eq!(after.answered_copies, FILE);
    assert_eq!(after.index_reads, before.index_reads);
}

#[test]
fn what_is_unique_touches_no_index_and_comes_back() {
    let signals = [
        Tagged { program: true, ..Tagged::default() },
        Tagged { extension: true, ..Tagged::default() },
        Tagged { entropy: true, ..Tagged::default() },
    ];
    for (number, unique) in signals.into_iter().enumerate() {
        for follow in [false, true] {
            let all = Unique { program: follow, extension: follow, entropy: follow };
            let hints = Hints { unique: all, ..Hints::default() };
            let disk = made(&CreateOptions::new(FILE_BYTES));
            let image = open(&disk, OpenOptions { hints: Some(hints), ..OpenOptions::default() });
            let tags = vec![IoTag { unique, ..IoTag::default() }; 100];
            image.write(0, &blocks(0..100), &tags).unwrap();
            image.flush().unwrap();
            let stats = image.stats();
            let looked_up = stats.answered_filter + stats.answered_disk;
            assert_eq!(
                (stats.unique_blocks, looked_up),
                if follow { (100, 0) } else { (0, 100) },
                "{number}"
            );
            let mut bytes = vec![0; 100 * BLOCK];
            image.close().unwrap();
            let image = open(&disk, OpenOptions { hints: None, ..OpenOptions::default() });
            image.read(0, &mut bytes, &[]).unwrap();
            assert!(bytes == blocks(0..100));
            image.write(200 * BLOCK as u64, &block(5), &[]).unwrap();
            assert_eq!(image.stats().duplicate_blocks, u64::from(!follow));
        }
    }
    let followed = Hints::default().unique;
    assert!(followed.program && followed.extension && !followed.entropy);
}

#[test]
fn duplicates_below_the_threshold_are_stored_again() {
    let disk = made(&CreateOptions::new(FILE_BYTES));
    let image = open(&disk, OpenOptions { threshold: 4, ..OpenOptions::default() });
    image.write(0, &blocks(0..8), &[]).unwrap();
    // Three in a row, one that is new, one alone, five in a row.
    let second = [blocks(0..3), block(90), block(4), block(3), blocks(4..8)].concat();
    image.write(64 * BLOCK as u64, &second, &[]).unwrap();
    let stats = image.stats();
    assert_eq!((stats.duplicate_blocks, stats.below_threshold), (5, 4));
    let mut bytes = vec![0; second.len()];
    image.read(64 * BLOCK as u64, &mut bytes, &[]).unwrap();
    assert!(bytes == second);
}
