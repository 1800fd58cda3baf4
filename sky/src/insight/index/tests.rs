//! The index against its own story, and against a model that remembers everything.

use proptest::prelude::*;
use sky_devices::io_class::{Classifier, IoClass, IoTag, Unique};

use super::*;
use crate::insight::UniqueCounts;

fn block(content: u8) -> Vec<u8> {
    (0..BLOCK_SIZE).map(|at| content ^ at.to_le_bytes()[0]).collect()
}

fn tables(limit: usize) -> (Arc<BlockIndex>, DiskBlocks) {
    let index = Arc::new(BlockIndex::new(&Insight { pending_blocks: limit, ..Insight::default() }));
    let disk = index.disk(0);
    (index, disk)
}

#[test]
fn a_written_block_is_recognised_once_and_wherever_it_lands() {
    let (index, disk) = tables(100);
    let file = index.add_file("/data/a");
    index.wrote_block(file, 8192, &block(1), &Origin::default());
    index.wrote(file, 4096, 12288);
    let tag = disk.classify_write(40960, &block(1), None);
    assert_eq!(tag.class, IoClass::Data);
    assert_eq!(tag.source, Some(Source { path: "/data/a".into(), file_size: 12288, offset: 8192 }));
    assert_eq!(
        disk.classify_write(0, &block(1), None),
        IoTag::default(),
        "somebody else's block with that content"
    );
    assert_eq!(
        disk.classify_write(40960, &block(1), None).class,
        IoClass::Data,
        "the same page written again"
    );
    assert_eq!(disk.classify_read(40960, None).class, IoClass::Data);
    assert_eq!(disk.classify_read(0, None).class, IoClass::Unknown);
}

#[test]
fn a_rewritten_block_is_no_longer_expected() {
    let (index, disk) = tables(100);
    let file = index.add_file("/a");
    index.wrote_block(file, 0, &block(1), &Origin::default());
    index.wrote_block(file, 0, &block(2), &Origin::default());
    assert_eq!(disk.classify_write(0, &block(1), None).class, IoClass::Unknown);
    assert_eq!(disk.classify_write(0, &block(2), None).class, IoClass::Data);
    let counts = index.counts();
    assert_eq!((counts.data, counts.unknown, counts.superseded, counts.pending), (1, 1, 1, 0));
}

#[test]
fn equal_blocks_of_two_files_are_each_recognised() {
    let (index, disk) = tables(100);
    let (a, b) = (index.add_file("/a"), index.add_file("/b"));
    index.wrote_block(a, 0, &block(1), &Origin::default());
    index.wrote_block(b, 0, &block(1), &Origin::default());
    for at in [0, 4096] {
        assert_eq!(disk.classify_write(at, &block(1), None).class, IoClass::Data);
    }
    assert_eq!(index.files().iter().map(|file| file.matched).collect::<Vec<_>>(), [1, 1]);
}

#[test]
fn discards_and_failed_writes_are_forgotten() {
    let (index, disk) = tables(100);
    let file = index.add_file("/a");
    for number in 0..4u8 {
        index.wrote_block(file, u64::from(number) * 4096, &block(number), &Origin::default());
        disk.classify_write(u64::from(number) * 4096, &block(number), None);
    }
    disk.discarded(4096, 4096);
    disk.discarded(12288, u64::MAX);
    let classes: Vec<IoClass> = (0..4).map(|number| disk.classify_read(number * 4096, None).class).collect();
    assert_eq!(classes, [IoClass::Data, IoClass::Unknown, IoClass::Data, IoClass::Unknown]);
    index.wrote_block(file, 0, &block(9), &Origin::default());
    index.take_back_block(file, 0, None);
    assert_eq!(disk.classify_write(0, &block(9), None).class, IoClass::Unknown);
}

#[test]
fn pieces_of_blocks_are_unknown() {
    let (index, disk) = tables(100);
    let file = index.add_file("/a");
    index.wrote_block(file, 0, &block(1), &Origin::default());
    assert_eq!(disk.classify_write(0, &block(1)[..512], None).class, IoClass::Unknown);
}

#[test]
fn disks_are_told_apart() {
    let (index, first) = tables(100);
    let second = index.disk(1);
    let file = index.add_file("/a");
    index.wrote_block(file, 0, &block(1), &Origin::default());
    assert_eq!(first.classify_write(4096, &block(1), None).class, IoClass::Data);
    assert_eq!(second.classify_read(4096, None).class, IoClass::Unknown);
    assert_eq!(second.classify_write(4096, &block(1), None).class, IoClass::Unknown);
    second.discarded(0, u64::MAX);
    assert_eq!(first.classify_read(4096, None).class, IoClass::Data);
}

/// Every fact that the index knows reaches the policy, and the class goes with the block: for reads, too.
#[test]
fn the_policy_gives_the_class() {
    let policy = Policy::parse(
        "IO class id,IO class name,Eviction priority,Allocation
0,unclassified,9,1.00
1,directory:/data&file_size:lt:1000000,1,1.00
2,process_name:writer&pid:7,1,1.00
3,direct,1,1.00
4,file_offset:4096&io_direction:read,1,1.00
5,lba:ge:800&core_id:3,1,1.00
9,hint:77,1,1.00
",
    )
    .unwrap();
    let index = Arc::new(BlockIndex::new(&Insight { policy, ..Insight::default() }));
    let disk = index.disk(3);
    let writer = Some(Arc::new(Writer { pid: 7, name: "writer".into() }));
    let (data, other) = (index.add_file("/data/a"), index.add_file("/b"));
    index.wrote(data, 4096, 4096);
    let mut at = 0u64;
    let mut class = |file, offset, origin: Origin| {
        at += 4096;
        let content = block(at.to_le_bytes()[1]);
        index.wrote_block(file, offset, &content, &origin);
        let written = disk.classify_write(at, &content, None).class_id.get();
        (written, disk.classify_read(at, None).class_id.get())
    };
    assert_eq!(class(data, 0, Origin::default()), (1, 1));
    assert_eq!(class(other, 0, Origin::default()), (0, 0));
    assert_eq!(class(other, 8192, Origin { writer: writer.clone(), ..Origin::default() }), (2, 2));
    assert_eq!(
        class(other, 12288, Origin { direct: true, writer: writer.clone(), ..Origin::default() }),
        (3, 3)
    );
    assert_eq!(class(other, 4096, Origin::default()), (0, 4));
    // A hint that is a class's number wins; another one is for the rules.
    assert_eq!(class(data, 4096, Origin { hint: Some(2), ..Origin::default() }), (2, 2));
    assert_eq!(index.files()[0].hinted, 1);
    assert_eq!(
        class(other, 16384, Origin { hint: Some(77), direct: true, writer, copied_from: None }),
        (9, 9)
    );
    assert_eq!(
        disk.classify_write(800 * 512, &block(200), None).class_id.get(),
        5,
        "nobody's block, by its place"
    );
    let blocks: Vec<(u8, u64)> = index.classes().iter().map(|class| (class.id, class.blocks)).collect();
    assert_eq!(blocks, [(0, 2), (1, 1), (2, 2), (3, 1), (4, 0), (5, 1), (9, 1)]);
    assert_eq!(index.classes()[1].name, "directory:/data&file_size:lt:1000000");
}

#[test]
fn a_copy_is_told_and_counted() {
    let (index, disk) = tables(100);
    let file = index.add_file("/copy");
    let source = Source { path: "/original".into(), file_size: 8192, offset: 4096 };
    let origin = Origin { copied_from: Some(source.clone()), ..Origin::default() };
    index.wrote_block(file, 0, &block(1), &origin);
    index.wrote_block(file, 4096, &block(2), &Origin::default());
    assert_eq!(disk.classify_write(0, &block(1), None).copied_from, Some(source.clone()));
    assert_eq!(disk.classify_write(4096, &block(2), None).copied_from, None);
    assert_eq!(disk.classify_read(0, None).copied_from, Some(source));
    assert_eq!((index.counts().data, index.counts().copied, index.files()[0].copied), (2, 1, 1));
}

#[test]
fn what_is_left_over_is_metadata_if_everybody_is_watched() {
    let index = Arc::new(BlockIndex::new(&Insight { assume: Assume::Complete, ..Insight::default() }));
    let disk = index.disk(0);
    let file = index.add_file("/a");
    index.wrote_block(file, 0, &block(1), &Origin::default());
    assert_eq!(disk.classify_write(0, &block(1), None).class, IoClass::Data);
    assert_eq!(disk.classify_write(4096, &block(2), None).class, IoClass::Metadata);
    assert_eq!(disk.classify_read(4096, None).class, IoClass::Metadata);
    assert_eq!(disk.classify_read(8192, None).class, IoClass::Unknown, "nobody has written it");
    // Used for a file now, and free again.
    index.wrote_block(file, 4096, &block(3), &Origin::default());
    assert_eq!(disk.classify_write(4096, &block(3), None).class, IoClass::Data);
    assert_eq!(disk.classify_read(4096, None).class, IoClass::Data);
    disk.classify_write(8192, &block(2), None);
    disk.discarded(0, 12288);
    assert!([0, 4096, 8192].iter().all(|&at| disk.classify_read(at, None).class == IoClass::Unknown));
    assert_eq!((index.counts().metadata, index.counts().unknown), (2, 0));
}

#[test]
fn what_is_like_no_other_block_is_told() {
    let (index, disk) = tables(100);
    let (plain, encrypted) = (index.add_file("/a"), index.add_file("/a.gpg"));
    let by = |name: &str| {
        let writer = Some(Arc::new(Writer { pid: 1, name: name.into() }));
        Origin { writer, ..Origin::default() }
    };
    let zeros = vec![0; BLOCK_SIZE];
    let unique = |program, extension, entropy| Unique { program, extension, entropy };
    for (at, (file, program, content, expected)) in (0u64..).zip([
        (plain, "cp", &zeros, unique(false, false, false)),
        // Each byte as often as any other.
        (plain, "cp", &block(1), unique(false, false, true)),
        (encrypted, "cp", &zeros, unique(false, true, false)),
        (encrypted, "gpg", &block(2), unique(true, true, true)),
    ]) {
        index.wrote_block(file, at * 4096, content, &by(program));
        assert_eq!(disk.classify_write(at * 4096, content, None).unique, expected, "{at}");
        assert_eq!(disk.classify_read(at * 4096, None).unique, expected, "{at}");
    }
    assert_eq!(index.counts().unique, UniqueCounts { program: 1, extension: 2, entropy: 2 });
    assert_eq!(index.files().iter().map(|file| file.encrypted).collect::<Vec<_>>(), [0, 2]);
}

#[test]
fn blocks_live_until_something_ends_them() {
    let (index, disk) = tables(100);
    let file = index.add_file("/a");
    let store = |offset: u64, address: u64, content: u8| {
        index.wrote_block(file, offset, &block(content), &Origin::default());
        assert_eq!(disk.classify_write(address, &block(content), None).class, IoClass::Data);
    };
    (0..6u8).for_each(|at| store(u64::from(at) * 4096, u64::from(at) * 4096, at));
    index.wrote(file, 24576, 24576);
    // The same once more is no end.
    disk.classify_write(0, &block(0), None);
    // In its place, and elsewhere.
    store(0, 0, 10);
    store(0, 40960, 11);
    assert_eq!(disk.classify_read(0, None).class, IoClass::Unknown);
    // Half of the block stays a block.
    index.wrote_block(file, 20480, &block(20), &Origin::default());
    index.resized(file, 18000);
    assert_eq!(index.counts().pending, 0, "it will not come");
    index.punched(file, 4096..8192);
    disk.discarded(8192, 4096);
    index.deleted(file);
    assert!((0..6).all(|at| disk.classify_read(at * 4096, None).class == IoClass::Unknown));
    let [ends] = &index.lifetimes()[..] else { panic!("{:?}", index.lifetimes()) };
    assert_eq!((ends.overwritten, ends.truncated, ends.discarded, ends.deleted), (2, 2, 1, 3));
    assert_eq!(ends.seconds, [8]);
}

#[test]
fn a_renamed_file_is_the_same_file() {
    let (index, disk) = tables(100);
    let file = index.add_file("/a.tmp");
    index.wrote_block(file, 0, &block(1), &Origin::default());
    index.renamed(file, "/a");
    assert_eq!(disk.classify_write(0, &block(1), None).source.unwrap().path.as_ref(), "/a");
    assert_eq!(index.files()[0].path, "/a");
}

fn reader(pid: u32) -> Origin {
    let writer = Some(Arc::new(Writer { pid, name: "reader".into() }));
    Origin { writer, ..Origin::default() }
}

#[test]
fn what_a_process_reads_names_what_the_disk_gave() {
    let (index, disk) = tables(100);
    let file = index.add_file("/a");
    for at in [0, 4096, 8192] {
        disk.was_read(at, &block(at.to_le_bytes()[1] + 1), None);
    }
    disk.was_read(12288, &[0; BLOCK_SIZE], None);
    // Read before it was cached, overwritten since, and discarded.
    index.read_block(file, 40960, &block(99), &reader(1));
    assert_eq!(disk.classify_write(4096, &block(50), None).class, IoClass::Unknown);
    disk.discarded(8192, 4096);
    for at in [0u64, 4096, 8192] {
        index.read_block(file, at, &block(at.to_le_bytes()[1] + 1), &reader(1));
    }
    index.read_block(file, 12288, &[0; BLOCK_SIZE], &reader(1));
    let classes = [0, 4096, 8192, 12288].map(|at| disk.classify_read(at, None).class);
    assert_eq!(classes, [IoClass::Data, IoClass::Unknown, IoClass::Unknown, IoClass::Unknown]);
    assert_eq!(disk.classify_read(0, None).source.unwrap().path.as_ref(), "/a");
    assert_eq!((index.counts().named, index.files()[0].named), (1, 1));
}

/// A copy that nobody monitored has read, on another disk, is not where the file is.
#[test]
fn a_file_that_is_known_is_not_looked_for_elsewhere() {
    let (index, disk) = tables(100);
    let other = index.disk(1);
    let file = index.add_file("/a");
    index.wrote_block(file, 0, &block(1), &Origin::default());
    disk.classify_write(4096, &block(1), None);
    other.was_read(0, &block(1), None);
    index.read_block(file, 0, &block(1), &reader(1));
    assert_eq!(disk.classify_read(4096, None).class, IoClass::Data);
    assert_eq!(other.classify_read(0, None).class, IoClass::Unknown);
    // What has changed meanwhile is.
    index.read_block(file, 0, &block(2), &reader(1));
    other.was_read(4096, &block(3), None);
    index.read_block(file, 0, &block(3), &reader(1));
    assert_eq!(other.classify_read(4096, None).class, IoClass::Data);
}

#[test]
fn what_a_process_writes_as_it_read_it_is_a_copy() {
    let (index, disk) = tables(100);
    let (from, to) = (index.add_file("/from"), index.add_file("/to"));
    index.read(from, 8192);
    index.read_block(from, 4096, &block(1), &reader(1));
    index.wrote_block(to, 0, &block(1), &reader(1));
    // Somebody else's; what nobody read; the block itself, written back.
    index.wrote_block(to, 4096, &block(1), &reader(2));
    index.wrote_block(to, 8192, &block(2), &reader(1));
    index.wrote_block(from, 4096, &block(1), &reader(1));
    let copies: Vec<_> = (0..4u64)
        .map(|at| disk.classify_write(at * 4096, &block(if at == 3 { 2 } else { 1 }), None).copied_from)
        .collect();
    let source = Source { path: "/from".into(), file_size: 8192, offset: 4096 };
    assert_eq!(copies, [Some(source), None, None, None]);
}

/// A guest of which the test says what it keeps where.
#[derive(Debug, Default)]
struct Pages(Mutex<std::collections::BTreeMap<GuestAddress, CachedBlock>>);

impl CachedPages for Pages {
    fn block(&self, page: GuestAddress) -> Option<CachedBlock> {
        self.0.lock().unwrap().get(&page).copied()
    }
}

impl Pages {
    /// Page `number` holds the block at `offset` of inode `inode`.
    fn keep(&self, number: u64, inode: u64, offset: u64, locked: bool) -> Option<GuestAddress> {
        let page = GuestAddress(number * 4096);
        self.0.lock().unwrap().insert(page, CachedBlock { file: (1, inode), offset, locked });
        Some(page)
    }
}

fn with_pages() -> (Arc<BlockIndex>, DiskBlocks, Arc<Pages>, [FileId; 2]) {
    let (index, disk) = tables(100);
    let pages = Arc::new(Pages::default());
    index.set_pages(Arc::clone(&pages) as Arc<dyn CachedPages>);
    let files = [index.add_file("/a"), index.add_file("/b")];
    index.identify(files[0], (1, 10));
    index.identify(files[1], (1, 11));
    (index, disk, pages, files)
}

fn path(tag: &IoTag) -> Option<(&str, u64)> {
    tag.source.as_ref().map(|source| (&*source.path, source.offset))
}

/// A file and its copy are on their way at once, and the copy comes first.
#[test]
fn pages_tell_equal_blocks_apart() {
    let (index, disk, pages, [a, b]) = with_pages();
    for file in [a, b] {
        index.wrote_block(file, 0, &block(1), &Origin::default());
        index.wrote_block(file, 4096, &block(1), &Origin::default());
    }
    for (number, (inode, offset)) in (0..).zip([(11, 4096), (10, 4096), (11, 0), (10, 0)]) {
        let tag = disk.classify_write(number * 8192, &block(1), pages.keep(number, inode, offset, false));
        assert_eq!(path(&tag), Some((if inode == 10 { "/a" } else { "/b" }, offset)));
    }
    // Somebody else's page with the same content; and one of a file that nobody follows.
    assert_eq!(disk.classify_write(65536, &block(1), pages.keep(9, 12, 0, false)).class, IoClass::Unknown);
    assert_eq!(index.counts().by_page, 0);
}

/// Through a journal to its place, and to another place when the file system likes; what others write of the same content is
/// still theirs.
#[test]
fn a_block_is_known_wherever_its_page_is_written() {
    let (index, disk, pages, [a, _]) = with_pages();
    index.wrote_block(a, 0, &block(1), &Origin::default());
    let page = pages.keep(3, 10, 0, false);
    assert_eq!(disk.classify_write(4096, &block(1), page).class, IoClass::Data, "in the journal");
    assert_eq!(disk.classify_write(12288, &block(1), None).class, IoClass::Unknown, "somebody else's");
    assert_eq!(disk.classify_write(8192, &block(1), page).class, IoClass::Data, "at its place");
    assert_eq!(disk.classify_read(4096, None).class, IoClass::Unknown, "the journal has done with it");
    assert_eq!(disk.classify_read(8192, None).class, IoClass::Data);
    assert_eq!(index.lifetimes(), [], "it lives on");
    assert_eq!(
        index.disk(1).classify_write(0, &block(1), page).class,
        IoClass::Data,
        "moved to another disk"
    );
    assert_eq!(disk.classify_read(8192, None).class, IoClass::Unknown);
    // Gone before it comes to its place.
    index.deleted(a);
    assert_eq!(disk.classify_write(20480, &block(1), page).class, IoClass::Unknown);
}

#[test]
fn what_comes_while_something_else_is_written_is_data_too() {
    let (index, disk, pages, [a, _]) = with_pages();
    index.wrote_block(a, 0, &block(1), &Origin { hint: Some(5), ..Origin::default() });
    let page = pages.keep(3, 10, 0, false);
    assert_eq!(path(&disk.classify_write(0, &block(7), page)), Some(("/a", 0)));
    assert_eq!((index.counts().by_page, index.counts().pending), (1, 1));
    assert_eq!(path(&disk.classify_write(0, &block(1), page)), Some(("/a", 0)));
    assert_eq!((index.counts().by_page, index.counts().pending), (1, 0));
    assert_eq!(index.files()[0].hinted, 2);
}

/// Written back by the guest itself, before the process makes any call.
#[test]
fn what_is_written_through_a_mapping_is_its_mapper_s() {
    let (index, disk, pages, [a, b]) = with_pages();
    let writer = Arc::new(Writer { pid: 7, name: "mapper".into() });
    let origin = Arc::new(Origin { writer: Some(writer), ..Origin::default() });
    index.share(Sharer::Process(7), vec![Sharing { file: a, range: 4096..8192, origin }]);
    let page = |inode, offset| pages.keep(1, inode, offset, false);
    assert_eq!(disk.classify_write(0, &block(1), page(10, 0)).class, IoClass::Unknown, "not mapped");
    assert_eq!(disk.classify_write(0, &block(1), page(11, 4096)).class, IoClass::Unknown, "another file");
    assert_eq!(path(&disk.classify_write(0, &block(1), page(10, 4096))), Some(("/a", 4096)));
    assert_eq!(path(&disk.classify_write(0, &block(2), page(10, 4096))), Some(("/a", 4096)));
    assert_eq!((index.counts().by_page, index.counts().data), (2, 2));
    // What is there is known, so that looking at the mapping finds nothing new.
    index.found_block(a, 4096, &block(2), &Origin::default());
    assert_eq!(index.counts().pending, 0);
    index.share(Sharer::Process(7), Vec::new());
    assert_eq!(disk.classify_write(0, &block(3), page(10, 4096)).class, IoClass::Unknown);
    index.wrote_block(b, 0, &block(4), &Origin::default());
    assert_eq!(path(&disk.classify_write(0, &block(4), page(10, 4096))), Some(("/b", 0)), "by its content");
}

/// A process wrote a block, and filled a part of it with zeros by another call, which had it written back.
#[test]
fn what_a_call_had_written_back_is_not_expected_again() {
    let (index, disk, pages, [a, _]) = with_pages();
    let page = || pages.keep(1, 10, 0, false);
    index.wrote_block(a, 0, &block(1), &Origin::default());
    assert_eq!(path(&disk.classify_write(0, &block(2), page())), Some(("/a", 0)));
    assert_eq!(index.counts().pending, 1);
    index.found_block(a, 0, &block(2), &Origin::default());
    assert_eq!((index.counts().pending, index.counts().superseded), (0, 1));
    // Not written back so far: what is expected is what is there.
    index.found_block(a, 0, &block(3), &Origin::default());
    index.found_block(a, 0, &block(3), &Origin::default());
    assert_eq!((index.counts().pending, index.files()[0].blocks), (1, 2));
    assert_eq!(path(&disk.classify_write(0, &block(3), None)), Some(("/a", 0)));
    assert_eq!(index.counts().pending, 0);
}

#[test]
fn what_is_read_into_a_page_is_its_file_s() {
    let (index, disk, pages, [a, _]) = with_pages();
    index.read(a, 20480);
    let page = pages.keep(1, 10, 8192, true);
    let tag = disk.classify_read(4096, page);
    assert_eq!(tag.source, Some(Source { path: "/a".into(), file_size: 20480, offset: 8192 }));
    disk.was_read(4096, &[0; BLOCK_SIZE], page);
    assert_eq!(path(&disk.classify_read(4096, None)), Some(("/a", 8192)));
    assert_eq!((index.counts().named, index.files()[0].named), (1, 1));
    // Again; by a process, of which the policy learns; into a buffer; for a file that nobody follows.
    disk.was_read(4096, &[0; BLOCK_SIZE], page);
    disk.was_read(12288, &block(1), pages.keep(2, 10, 0, true));
    index.read_block(a, 0, &block(1), &reader(1));
    assert_eq!(
        index
            .lock()
            .disks
            .find(Place::new(a, 0).unwrap())
            .map(|(_, stored)| stored.origin == Default::default()),
        Some(false)
    );
    disk.was_read(16384, &block(2), pages.keep(3, 10, 4096, false));
    disk.was_read(20480, &block(3), pages.keep(4, 12, 4096, true));
    assert_eq!([16384, 20480].map(|at| disk.classify_read(at, None).class), [IoClass::Unknown; 2]);
    assert_eq!((index.counts().named, index.has_unnamed()), (2, true));
    // What the address was known for is no longer true.
    let tag = disk.classify_read(4096, pages.keep(5, 11, 0, true));
    assert_eq!(path(&tag), Some(("/b", 0)));
}

#[derive(Clone, Debug)]
enum Step {
    Write { offset: u64, content: u8 },
    Failed { offset: u64, content: u8 },
    Disk { offset: u64, content: u8 },
    Discard { offset: u64, blocks: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..6u64, 0..4u8).prop_map(|(offset, content)| Step::Write { offset: offset * 4096, content }),
        (0..6u64, 0..4u8).prop_map(|(offset, content)| Step::Failed { offset: offset * 4096, content }),
        (0..6u64, 0..4u8).prop_map(|(offset, content)| Step::Disk { offset: offset * 4096, content }),
        (0..6u64, 0..9u64).prop_map(|(offset, blocks)| Step::Discard { offset: offset * 4096, blocks }),
    ]
}

proptest! {
    /// One file: the class of every disk write is what plain lists say.
    #[test]
    fn agrees_with_a_naive_model(steps in proptest::collection::vec(step(), 1..80)) {
        let (index, disk) = tables(1000);
        let file = index.add_file("/a");
        let mut pending: Vec<(u64, u8)> = Vec::new();
        // Where on the disk, what, and of which place of the file.
            let mut stored: Vec<(u64, u8, u64)> = Vec::new();
        for step in steps {
            match step {
                Step::Write { offset, content } => {
                    if !pending.contains(&(offset, content)) {
                        pending.retain(|entry| entry.0 != offset);
                        pending.push((offset, content));
                    }
                    index.wrote_block(file, offset, &block(content), &Origin::default());
                }
                Step::Failed { offset, content } => {
                    let before = index.files();
                    let prior = index.wrote_block(file, offset, &block(content), &Origin::default());
                    index.take_back_block(file, offset, prior);
                    prop_assert_eq!(index.files(), before);
                    // Of places with the same content the one that has had it longest is taken first.
                    if let Some(at) = pending.iter().position(|entry| entry.0 == offset && entry.1 != content) {
                        let entry = pending.remove(at);
                        pending.push(entry);
                    }
                }
                Step::Disk { offset, content } => {
                    let place = match pending.iter().position(|entry| entry.1 == content) {
                        Some(at) => Some(pending.remove(at).0),
                        None => stored.iter().find(|at| (at.0, at.1) == (offset, content)).map(|at| at.2),
                    };
                    let known = place.is_some();
                    // A place of a file is at one place of the disk.
                    stored.retain(|entry| entry.0 != offset && Some(entry.2) != place);
                    stored.extend(place.map(|place| (offset, content, place)));
                    let class = disk.classify_write(offset, &block(content), None).class;
                    prop_assert_eq!(class == IoClass::Data, known);
                }
                Step::Discard { offset, blocks } => {
                    stored.retain(|entry| entry.0 < offset || entry.0 >= offset + blocks * 4096);
                    disk.discarded(offset, blocks * 4096);
                }
            }
            prop_assert_eq!(index.counts().pending, pending.len() as u64);
        }
    }

    /// However much is written, the tables stay within their limit.
    #[test]
    fn tables_stay_within_their_limit(limit in 1usize..20, writes in proptest::collection::vec((0..50u64, any::<u8>()), 1..400)) {
        let (index, disk) = tables(limit);
        let file = index.add_file("/a");
        for (number, content) in writes {
            index.wrote_block(file, number * 4096, &block(content), &Origin::default());
            disk.classify_write(number * 4096, &block(content.wrapping_add(1)), None);
            let tables = index.lock();
            prop_assert!(tables.pending.len() <= limit && tables.disks.len() <= limit);
        }
    }
}
