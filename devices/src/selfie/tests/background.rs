//! The image's own thread, on a medium that fails.

use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::block::simulated::{Fault, FaultKind, FaultOn};
use crate::selfie::format::ZoneKind;

const CLUSTER: u64 = 65536;

fn setup() -> Setup {
    let disk = SimulatedDisk::new(SimulatedOptions { record: false, ..SimulatedOptions::file() });
    create(&disk, &CreateOptions { max_size: Some(1 << 30), ..CreateOptions::new(2000 * CLUSTER) }).unwrap();
    Setup { disk: Arc::new(disk), backing: None, options: OpenOptions::default() }
}

fn write(image: &Selfie, clusters: std::ops::Range<u64>) {
    for cluster in clusters {
        image.write(cluster * CLUSTER, &bytes(Content::Text(1), 4096), &[]).unwrap();
        image.flush().unwrap();
    }
}

/// Waits for the thread, which nobody else can hurry.
#[track_caller]
fn until(what: &str, mut happens: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !happens() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Room for another zone is all that is missing: its summaries have theirs, and are written when the disk is idle.
#[test]
fn what_needs_no_space_is_done_on_a_full_medium() {
    let setup = setup();
    let image = setup.open();
    write(&image, 0..300);
    until("zeros", || image.core.zones.wants_zeroes(ZoneKind::Z).is_none());
    let (kind, lasting, partial) = (FaultKind::NoSpace, true, false);
    setup.disk.inject(Fault { on: FaultOn::Grow, after: 0, kind, lasting, partial });
    let begun = Instant::now();
    write(&image, 300..1000);
    until("the zone cannot be zeroed ahead", || image.stats().background_errors > 0);
    until("summaries", || image.stats().summaries > 0);
    // After each error it waits for half a second at least, however much is written.
    let (errors, waited) = (image.stats().background_errors, begun.elapsed());
    assert!(u128::from(errors) <= waited.as_millis() / 500 + 1, "{errors} errors in {waited:?}");
    // And when there is space again it goes on where it was.
    setup.disk.clear_faults();
    until("zeros ahead", || image.core.zones.wants_zeroes(ZoneKind::Z).is_none());
    assert!(!image.worker.as_ref().unwrap().is_over());
    image.close().unwrap();
    assert!(check(&*setup.disk).unwrap().is_clean());
}

/// An error that passes, whatever it meets: the thread gets over it, and the disk is right.
#[test]
fn errors_that_pass_end_nothing() {
    let faults = [(FaultOn::Write, 0), (FaultOn::Write, 7), (FaultOn::Write, 300), (FaultOn::Grow, 0)];
    for (on, after) in faults {
        let setup = setup();
        let image = setup.open();
        write(&image, 0..100);
        let (kind, lasting, partial) = (FaultKind::Io, false, true);
        setup.disk.inject(Fault { on, after, kind, lasting, partial });
        for cluster in 100..900 {
            // It may be the writer who meets it; it is told, and writes again.
            let text = bytes(Content::Text(1), 4096);
            until("a write", || image.write(cluster * CLUSTER, &text, &[]).is_ok());
            until("a flush", || image.flush().is_ok());
        }
        setup.disk.clear_faults();
        until("zeros ahead", || image.core.zones.wants_zeroes(ZoneKind::Z).is_none());
        assert!(!image.worker.as_ref().unwrap().is_over(), "{on:?} {after}");
        let mut back = vec![1; 4096];
        for cluster in 0..900 {
            image.read(cluster * CLUSTER, &mut back, &[]).unwrap();
            assert_eq!(difference(&back, &bytes(Content::Text(1), 4096)), None, "{on:?} {after} {cluster}");
        }
        image.close().unwrap();
        assert!(check(&*setup.disk).unwrap().is_clean(), "{on:?}");
    }
}

/// Zeros that could not be made durable: from then on nothing is written, by nobody, and the thread ends.
#[test]
fn a_sync_that_fails_is_the_end() {
    let setup = setup();
    let image = setup.open();
    write(&image, 0..20);
    until("zeros", || image.core.zones.wants_zeroes(ZoneKind::Z).is_none());
    let (kind, lasting, partial) = (FaultKind::Io, false, false);
    setup.disk.inject(Fault { on: FaultOn::Sync, after: 0, kind, lasting, partial });
    // Nobody flushes, and so it is zeros that are synced first: the writer's, or the thread's.
    let full = (20..2000)
        .find_map(|cluster| image.write(cluster * CLUSTER, &bytes(Content::Text(1), 4096), &[]).err());
    full.expect("without zeros there is nothing to write to");
    until("the end of the thread", || {
        image.wake();
        image.worker.as_ref().unwrap().is_over()
    });
    let errors = image.stats().background_errors;
    let writes = setup.disk.counts().writes;
    assert_eq!(image.flush().unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(image.write(0, &[1; 4096], &[]).unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(image.chore(Chore::WriteZeroes).unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!((image.stats().background_errors, setup.disk.counts().writes), (errors, writes));
    assert!(errors <= 2, "{errors}");
    // What was flushed before is there.
    let disk = Arc::new(setup.disk.copy());
    drop(image);
    let image = Setup { disk, backing: None, options: options() }.open();
    let mut back = vec![1; 4096];
    image.read(19 * CLUSTER, &mut back, &[]).unwrap();
    assert_eq!(difference(&back, &bytes(Content::Text(1), 4096)), None);
}
