//! What writes cost, where clusters go, and that space comes back.

use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::block::StorageCounts;
use crate::block::simulated::{Fault, FaultKind, FaultOn};
use crate::selfie::format::Layout;

/// As many clusters as make three zones and a bit.
const CLUSTERS: u64 = 3 * 1024 + 100;

fn large(options: OpenOptions) -> Setup {
    let disk = SimulatedDisk::new(SimulatedOptions { record: false, ..SimulatedOptions::file() });
    create(&disk, &CreateOptions { max_size: Some(1 << 30), ..CreateOptions::new(CLUSTERS * 65536) })
        .unwrap();
    Setup { disk: Arc::new(disk), backing: None, options }
}

fn text(cluster: u64) -> Vec<u8> {
    bytes(Content::Text(u8::try_from(cluster % 251).unwrap()), 4096)
}

fn noise(cluster: u64) -> Vec<u8> {
    bytes(Content::Noise(cluster), 4096)
}

/// Writes a block into each of some clusters, anywhere in it, and flushes each time. Gives what was done for it.
fn fill(
    setup: &Setup,
    image: &Selfie,
    clusters: std::ops::Range<u64>,
    content: fn(u64) -> Vec<u8>,
) -> StorageCounts {
    let before = setup.disk.counts();
    for cluster in clusters {
        image.write(cluster * 65536 + cluster % 16 * 4096, &content(cluster), &[]).unwrap();
        image.flush().unwrap();
    }
    let after = setup.disk.counts();
    StorageCounts { writes: after.writes - before.writes, syncs: after.syncs - before.syncs, ..after }
}

fn holds(image: &Selfie, clusters: std::ops::Range<u64>, content: fn(u64) -> Vec<u8>) {
    for cluster in clusters {
        let mut back = vec![1; 65536];
        image.read(cluster * 65536, &mut back, &[]).unwrap();
        let mut expected = vec![0; 65536];
        let at = usize::try_from(cluster % 16 * 4096).unwrap();
        expected[at..at + 4096].copy_from_slice(&content(cluster));
        assert_eq!(difference(&back, &expected), None, "{cluster}");
    }
}

/// Table 1 of docs/results.md; the paper's claim (section 2.3), at any block of a cluster.
#[test]
fn a_write_that_allocates_is_one_write_and_one_sync() {
    let setup = large(options());
    let image = setup.open();
    let counts = fill(&setup, &image, 0..2000, text);
    let stats = image.stats();
    assert_eq!((stats.embedded, stats.plain, stats.zeroed_bytes % (1 << 20)), (2000, 0, 0));
    // Besides these: zeros in pieces of a MiB, with a sync and sometimes a zone's entry for each few of them, and
    // the summary of a zone.
    let zeroes = stats.zeroed_bytes >> 20;
    assert!(counts.writes - 2000 - zeroes < 10, "{counts:?} {stats:?}");
    assert!(counts.syncs - 2000 < 40, "{counts:?} {stats:?}");
    // Written again they cost the same, and nothing but that.
    let again = fill(&setup, &image, 0..2000, |cluster| text(cluster + 1));
    assert_eq!((again.writes, again.syncs), (2000, 2000));
    holds(&image, 0..2000, |cluster| text(cluster + 1));
}

/// What is written without a flush is written once; who flushes has zeros written ahead again.
#[test]
fn a_stream_is_not_written_twice() {
    let setup = large(options());
    let image = setup.open();
    let whole: Vec<u8> = (0..16).flat_map(text).collect();
    let before = setup.disk.counts();
    for cluster in 0..1500 {
        image.write(cluster * 65536, &whole, &[]).unwrap();
    }
    image.flush().unwrap();
    let stats = image.stats();
    // Before it is known for a stream: pieces of 16, 16 and 32 clusters, the first of which is the summaries'.
    assert_eq!((stats.embedded, stats.zeroed_bytes), (1500, 64 * 65536));
    let after = setup.disk.counts();
    // Three for the zeros, one for each of the stream's zones, the summaries of a full one, and the flush.
    assert!(after.syncs - before.syncs < 10, "{after:?}");
    fill(&setup, &image, 1500..2000, text);
    assert!(image.stats().zeroed_bytes > 300 * 65536);
    holds(&image, 1500..2000, text);
    drop(image);
    assert!(check(&*setup.disk).unwrap().is_clean());
    let image = setup.open();
    holds(&image, 1500..2000, text);
    let mut back = vec![0; whole.len()];
    for cluster in 0..1500 {
        image.read(cluster * 65536, &mut back, &[]).unwrap();
        assert!(back == whole, "{cluster}");
    }
}

/// Much between any two flushes is a stream, too; a single cluster after it has its zeros ahead again.
#[test]
fn large_flushed_writes_are_a_stream() {
    let setup = large(options());
    let image = setup.open();
    let much: Vec<u8> = (0..256).flat_map(text).collect();
    let mut zeroed = Vec::new();
    for at in 0..60 {
        image.write(at << 20, &much, &[]).unwrap();
        image.flush().unwrap();
        zeroed.push(image.stats().zeroed_bytes);
    }
    assert!(zeroed[0] > 0 && zeroed[10] == zeroed[59], "{zeroed:?}");
    fill(&setup, &image, 1000..1400, text);
    assert!(image.stats().zeroed_bytes > zeroed[59]);
    image.close().unwrap();
    // What is left of the stream's zone is nobody's, so that the next one goes on there.
    let length = setup.disk.size();
    let image = setup.open();
    for at in 90..93 {
        image.write(at << 20, &much, &[]).unwrap();
    }
    image.flush().unwrap();
    assert_eq!(setup.disk.size(), length);
    image.close().unwrap();
    let report = check(&*setup.disk).unwrap();
    assert!(report.is_clean() && !report.has_leaks(), "{report:?}");
}

/// What is new is written at once, each kind for itself.
#[test]
fn new_clusters_are_written_together() {
    let setup = large(options());
    let image = setup.open();
    // Clusters of text, noise and zeros.
    let fill = |first: u64, kinds: &str| -> Vec<u8> {
        let block = |(cluster, kind)| match kind {
            't' => text(cluster),
            'n' => noise(cluster),
            _ => vec![0; 4096],
        };
        (first..).zip(kinds.chars()).flat_map(|of| block(of).repeat(16)).collect()
    };
    // Until there are zones, and it is known for a stream.
    image.write(0, &fill(0, &"t".repeat(64)), &[]).unwrap();
    image.write(64 << 16, &fill(64, &"n".repeat(16)), &[]).unwrap();
    let writes = |offset: u64, data: &[u8]| {
        let before = setup.disk.counts();
        image.write(offset, data, &[]).unwrap();
        let after = setup.disk.counts();
        assert_eq!(after.syncs, before.syncs);
        let mut back = vec![1; data.len()];
        image.read(offset, &mut back, &[]).unwrap();
        assert_eq!(difference(&back, data), None);
        after.writes - before.writes
    };
    assert_eq!(writes(100 << 16, &fill(1, &"t".repeat(16))), 1);
    assert_eq!(writes(200 << 16, &fill(2, &"n".repeat(16))), 1);
    // No part of a cluster is among them, and locks have a seam.
    assert_eq!(writes((300 << 16) + 4096, &fill(3, &"t".repeat(16))), 3);
    assert_eq!(writes(508 << 16, &fill(4, &"t".repeat(8))), 2);
    assert_eq!(writes(520 << 16, &fill(5, "ttnznnt")), 2);
    assert_eq!(writes(560 << 16, &fill(6, &"tn".repeat(8))), 2);
    assert_eq!(writes(530 << 16, &fill(6, &"z".repeat(4))), 0);
    // One in between is there already.
    image.write(543 << 16, &text(7), &[]).unwrap();
    assert_eq!(writes(540 << 16, &fill(7, &"t".repeat(8))), 2);
    image.close().unwrap();
    assert!(check(&*setup.disk).unwrap().is_clean());
}

/// A write that fails leaves nothing of any of its clusters, whatever became of the rest; and a medium that is full can
/// be used again when it is not.
#[test]
fn of_clusters_that_failed_together_nothing_is_left() {
    let faults = [(FaultKind::Io, false, true), (FaultKind::NoSpace, true, true)];
    for (content, (kind, lasting, partial)) in
        [text, noise].into_iter().flat_map(|of| faults.map(|fault| (of, fault)))
    {
        let setup = large(options());
        let image = setup.open();
        let much: Vec<u8> = (0..16 * 16).flat_map(content).collect();
        for at in 0..4 {
            image.write(at << 20, &much, &[]).unwrap();
        }
        image.flush().unwrap();
        setup.disk.inject(Fault { on: FaultOn::Write, after: 0, kind, lasting, partial });
        image.write(10 << 20, &much, &[]).unwrap_err();
        image.flush().unwrap();
        setup.disk.clear_faults();
        let mut back = vec![1; 1 << 20];
        image.read(10 << 20, &mut back, &[]).unwrap();
        assert!(back.iter().all(|&byte| byte == 0));
        image.write(11 << 20, &much, &[]).unwrap();
        image.flush().unwrap();
        // As after a crash.
        drop(image);
        let image = setup.open();
        image.read(10 << 20, &mut back, &[]).unwrap();
        assert!(back.iter().all(|&byte| byte == 0));
        image.read(11 << 20, &mut back, &[]).unwrap();
        assert_eq!(difference(&back, &much), None);
        image.close().unwrap();
        assert!(check(&*setup.disk).unwrap().is_clean());
    }
}

/// On a medium that does not grow, streams keep no room from anybody: it is all used up before there is none.
#[test]
fn streams_leave_room_to_others() {
    for stream in [u64::MAX, 1] {
        let zones = 7;
        let size = (8 + 64 * zones) << 20;
        let kind = SimulatedOptions { size, capacity: None, record: false, ..SimulatedOptions::file() };
        let disk = SimulatedDisk::new(kind);
        create(&disk, &CreateOptions { max_size: Some(1 << 30), ..CreateOptions::new(1 << 30) }).unwrap();
        let setup =
            Setup { disk: Arc::new(disk), backing: None, options: OpenOptions { stream, ..options() } };
        let image = setup.open();
        let mut written = 0;
        let error = loop {
            let content = if written % 1024 == 1023 { noise(written) } else { text(written) };
            let at = written * 65536 + written % 16 * 4096;
            if let Err(error) = image.write(at, &content, &[]).and_then(|()| image.flush()) {
                break error;
            }
            written += 1;
        };
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        // Summaries have a cluster of four zones, the plain ones a zone.
        assert!(written >= 6 * 1024 - 2, "{stream}: {written}");
        holds(&image, 0..1023, text);

        // With room there are streams again, for which no zeros are written.
        image.discard(0, 1 << 30).unwrap();
        image.flush().unwrap();
        let zeroed = image.stats().zeroed_bytes;
        fill(&setup, &image, 0..1500, text);
        assert_eq!(image.stats().zeroed_bytes == zeroed, stream == 1);
    }
}

#[test]
fn what_does_not_compress_costs_a_table_more() {
    let setup = large(options());
    let image = setup.open();
    fill(&setup, &image, 0..1, noise);
    let counts = fill(&setup, &image, 1..1000, noise);
    let stats = image.stats();
    assert_eq!((stats.embedded, stats.plain), (0, 1000));
    let zeroes = stats.zeroed_bytes >> 20;
    assert!(counts.writes < 2 * 999 + zeroes + 4 && counts.syncs < 999 + 20, "{counts:?}");
    holds(&image, 0..1000, noise);
}

#[test]
fn a_block_that_no_longer_compresses_moves_its_cluster() {
    let setup = large(options());
    let image = setup.open();
    fill(&setup, &image, 0..100, text);
    fill(&setup, &image, 0..50, noise);
    let stats = image.stats();
    assert_eq!((stats.relocated, stats.plain), (50, 0));
    assert_eq!((image.info().embedded_clusters, image.info().plain_clusters), (50, 50));
    // And it stays there.
    fill(&setup, &image, 0..50, text);
    assert_eq!(image.stats().relocated, 50);
    drop(image);
    let image = setup.open();
    holds(&image, 0..100, text);
    image.close().unwrap();
    assert!(check(&*setup.disk).unwrap().is_clean());
}

/// Discarding everything frees the zones, which are then used again: the image grows no further.
#[test]
fn space_comes_back() {
    for content in [text, noise] {
        let setup = large(options());
        let image = setup.open();
        let mut sizes = Vec::new();
        for round in 0..24 {
            fill(&setup, &image, 0..CLUSTERS, content);
            holds(&image, 0..10, content);
            assert!(setup.disk.kept() > CLUSTERS * 4096);
            image.discard(0, CLUSTERS * 65536).unwrap();
            image.flush().unwrap();
            assert!(setup.disk.kept() < 8 << 20, "{round}: {}", setup.disk.kept());
            holds(&image, 0..10, |_| vec![0; 4096]);
            sizes.push(setup.disk.size());
        }
        // The disk's own four, one that was open, one for the table, and one that is kept for summaries.
        let most = Layout::new(1 << 30).unwrap().zones + 7 * (64 << 20);
        assert!(sizes.iter().all(|&size| size <= most), "{sizes:?}");
        let info = image.info();
        assert_eq!((info.embedded_clusters, info.plain_clusters), (0, 0));
        image.close().unwrap();
        let report = check(&*setup.disk).unwrap();
        assert!(report.is_clean(), "{report:?}");
    }
}

/// After a crash the headers of open zones are looked at, after a clean end nothing is.
#[test]
fn summaries_leave_little_to_look_at() {
    let setup = large(options());
    let image = setup.open();
    fill(&setup, &image, 0..CLUSTERS, text);
    drop(image);
    let report = check(&*setup.disk).unwrap();
    assert!(report.is_clean() && report.dirty && (1..=2048).contains(&report.scanned), "{report:?}");
    assert_eq!(report.embedded_clusters, CLUSTERS);
    let image = setup.open();
    holds(&image, 0..CLUSTERS, text);
    image.close().unwrap();
    let report = check(&*setup.disk).unwrap();
    assert_eq!((report.scanned, report.embedded_clusters), (0, CLUSTERS));
    let image = setup.open();
    holds(&image, 0..CLUSTERS, text);
    assert!(image.info().memory < CLUSTERS * 32 + (2 << 20), "{}", image.info().memory);
}

#[test]
fn a_disk_grows_and_what_is_new_is_zeros() {
    for backed in [false, true] {
        let setup = Setup::new(backed, options());
        let image = setup.open();
        image.write(SIZE - 512, &[7; 512], &[]).unwrap();
        assert_eq!(image.write(SIZE, &[1; 512], &[]).unwrap_err().kind(), ErrorKind::OutOfRange);
        image.resize(SIZE + (10 << 20)).unwrap();
        let mut end = vec![1; 1024];
        image.read(SIZE - 512, &mut end, &[]).unwrap();
        assert_eq!((end[511], &end[512..]), (7, &[0; 512][..]));
        image.write(SIZE, &[9; 512], &[]).unwrap();
        for size in [SIZE, 2 << 30, SIZE + (11 << 20) + 1] {
            assert_eq!(image.resize(size).unwrap_err().kind(), ErrorKind::BadSize);
        }
        image.close().unwrap();
        let image = setup.open();
        assert_eq!(image.geometry().size, SIZE + (10 << 20));
        image.read(SIZE - 512, &mut end, &[]).unwrap();
        assert_eq!((end[511], end[512]), (7, 9));
    }
}

/// What lies below the end of a disk that is smaller than its parent is not what it grows by.
#[test]
fn a_parent_does_not_show_where_a_disk_has_grown() {
    let disk = SimulatedDisk::new(SimulatedOptions { record: false, ..SimulatedOptions::file() });
    let backing = parent();
    let identity = Identity { size: backing.geometry().size, ..Identity::default() };
    let below = Backing { path: "parent".to_owned(), format: BackingFormat::Raw, identity, reach: 0 };
    let small =
        CreateOptions { max_size: Some(1 << 30), backing: Some(below), ..CreateOptions::new(65536 + 512) };
    create(&disk, &small).unwrap();
    let image = Selfie::open(Arc::new(disk), options(), Some(backing)).unwrap();
    image.resize(1 << 20).unwrap();
    let mut content = vec![1; 1 << 20];
    image.read(0, &mut content, &[]).unwrap();
    assert!(content[..65536].iter().any(|&byte| byte != 0));
    assert!(content[65536 + 512..].iter().all(|&byte| byte == 0));
}

/// On a medium that may tear a block, blocks carry no mappings, and those that do are moved before they are touched.
#[test]
fn a_medium_that_tears_blocks_holds_plain_clusters() {
    let setup = large(options());
    let image = setup.open();
    fill(&setup, &image, 0..20, text);
    image.close().unwrap();
    let tearing = SimulatedDisk::new(SimulatedOptions {
        size: setup.disk.size(),
        atomic_write: 512,
        record: false,
        ..SimulatedOptions::file()
    });
    let mut piece = vec![0; 1 << 20];
    for at in (0..setup.disk.size()).step_by(1 << 20) {
        let length = piece.len().min(usize::try_from(setup.disk.size() - at).unwrap());
        setup.disk.read(at, &mut piece[..length]).unwrap();
        tearing.write(at, &piece[..length]).unwrap();
    }
    let setup = Setup { disk: Arc::new(tearing), backing: None, options: options() };
    let image = setup.open();
    assert!(!image.info().embeds);
    fill(&setup, &image, 10..40, text);
    let stats = image.stats();
    assert_eq!((stats.embedded, stats.plain, stats.relocated), (0, 20, 10));
    holds(&image, 0..40, text);
}

/// The last cluster that was handed out is dead when the image is closed, and its content could not be given back.
#[test]
fn what_has_died_is_not_handed_out_as_zeros() {
    let disk =
        SimulatedDisk::new(SimulatedOptions { holes: false, record: false, ..SimulatedOptions::file() });
    create(&disk, &CreateOptions { max_size: Some(1 << 30), ..CreateOptions::new(CLUSTERS * 65536) })
        .unwrap();
    let setup = Setup { disk: Arc::new(disk), backing: None, options: options() };
    let image = setup.open();
    fill(&setup, &image, 0..1, noise);
    image.write(65536, &bytes(Content::Noise(7), 65536), &[]).unwrap();
    image.flush().unwrap();
    image.discard(65536, 65536).unwrap();
    image.close().unwrap();
    let image = setup.open();
    fill(&setup, &image, 2..3, noise);
    holds(&image, 2..3, noise);
    holds(&image, 1..2, |_| vec![0; 4096]);
}

/// After a crash none of the open zones has zeros, and there may be two of a kind: one whose end was not reached, and
/// one that was zeroed ahead.
#[test]
fn writing_goes_on_after_a_crash_with_two_open_zones() {
    let setup = large(options());
    let image = setup.open();
    fill(&setup, &image, 0..1000, text);
    image.chore(Chore::WriteZeroes).unwrap();
    assert_eq!(image.info().z_zones, 2);
    drop(image);
    let image = setup.open();
    fill(&setup, &image, 1000..1100, text);
    holds(&image, 0..1100, text);
    image.close().unwrap();
    let report = check(&*setup.disk).unwrap();
    assert!(report.is_clean(), "{report:?}");
}

/// A zone whose summary lies in another one is freed before that, though their entries lie in two sectors of the table,
/// of which a crash may leave either.
#[test]
fn no_zone_outlives_its_summary() {
    let setup = large(options());
    let image = setup.open();
    // One cluster lives in each of 34 zones.
    for zone in 0..34 {
        fill(&setup, &image, zone..zone + 1, text);
        fill(&setup, &image, 100..1122, text);
        image.discard(100 * 65536, 1022 * 65536).unwrap();
        image.flush().unwrap();
    }
    assert!(image.info().z_zones >= 34);
    image.close().unwrap();
    let disk = Arc::new(setup.disk.copy_as(SimulatedOptions::file()));
    let setup = Setup { disk, backing: None, options: options() };
    let image = setup.open();
    let first = setup.disk.position();
    image.discard(0, 34 * 65536).unwrap();
    image.flush().unwrap();
    assert!(image.info().free_zones >= 30, "{:?}", image.info());
    let (history, mut random) = (setup.disk.history(), Random::new(1));
    for point in history.points(first) {
        for choice in point.choices(24, &mut random) {
            let report = check(&point.disk(choice)).unwrap();
            assert!(report.is_clean(), "{} {choice}: {report:?}\n{}", point.position(), point.describe());
        }
    }
}

/// The thread that writes zeros ahead tries again when the disk below was full for a while.
#[test]
fn zeroes_are_written_ahead_again_when_there_is_space_again() {
    let setup = large(OpenOptions { background: true, ..OpenOptions::default() });
    let image = setup.open();
    setup.disk.inject(Fault {
        on: FaultOn::Grow,
        after: 2,
        kind: FaultKind::NoSpace,
        lasting: true,
        partial: false,
    });
    let full = (0..CLUSTERS).find(|&cluster| {
        let written = image.write(cluster * 65536, &text(cluster), &[]);
        image.flush().unwrap();
        written.is_err_and(|error| error.kind() == ErrorKind::NoSpace)
    });
    let full = full.expect("three zones are more than one");
    setup.disk.clear_faults();
    // The writer itself gets no more than a piece of zeros, of 128 clusters at most.
    fill(&setup, &image, full..full + 8, text);
    let ahead = || image.stats().zeroed_bytes / 65536 - full;
    let deadline = Instant::now() + Duration::from_secs(20);
    while ahead() < 400 {
        assert!(Instant::now() < deadline, "{} clusters of zeros", ahead());
        thread::sleep(Duration::from_millis(10));
    }
}
