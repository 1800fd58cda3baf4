//! The journal alone: what was synced comes back, in order, whatever else a crash has left.

use proptest::prelude::*;

use super::super::fingerprint::Fingerprint;
use super::*;
use crate::block::simulated::{Random, SimulatedDisk, SimulatedOptions};

const PAGES: u64 = 16;

fn ring(width: usize) -> Ring {
    Ring { offset: 8192, pages: PAGES, identity: Identity(99), width }
}

fn disk() -> SimulatedDisk {
    let size = 8192 + PAGES * BLOCK as u64;
    SimulatedDisk::new(SimulatedOptions { size, atomic_write: 512, ..SimulatedOptions::file() })
}

fn record(number: u32) -> Record {
    let name = number.is_multiple_of(2).then(|| {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        Fingerprint(bytes)
    });
    match number % 4 {
        0 | 1 => Record::New { logical: number, physical: number + 1, crc: !number, name },
        2 => Record::Share { logical: number, physical: 1 },
        _ => Record::Unmap { logical: number, count: 3 },
    }
}

#[test]
fn every_crash_leaves_what_was_synced_and_perhaps_more_in_order() {
    for width in [16, 32] {
        let disk = disk();
        let mut journal = Journal::new(ring(width), 3, 40);
        let (mut number, mut synced) = (0, vec![(0, 0)]);
        for round in 0..5u32 {
            let more = 30 + round * 41;
            journal.extend((number..number + more).map(record));
            number += more;
            assert!(journal.has_room(0));
            journal.write_out(&disk).unwrap();
            disk.sync().unwrap();
            journal.synced();
            synced.push((disk.position(), number));
        }
        let history = disk.history();
        let mut random = Random::new(1);
        for point in history.points(0) {
            for choice in point.choices(12, &mut random) {
                let found = replay(&point.disk(choice), ring(width), 3, 40).unwrap();
                let all: Vec<Record> = found.durable.iter().chain(&found.tail).cloned().collect();
                let least = synced.iter().rfind(|(position, _)| *position <= point.position()).unwrap().1;
                assert!(all.len() >= least as usize, "{} {choice}", point.position());
                assert!(found.durable.len() <= least as usize, "{} {choice}", point.position());
                assert_eq!(all, (0..u32::try_from(all.len()).unwrap()).map(record).collect::<Vec<_>>());
            }
        }
    }
}

#[test]
fn pages_of_other_epochs_are_void_and_of_later_ones_an_error() {
    let disk = disk();
    let mut journal = Journal::new(ring(32), 1, 0);
    journal.extend((0..300).map(record));
    journal.write_out(&disk).unwrap();
    let written = journal.next();
    journal.restart();
    journal.extend([record(1)]);
    journal.write_out(&disk).unwrap();
    let found = replay(&disk, ring(32), 2, written).unwrap();
    assert_eq!((found.durable, found.tail, found.next), (vec![], vec![record(1)], written + 1));
    assert_eq!(replay(&disk, ring(32), 1, 0).unwrap_err().kind(), ErrorKind::Corrupt);
    // Another image's journal is none.
    let other = Ring { identity: Identity(98), ..ring(32) };
    assert!(replay(&disk, other, 1, 0).unwrap().tail.is_empty());
}

#[test]
fn a_full_ring_asks_for_a_checkpoint() {
    let disk = disk();
    let mut journal = Journal::new(ring(32), 1, 7);
    let mut number = 0;
    while journal.has_room(0) {
        journal.extend([record(number)]);
        number += 1;
    }
    journal.write_out(&disk).unwrap();
    assert!(journal.next() - 7 <= PAGES);
    journal.extend((0..2000).map(record));
    assert_eq!(journal.write_out(&disk).unwrap_err().kind(), ErrorKind::NoSpace);
    journal.restart();
    assert!(journal.has_room(PAGES - 1));
    journal.extend([record(5)]);
    journal.write_out(&disk).unwrap();
    assert_eq!(replay(&disk, ring(32), 2, journal.next() - 1).unwrap().tail, [record(5)]);
}

proptest! {
    #[test]
    fn any_bytes_are_records_or_none(bytes in proptest::collection::vec(0..6u8, 0..120), wide in any::<bool>()) {
        let width = if wide { 32 } else { 16 };
        if let Some(records) = Record::decode_all(width, &bytes) {
            let mut again = Vec::new();
            records.iter().for_each(|record| record.encode(width, &mut again));
            prop_assert_eq!(again, bytes);
        }
    }
}
