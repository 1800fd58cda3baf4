//! How much memory the tables of blocks take: alone in its process, since everything that is allocated counts.

use std::alloc::System;
use std::sync::Arc;

use cap::Cap;
use sky::config::Insight;
use sky::insight::{BlockIndex, Origin, Writer};
use sky_devices::io_class::{Classifier, IoClass, Source};

#[global_allocator]
static ALLOCATED: Cap<System> = Cap::new(System, usize::MAX);

const BLOCKS: u64 = 1_000_000;
const FILES: u64 = 60_000;
/// What as many blocks may take at most.
const LIMIT: usize = 64 << 20;

/// The n-th number of an order in which all come once and neighbours are far apart: 7,919 is prime.
fn shuffled(number: u64) -> u64 {
    number * 7919 % BLOCKS
}

/// Has every block written, and brought to a disk if so, and looks at how many bytes the index has then.
fn written(
    what: &str,
    (copied, and_stored): (bool, bool),
    place: impl Fn(u64) -> (usize, u64),
    content: impl Fn(u64) -> u64,
) {
    let before = ALLOCATED.allocated();
    let index = Arc::new(BlockIndex::new(&Insight { pending_blocks: 1 << 20, ..Insight::default() }));
    let files: Vec<_> = (0..FILES).map(|number| index.add_file(&format!("/f/{number}"))).collect();
    let names = ALLOCATED.allocated() - before;
    let writer = Some(Arc::new(Writer { pid: 1, name: "writer".into() }));
    let path: Arc<str> = "/original".into();
    let mut block = [7; 4096];
    for number in 0..BLOCKS {
        let (file, offset) = place(number);
        let source = Source { path: Arc::clone(&path), file_size: 1 << 40, offset: offset + 8192 };
        let origin =
            Origin { writer: writer.clone(), copied_from: copied.then_some(source), ..Origin::default() };
        block[..8].copy_from_slice(&content(number).to_le_bytes());
        index.wrote_block(files[file], offset, &block, &origin);
    }
    assert_eq!(index.counts().pending, BLOCKS);
    let pending = ALLOCATED.allocated() - before - names;
    println!("{what}: {pending} bytes on their way");
    assert!(pending <= LIMIT, "{what}: {pending}");
    if !and_stored {
        return;
    }
    let disk = index.disk(0);
    for number in 0..BLOCKS {
        block[..8].copy_from_slice(&content(number).to_le_bytes());
        assert_eq!(disk.classify_write(shuffled(number) * 4096, &block, None).class, IoClass::Data);
    }
    let counts = index.counts();
    assert_eq!((counts.pending, counts.known, counts.forgotten_origins), (0, BLOCKS, 0));
    // The table of those on their way keeps its room.
    let known = ALLOCATED.allocated() - before - names - pending;
    println!("{what}: {known} bytes on a disk");
    assert!(known <= LIMIT, "{what}: {known}");
}

#[test]
fn a_million_blocks_take_64_mib() {
    written("a copy", (true, false), |number| (0, number * 4096), |number| number);
    written("all the same", (false, false), |number| (0, shuffled(number) * 4096), |_| 0);
    let file = |number| usize::try_from(shuffled(number) % FILES).unwrap_or_default();
    let spread = |number| (file(number), shuffled(number) / FILES * 4096);
    written("many files, in disorder", (false, true), spread, |number| number);
}
