//! Summaries that are not durable yet, or could not be written.

use super::*;
use crate::block::simulated::{Fault, FaultKind, FaultOn};

fn recorded(backed: bool) -> Setup {
    let setup = Setup::new(backed, options());
    Setup { disk: Arc::new(setup.disk.copy_as(SimulatedOptions::file())), ..setup }
}

/// A disk of more than a zone, whose chores are done when they are asked for, and in which all that is embedded goes
/// into one zone after the other.
fn tended() -> Setup {
    let disk = SimulatedDisk::new(SimulatedOptions { record: false, ..SimulatedOptions::file() });
    create(&disk, &CreateOptions { max_size: Some(1 << 30), ..CreateOptions::new(1100 * 65536) }).unwrap();
    let options = OpenOptions { tended: true, stream: u64::MAX, ..options() };
    Setup { disk: Arc::new(disk), backing: None, options }
}

/// The entry of a zone cannot be written once, after its summary was.
fn fail_entry(setup: &Setup) {
    let (kind, lasting, partial) = (FaultKind::Io, false, false);
    setup.disk.inject(Fault { on: FaultOn::Write, after: 1, kind, lasting, partial });
}

/// A block that its header calls fresh, and that is zeros, is taken for one that was never written: until its summary
/// is what counts, durably, such a block must not be made zeros.
#[test]
fn no_parent_shows_through_what_was_zeroed_after_its_summary() {
    for (fails, unmap) in [(false, true), (false, false), (true, true), (true, false)] {
        let setup = recorded(true);
        let image = setup.open();
        let text = bytes(Content::Text(1), 65536);
        image.write(0, &text, &[]).unwrap();
        image.flush().unwrap();
        let first = setup.disk.position();
        if fails {
            fail_entry(&setup);
        }
        assert_eq!(image.chore(Chore::CollectAll).is_err(), fails);
        image.write_zeroes(8192, 4096, unmap).unwrap();
        image.flush().unwrap();
        let (history, mut random) = (setup.disk.history(), Random::new(1));
        for point in history.points(first) {
            for choice in point.choices(64, &mut random) {
                let crashed = Setup {
                    disk: Arc::new(point.disk(choice)),
                    backing: setup.backing.clone(),
                    options: options(),
                };
                let mut back = vec![1; 4096];
                crashed.open().read(8192, &mut back, &[]).unwrap();
                let known = back == text[8192..12288] || back.iter().all(|&byte| byte == 0);
                assert!(known, "{fails} {unmap} {} {choice}\n{}", point.position(), point.describe());
            }
        }
    }
}

/// It is written when the image is closed at the latest: nobody looks at headers then.
#[test]
fn an_entry_that_could_not_be_written_is_written_later() {
    let setup = tended();
    let image = setup.open();
    // All of a zone, so that no other zone's entry is written beside its own.
    let text = bytes(Content::Text(3), 4096);
    (0..1023).for_each(|cluster| image.write(cluster * 65536, &text, &[]).unwrap());
    image.flush().unwrap();
    fail_entry(&setup);
    assert!(image.chore(Chore::CollectFull).is_err());
    image.close().unwrap();
    let image = setup.open();
    let mut back = vec![1; 4096];
    for cluster in 0..1023 {
        image.read(cluster * 65536, &mut back, &[]).unwrap();
        assert_eq!(difference(&back, &text), None, "{cluster}");
    }
}

/// The zone of a cluster that lives stays, though its summary failed.
#[test]
fn a_summary_that_failed_frees_nothing() {
    let setup = tended();
    let image = setup.open();
    let text = bytes(Content::Text(3), 4096);
    (0..1030).for_each(|cluster| image.write(cluster * 65536, &text, &[]).unwrap());
    image.flush().unwrap();
    for _ in 0..2 {
        fail_entry(&setup);
        assert!(image.chore(Chore::CollectFull).is_err());
    }
    // All but two of the first zone's, which has its summary, too.
    image.discard(2 * 65536, 1028 * 65536).unwrap();
    image.flush().unwrap();
    let mut back = vec![1; 4096];
    for round in 0..2 {
        for cluster in 0..2 {
            image.read(cluster * 65536, &mut back, &[]).unwrap();
            assert_eq!(difference(&back, &text), None, "{cluster}, {round}");
        }
        assert_eq!(image.info().free_zones, 0);
        (100..200).for_each(|cluster| image.write(cluster * 65536, &text, &[]).unwrap());
        image.flush().unwrap();
    }
    image.close().unwrap();
    let report = check(&*setup.disk).unwrap();
    assert!(report.is_clean(), "{report:?}");
}
