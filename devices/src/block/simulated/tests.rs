//! The simulated disk against what its documentation says, and its crash states against a model that lists them all.

use std::collections::HashSet;

use super::*;

fn disk(size: u64) -> SimulatedDisk {
    SimulatedDisk::new(SimulatedOptions { size, ..SimulatedOptions::file() })
}

/// The first byte of each 512-byte sector.
fn sectors(disk: &SimulatedDisk) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(disk.size()).unwrap()];
    disk.read(0, &mut bytes).unwrap();
    bytes
        .chunks(512)
        .map(|sector| {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector is torn");
            sector[0]
        })
        .collect()
}

/// All states that many random choices and every regular one lead to at the last moment.
fn states(disk: &SimulatedDisk) -> HashSet<Vec<u8>> {
    let history = disk.history();
    let point = history.at(history.len());
    let mut random = Random::new(1);
    (0..200)
        .flat_map(|_| point.choices(100, &mut random))
        .map(|choice| sectors(&point.disk(choice)))
        .collect()
}

#[test]
fn holds_counts_and_takes_time() {
    let disk = disk(1 << 40);
    disk.write(1 << 39, &[7; 8192]).unwrap();
    disk.sync().unwrap();
    let mut bytes = [0; 8192];
    disk.read(1 << 39, &mut bytes).unwrap();
    assert_eq!(bytes, [7; 8192]);
    assert!(disk.punch(1 << 39, 4096).unwrap());
    let (mut first, mut second) = ([1; 512], [1; 512]);
    disk.read_many(&mut [(1 << 39, &mut first), ((1 << 39) + 4096, &mut second)]).unwrap();
    assert_eq!((first, second), ([0; 512], [7; 512]));
    let counts = disk.counts();
    assert_eq!((counts.reads, counts.read_bytes, counts.writes, counts.written_bytes), (3, 9216, 1, 8192));
    assert_eq!((counts.syncs, counts.flushes, counts.punches, counts.grows), (1, 1, 1, 0));
    let micros = 20_000 + 8 * 700 + 300_000 + (80_000 + 8 * 500) + (80_000 + 500);
    assert_eq!(disk.simulated_time(), Duration::from_nanos(micros));
    assert_eq!(disk.kept(), 4096);
}

#[test]
fn refuses_what_a_file_would() {
    let disk = SimulatedDisk::new(SimulatedOptions {
        size: 8192,
        capacity: Some(16384),
        ..SimulatedOptions::file()
    });
    assert_eq!(disk.write(8192, &[0; 512]).unwrap_err().kind(), ErrorKind::OutOfRange);
    assert_eq!(disk.read(u64::MAX - 511, &mut [0; 512]).unwrap_err().kind(), ErrorKind::OutOfRange);
    assert_eq!(disk.write(1, &[0; 512]).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(disk.read(0, &mut [0; 100]).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(disk.grow(16385).unwrap_err().kind(), ErrorKind::NoSpace);
    disk.grow(16384).unwrap();
    disk.grow(1).unwrap();
    assert_eq!(disk.size(), 16384);
    let fixed =
        SimulatedDisk::new(SimulatedOptions { size: 8192, capacity: None, ..SimulatedOptions::file() });
    assert_eq!(fixed.grow(16384).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn a_disk_without_holes_says_so_and_keeps_its_bytes() {
    let disk = SimulatedDisk::new(SimulatedOptions { size: 4096, holes: false, ..SimulatedOptions::file() });
    disk.write(0, &[1; 4096]).unwrap();
    assert!(!disk.punch(0, 4096).unwrap());
    assert_eq!((sectors(&disk), disk.counts().punches, disk.position()), (vec![1; 8], 0, 1));
}

#[test]
fn what_was_synced_is_there_and_the_rest_in_any_part() {
    let disk = disk(3 * 4096);
    disk.write(0, &[1; 3 * 4096]).unwrap();
    disk.sync().unwrap();
    disk.write(0, &[2; 8192]).unwrap();
    disk.write(8192, &[3; 4096]).unwrap();
    // Each of three blocks is old or new, whatever the others are.
    let block = |byte: u8| vec![byte; 8];
    let expected: HashSet<_> = (0..8)
        .map(|bits| [block(1 + bits % 2), block(1 + bits / 2 % 2), block(1 + bits / 4 * 2)].concat())
        .collect();
    assert_eq!(states(&disk), expected);
}

#[test]
fn writes_are_torn_at_the_sectors_of_a_disk_with_small_ones() {
    let options = SimulatedOptions { size: 2048, atomic_write: 512, ..SimulatedOptions::file() };
    let disk = SimulatedDisk::new(options);
    disk.write(512, &[5; 1536]).unwrap();
    let expected: HashSet<_> =
        (0..8).map(|bits| vec![0, bits % 2 * 5, bits / 2 % 2 * 5, bits / 4 * 5]).collect();
    assert_eq!(states(&disk), expected);
}

#[test]
fn the_later_of_two_writes_covers_the_earlier() {
    let disk = disk(512);
    disk.write(0, &[1; 512]).unwrap();
    disk.write(0, &[2; 512]).unwrap();
    assert_eq!(states(&disk), HashSet::from([vec![0], vec![1], vec![2]]));
    let history = disk.history();
    let point = history.at(2);
    assert_eq!(sectors(&point.disk(Choice::All)), [2]);
    assert_eq!(sectors(&point.disk(Choice::Without(1))), [1]);
    assert_eq!(sectors(&point.disk(Choice::Only(1))), [2]);
}

#[test]
fn growth_and_holes_may_be_lost() {
    let disk = disk(4096);
    disk.write(0, &[1; 4096]).unwrap();
    disk.sync().unwrap();
    disk.grow(8192).unwrap();
    disk.write(4096, &[2; 4096]).unwrap();
    disk.punch(0, 4096).unwrap();
    let file = |blocks: &[u8]| blocks.iter().flat_map(|&byte| [byte; 8]).collect::<Vec<_>>();
    let expected = [[1].as_slice(), &[0], &[1, 0], &[0, 0], &[1, 2], &[0, 2]];
    assert_eq!(states(&disk), expected.into_iter().map(file).collect());
}

#[test]
fn every_moment_has_its_own_past() {
    let disk = disk(4096);
    disk.write(0, &[1; 4096]).unwrap();
    disk.sync().unwrap();
    disk.write(0, &[2; 4096]).unwrap();
    let history = disk.history();
    let seen: Vec<_> = history
        .points(1)
        .map(|point| {
            let first = |choice| sectors(&point.disk(choice))[0];
            (point.position(), point.pending(), first(Choice::Nothing), first(Choice::All))
        })
        .collect();
    assert_eq!(seen, [(1, 1, 0, 1), (2, 0, 1, 1), (3, 1, 1, 2)]);
    assert_eq!(history.points(4).count(), 0);
    assert_eq!(history.at(usize::MAX).position(), 3);
}

#[test]
fn a_crashed_disk_lives_on_and_the_first_does_not_notice() {
    let disk = disk(4096);
    disk.write(0, &[1; 4096]).unwrap();
    let history = disk.history();
    let crashed = history.at(1).disk(Choice::All);
    crashed.write(0, &[2; 4096]).unwrap();
    assert_eq!((sectors(&disk)[0], sectors(&crashed)[0]), (1, 2));
    // What a crash left is on the medium: another crash cannot take it away.
    assert_eq!(sectors(&crashed.history().at(1).disk(Choice::Nothing))[0], 1);
    assert_eq!(sectors(&crashed.copy())[0], 2);
    assert_eq!((crashed.position(), crashed.copy().position()), (1, 0));
}

#[test]
fn there_are_no_more_choices_than_wanted_and_each_is_said_and_read() {
    let disk = disk(64 * 4096);
    (0..64).for_each(|block| disk.write(block * 4096, &[1; 4096]).unwrap());
    let history = disk.history();
    let point = history.at(64);
    let mut random = Random::new(3);
    assert_eq!(point.choices(1000, &mut random).len(), 3 * 64 + 8 + 2);
    let some = point.choices(10, &mut random);
    assert_eq!(some.len(), 10);
    assert!(some.contains(&Choice::Nothing) && some.contains(&Choice::All));
    for choice in point.choices(1000, &mut random) {
        assert_eq!(choice.to_string().parse(), Ok(choice));
    }
    assert_eq!("torn:1".parse::<Choice>(), Err(BadChoice));
    assert_eq!(history.at(0).choices(10, &mut random), [Choice::Nothing]);
}

#[test]
fn a_disk_that_is_not_recorded_has_no_past() {
    let disk = SimulatedDisk::new(SimulatedOptions { size: 4096, record: false, ..SimulatedOptions::file() });
    disk.write(0, &[1; 4096]).unwrap();
    disk.sync().unwrap();
    assert!(disk.history().is_empty());
}

#[test]
fn faults_fail_once_or_for_good_and_a_failed_sync_is_the_end() {
    let disk = disk(4 * 4096);
    let fault =
        Fault { on: FaultOn::Write, after: 1, kind: FaultKind::NoSpace, lasting: false, partial: true };
    disk.inject(fault);
    disk.write(0, &[1; 4096]).unwrap();
    assert_eq!(disk.write(0, &[2; 16384]).unwrap_err().kind(), ErrorKind::NoSpace);
    let blocks: Vec<u8> = sectors(&disk).into_iter().step_by(8).collect();
    assert_eq!(blocks, [2, 0, 2, 0]);
    disk.write(0, &[3; 16384]).unwrap();
    disk.inject(Fault { on: FaultOn::Read, after: 0, kind: FaultKind::Io, lasting: true, partial: false });
    for _ in 0..2 {
        assert_eq!(disk.read(0, &mut [0; 512]).unwrap_err().kind(), ErrorKind::Io);
    }
    disk.clear_faults();
    disk.read(0, &mut [0; 512]).unwrap();
    disk.inject(Fault {
        on: FaultOn::AnyChange,
        after: 0,
        kind: FaultKind::Io,
        lasting: false,
        partial: false,
    });
    assert_eq!(disk.sync().unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(disk.sync().unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(disk.write(0, &[0; 512]).unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(disk.punch(0, 4096).unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(disk.grow(1 << 20).unwrap_err().kind(), ErrorKind::Poisoned);
    // Nothing of it was made durable.
    let history = disk.history();
    assert_eq!(sectors(&history.at(history.len()).disk(Choice::Nothing)), [0; 32]);
}
