//! An image on its own that is put over another one: it reads the same at every moment.

use super::*;

/// An image that was over a backing image, on its own, with clusters of all kinds; and what its disk reads as.
fn alone(was_over: bool) -> (Setup, Vec<u8>) {
    let setup = Setup::new(was_over, options());
    let setup = Setup { disk: Arc::new(setup.disk.copy_as(SimulatedOptions::file())), ..setup };
    let image = setup.open();
    for (at, content) in [(1, Content::Text(1)), (20, Content::Noise(1)), (5 * 16 + 3, Content::Text(2))] {
        image.write(at * 4096, &bytes(content, 8192), &[]).unwrap();
    }
    image.write(70 * 4096 + 512, &bytes(Content::Text(4), 512), &[]).unwrap();
    image.discard(9 * 65536, 2 * 65536).unwrap();
    image.close().unwrap();
    rebase(&*setup.disk, None).unwrap();
    let setup = Setup { backing: None, ..setup };
    let image = setup.open();
    image.write(40 * 65536 + 4096, &bytes(Content::Text(3), 4096), &[]).unwrap();
    let model = whole(&image);
    // Recovered when it is opened next.
    image.flush().unwrap();
    drop(image);
    (setup, model)
}

fn below() -> Backing {
    let identity = Identity { size: SIZE, ..Identity::default() };
    Backing { path: "parent".to_owned(), format: BackingFormat::Raw, identity, reach: 0 }
}

/// Another backing image, no block of which is zeros.
fn another() -> Arc<dyn BlockDevice> {
    Arc::new(MemoryDisk::from_bytes(vec![0xa5; usize::try_from(SIZE).unwrap()], true).unwrap())
}

#[test]
fn a_disk_reads_the_same_in_every_crash_state_of_being_put_over_another() {
    for was_over in [false, true] {
        let (setup, model) = alone(was_over);
        let first = setup.disk.position();
        let image = setup.open();
        let held = image.hold_zeroes(0, SIZE).unwrap();
        assert!(held > SIZE / 2 && held < SIZE, "{held}");
        assert_eq!(difference(&whole(&image), &model), None);
        assert_eq!(image.hold_zeroes(0, SIZE).unwrap(), 0, "it is said already");
        image.close().unwrap();
        rebase(&*setup.disk, Some(below())).unwrap();
        let (history, mut random) = (setup.disk.history(), Random::new(7));
        let (mut before, mut after) = (0, 0);
        for point in history.points(first) {
            for choice in point.choices(8, &mut random) {
                let disk = Arc::new(point.disk(choice));
                let over = superblock(&*disk).unwrap().backing.is_some();
                *(if over { &mut after } else { &mut before }) += 1;
                let crashed = Setup { disk, backing: over.then(another), options: options() };
                let place = difference(&whole(&crashed.open()), &model);
                assert_eq!(place, None, "{over} {} {choice}\n{}", point.position(), point.describe());
            }
        }
        assert!(before > 20 && after > 0, "{before} {after}");
    }
}

#[test]
fn zeros_that_are_not_held_are_what_is_below() {
    let (setup, model) = alone(true);
    let image = setup.open();
    // Two clusters that are nowhere, and all of a disk but those.
    image.hold_zeroes(0, 50 * 65536).unwrap();
    image.hold_zeroes(52 * 65536, SIZE - 52 * 65536).unwrap();
    image.close().unwrap();
    rebase(&*setup.disk, Some(below())).unwrap();
    let setup = Setup { backing: Some(another()), ..setup };
    let image = setup.open();
    let mut expected = model;
    expected[50 * 65536..52 * 65536].fill(0xa5);
    assert_eq!(difference(&whole(&image), &expected), None);
    assert_eq!(image.hold_zeroes(0, 4096).unwrap_err().kind(), ErrorKind::Invalid);
    assert!(check(&*setup.disk).unwrap().is_clean());
}
