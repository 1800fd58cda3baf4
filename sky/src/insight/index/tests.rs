//! The index against its own story, and against a model that remembers everything.

use proptest::prelude::*;

use super::*;

fn block(content: u8) -> Vec<u8> {
    (0..BLOCK_SIZE).map(|at| content ^ at.to_le_bytes()[0]).collect()
}

#[test]
fn a_written_block_is_recognised_once_and_wherever_it_lands() {
    let index = BlockIndex::new(100);
    let file = index.add_file("/data/a");
    index.wrote_block(file, 8192, &block(1));
    index.wrote(file, 4096, 12288);
    let tag = index.classify_write(40960, &block(1));
    assert_eq!(tag.class, IoClass::Data);
    assert_eq!(tag.source, Some(Source { path: "/data/a".into(), file_size: 12288, offset: 8192 }));
    assert_eq!(
        index.classify_write(0, &block(1)),
        IoTag::default(),
        "somebody else's block with that content"
    );
    assert_eq!(index.classify_write(40960, &block(1)).class, IoClass::Data, "the same page written again");
    assert_eq!(index.classify_read(40960).class, IoClass::Data);
    assert_eq!(index.classify_read(0).class, IoClass::Unknown);
}

#[test]
fn a_rewritten_block_is_no_longer_expected() {
    let index = BlockIndex::new(100);
    let file = index.add_file("/a");
    index.wrote_block(file, 0, &block(1));
    index.wrote_block(file, 0, &block(2));
    assert_eq!(index.classify_write(0, &block(1)).class, IoClass::Unknown);
    assert_eq!(index.classify_write(0, &block(2)).class, IoClass::Data);
    assert_eq!(index.counts(), BlockCounts { data: 1, unknown: 1, superseded: 1, ..BlockCounts::default() });
}

#[test]
fn equal_blocks_of_two_files_are_each_recognised() {
    let index = BlockIndex::new(100);
    let (a, b) = (index.add_file("/a"), index.add_file("/b"));
    index.wrote_block(a, 0, &block(1));
    index.wrote_block(b, 0, &block(1));
    for at in [0, 4096] {
        assert_eq!(index.classify_write(at, &block(1)).class, IoClass::Data);
    }
    assert_eq!(index.files().iter().map(|file| file.matched).collect::<Vec<_>>(), [1, 1]);
}

#[test]
fn discards_and_failed_writes_are_forgotten() {
    let index = BlockIndex::new(100);
    let file = index.add_file("/a");
    for number in 0..4u8 {
        index.wrote_block(file, u64::from(number) * 4096, &block(number));
        index.classify_write(u64::from(number) * 4096, &block(number));
    }
    index.discarded(4096, 4096);
    index.discarded(12288, u64::MAX);
    let classes: Vec<IoClass> = (0..4).map(|number| index.classify_read(number * 4096).class).collect();
    assert_eq!(classes, [IoClass::Data, IoClass::Unknown, IoClass::Data, IoClass::Unknown]);
    index.wrote_block(file, 0, &block(9));
    index.forget_block(file, 0);
    assert_eq!(index.classify_write(0, &block(9)).class, IoClass::Unknown);
}

#[test]
fn pieces_of_blocks_are_unknown() {
    let index = BlockIndex::new(100);
    let file = index.add_file("/a");
    index.wrote_block(file, 0, &block(1));
    assert_eq!(index.classify_write(0, &block(1)[..512]).class, IoClass::Unknown);
}

#[derive(Clone, Debug)]
enum Step {
    Write { offset: u64, content: u8 },
    Disk { offset: u64, content: u8 },
    Discard { offset: u64, blocks: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..6u64, 0..4u8).prop_map(|(offset, content)| Step::Write { offset: offset * 4096, content }),
        (0..6u64, 0..4u8).prop_map(|(offset, content)| Step::Disk { offset: offset * 4096, content }),
        (0..6u64, 0..9u64).prop_map(|(offset, blocks)| Step::Discard { offset: offset * 4096, blocks }),
    ]
}

proptest! {
    /// One file: the class of every disk write is what plain lists say.
    #[test]
    fn agrees_with_a_naive_model(steps in proptest::collection::vec(step(), 1..80)) {
        let index = BlockIndex::new(1000);
        let file = index.add_file("/a");
        let mut pending: Vec<(u64, u8)> = Vec::new();
        let mut disk: Vec<(u64, u8)> = Vec::new();
        for step in steps {
            match step {
                Step::Write { offset, content } => {
                    if !pending.contains(&(offset, content)) {
                        pending.retain(|entry| entry.0 != offset);
                        pending.push((offset, content));
                    }
                    index.wrote_block(file, offset, &block(content));
                }
                Step::Disk { offset, content } => {
                    let known = if let Some(at) = pending.iter().position(|entry| entry.1 == content) {
                        pending.remove(at);
                        true
                    } else {
                        disk.contains(&(offset, content))
                    };
                    disk.retain(|entry| entry.0 != offset);
                    if known {
                        disk.push((offset, content));
                    }
                    let class = index.classify_write(offset, &block(content)).class;
                    prop_assert_eq!(class == IoClass::Data, known);
                }
                Step::Discard { offset, blocks } => {
                    disk.retain(|entry| entry.0 < offset || entry.0 >= offset + blocks * 4096);
                    index.discarded(offset, blocks * 4096);
                }
            }
            prop_assert_eq!(index.counts().pending, pending.len() as u64);
        }
    }

    /// However much is written, the tables stay within their limit.
    #[test]
    fn tables_stay_within_their_limit(limit in 1usize..20, writes in proptest::collection::vec((0..50u64, any::<u8>()), 1..400)) {
        let index = BlockIndex::new(limit);
        let file = index.add_file("/a");
        for (number, content) in writes {
            index.wrote_block(file, number * 4096, &block(content));
            index.classify_write(number * 4096, &block(content.wrapping_add(1)));
            let inner = index.lock();
            prop_assert!(inner.by_place.len() <= limit && inner.on_disk.len() <= limit);
            prop_assert!(inner.order.len() <= 2 * inner.by_place.len() + 1025);
            let listed: usize = inner.by_content.values().map(Vec::len).sum();
            prop_assert_eq!(listed, inner.by_place.len());
        }
    }
}
