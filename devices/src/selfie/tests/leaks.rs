//! Space that nothing uses, against a count that is made from the structures as they lie in the image.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::block::simulated::{Fault, FaultKind, FaultOn};

const CLUSTER: u64 = 65536;
const SLOTS: u64 = 1024;

fn fresh() -> Setup {
    let disk = SimulatedDisk::new(SimulatedOptions::file());
    create(&disk, &CreateOptions { max_size: Some(1 << 28), ..CreateOptions::new(CLUSTER * 1200) }).unwrap();
    Setup { disk: Arc::new(disk), backing: None, options: options() }
}

/// Clusters of the image that something uses: tables, summaries, and whatever speaks last of a cluster of the disk. A
/// header is looked at wherever there is one, though that of a cluster that was given up is outdone.
fn used(storage: &dyn Storage) -> BTreeSet<u64> {
    let zones = dump_zones(storage).unwrap();
    let mut used: BTreeSet<u64> =
        zones.iter().filter(|zone| zone.kind == "z").map(|zone| zone.summary).collect();
    let mut last = BTreeMap::<u64, (u64, u64)>::new();
    let mut tell = |entry: EntryDump| {
        let place = last.entry(entry.disk_offset).or_default();
        *place = (*place).max((entry.sequence, entry.image_offset));
    };
    for table in dump_l1(storage).unwrap() {
        used.insert(table.offset.unwrap());
        dump_l2(storage, table.table).unwrap().into_iter().for_each(&mut tell);
    }
    for zone in zones.iter().filter(|zone| zone.kind == "z") {
        for slot in 0..SLOTS {
            let offset = zone.offset + slot * CLUSTER;
            let mut start = [0; 512];
            storage.read(offset, &mut start).unwrap();
            // Only what begins like a header can be one.
            if start.starts_with(&[0x5f, 0x01]) {
                dump_header(storage, offset).unwrap().into_iter().for_each(&mut tell);
            }
        }
    }
    used.extend(last.into_values().map(|(_, place)| place).filter(|&place| place > 0));
    used
}

/// Clusters that hold something, and blocks of them, of those that nothing uses and that are not handed out next.
fn counted(storage: &dyn Storage) -> Leaks {
    let (used, mut leaks) = (used(storage), Leaks::default());
    for zone in dump_zones(storage).unwrap() {
        let inside = used.range(zone.offset..zone.offset + SLOTS * CLUSTER).next_back();
        let next = inside.map_or(0, |place| (place - zone.offset) / CLUSTER + 1).max(zone.committed.into());
        let end = if zone.kind == "free" { SLOTS } else { next };
        for place in (0..end).map(|slot| zone.offset + slot * CLUSTER).filter(|place| !used.contains(place)) {
            let mut content = vec![0; 65536];
            storage.read(place, &mut content).unwrap();
            let blocks = content.chunks(4096).filter(|block| block.iter().any(|&byte| byte != 0)).count();
            leaks.clusters += u64::from(blocks > 0);
            leaks.bytes += blocks as u64 * 4096;
        }
    }
    leaks
}

/// What the check says, which is what was counted.
#[track_caller]
fn told(storage: &dyn Storage, when: &str) -> Leaks {
    let report = check(storage).unwrap();
    assert!(report.is_clean(), "{when}: {report:?}");
    assert_eq!(report.leaks, Some(counted(storage)), "{when}");
    assert_eq!(report.has_leaks(), report.leaks.unwrap().clusters > 0);
    report.leaks.unwrap()
}

fn write(image: &Selfie, clusters: std::ops::Range<u64>, content: Content) {
    for cluster in clusters {
        image.write(cluster * CLUSTER, &bytes(content, 8192), &[]).unwrap();
        image.flush().unwrap();
    }
}

#[test]
fn an_image_that_was_only_used_has_none() {
    let setup = fresh();
    assert_eq!(told(&*setup.disk, "new"), Leaks::default());
    let image = setup.open();
    write(&image, 0..40, Content::Text(1));
    write(&image, 10..20, Content::Noise(1));
    write(&image, 40..60, Content::Noise(2));
    image.discard(15 * CLUSTER, 30 * CLUSTER).unwrap();
    image.flush().unwrap();
    image.close().unwrap();
    assert!(check(&*setup.disk).unwrap().dead_clusters >= 30);
    assert_eq!(told(&*setup.disk, "used"), Leaks::default());
    // Zones that become full, dead and free, with the summaries in them.
    let image = setup.open();
    for _ in 0..3 {
        write(&image, 0..1100, Content::Text(3));
        image.discard(0, 1200 * CLUSTER).unwrap();
        image.flush().unwrap();
    }
    image.close().unwrap();
    assert!(setup.open().info().free_zones > 0);
    assert_eq!(told(&*setup.disk, "worn"), Leaks::default());
}

/// An image whose table says of three clusters of two blocks each that they are zeros, where no hole could be made.
fn leaked() -> Setup {
    let setup = fresh();
    let image = setup.open();
    write(&image, 0..8, Content::Text(1));
    let (kind, lasting, partial) = (FaultKind::Io, false, false);
    setup.disk.inject(Fault { on: FaultOn::Punch, after: 0, kind, lasting, partial });
    image.discard(2 * CLUSTER, 3 * CLUSTER).unwrap();
    image.flush().unwrap_err();
    image.close().unwrap();
    setup
}

#[test]
fn a_hole_that_could_not_be_made_is_a_leak() {
    let setup = leaked();
    assert_eq!(told(&*setup.disk, "closed"), Leaks { clusters: 3, bytes: 6 * 4096 });
}

/// Its cluster is zeros again before it is handed out anew.
#[test]
fn a_leak_ends_with_its_zone() {
    let setup = leaked();
    assert_eq!(told(&*setup.disk, "leaked").clusters, 3);
    let leaked: Vec<u64> = dump_zones(&*setup.disk)
        .unwrap()
        .iter()
        .filter(|zone| zone.kind == "z")
        .flat_map(|zone| (0..SLOTS).map(|slot| zone.offset + slot * CLUSTER))
        .filter(|&place| setup.disk.allocated(place, CLUSTER).unwrap() > Some(0))
        .filter(|place| !used(&*setup.disk).contains(place))
        .collect();
    assert_eq!(leaked.len(), 3);

    // Its zone becomes full, and nothing lives in it any more but the summaries of three others: until those have gone.
    let mut rounds = 0;
    while told(&*setup.disk, "worn").clusters > 0 {
        let image = setup.open();
        write(&image, 8..1100, Content::Text(2));
        image.discard(0, 1200 * CLUSTER).unwrap();
        image.flush().unwrap();
        image.close().unwrap();
        rounds += 1;
        assert!(rounds < 6, "{:?}", check(&*setup.disk));
    }
    assert_eq!(told(&*setup.disk, "freed"), Leaks::default());
    assert!(
        rounds > 1 && leaked.iter().all(|&place| setup.disk.allocated(place, CLUSTER).unwrap() == Some(0))
    );

    // And what comes there next has zeros around it, not what was left over.
    let image = setup.open();
    write(&image, 0..1100, Content::Text(3));
    let mut content = vec![0; 65536];
    for cluster in 0..1100 {
        image.read(cluster * CLUSTER, &mut content, &[]).unwrap();
        assert_eq!(content[..8192], bytes(Content::Text(3), 8192), "{cluster}");
        assert!(content[8192..].iter().all(|&byte| byte == 0), "{cluster}");
    }
    image.close().unwrap();
    assert!(told(&*setup.disk, "used again").clusters == 0);
}

/// Where the power fails while clusters move and are given up, some are left over; recovery changes nothing of that.
#[test]
fn what_a_crash_leaves_over_is_told() {
    let setup = fresh();
    let image = setup.open();
    write(&image, 0..6, Content::Text(1));
    image.close().unwrap();
    let image = setup.open();
    let first = setup.disk.position();
    write(&image, 0..2, Content::Noise(1));
    write(&image, 8..10, Content::Noise(2));
    image.discard(3 * CLUSTER, 2 * CLUSTER).unwrap();
    image.flush().unwrap();
    // One that is never durable, below one that may be.
    image.write(20 * CLUSTER, &bytes(Content::Text(5), 8192), &[]).unwrap();
    image.write(21 * CLUSTER, &bytes(Content::Text(6), 8192), &[]).unwrap();
    let (history, mut random) = (setup.disk.history(), Random::new(1));
    let (mut before, mut after, mut states) = (BTreeSet::new(), BTreeSet::new(), 0);
    for point in history.points(first) {
        for choice in point.choices(6, &mut random) {
            let when = format!("{} {choice}\n{}", point.position(), point.describe());
            let crashed = Setup { disk: Arc::new(point.disk(choice)), backing: None, options: options() };
            let left = told(&*crashed.disk, &when);
            crashed.open().close().unwrap();
            assert_eq!(told(&*crashed.disk, &when), left, "recovered, {when}");
            before.insert(left.clusters);
            after.insert(left.bytes);
            states += 1;
        }
    }
    assert!(states > 50 && before.len() > 2 && before.contains(&0), "{states}: {before:?} {after:?}");
}

#[test]
fn nobody_guesses() {
    // Without holes all that was ever written takes space, used or not.
    let disk = SimulatedDisk::new(SimulatedOptions { holes: false, ..SimulatedOptions::file() });
    create(&disk, &CreateOptions { max_size: Some(1 << 28), ..CreateOptions::new(CLUSTER * 100) }).unwrap();
    let setup = Setup { disk: Arc::new(disk), backing: None, options: options() };
    let image = setup.open();
    write(&image, 0..4, Content::Text(1));
    image.discard(0, 2 * CLUSTER).unwrap();
    image.close().unwrap();
    let report = check(&*setup.disk).unwrap();
    assert!(report.is_clean() && report.leaks.is_none() && !report.has_leaks(), "{report:?}");
    // And where a zone is not described all of it would be a leak.
    let setup = fresh();
    let image = setup.open();
    write(&image, 0..4, Content::Text(1));
    image.close().unwrap();
    let table = superblock(&*setup.disk).unwrap().layout.zone_table;
    setup.disk.write(table, &[0xee; 512]).unwrap();
    let report = check(&*setup.disk).unwrap();
    assert!(!report.is_clean() && report.leaks.is_none(), "{report:?}");
}
