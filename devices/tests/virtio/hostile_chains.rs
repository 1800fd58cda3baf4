//! Whatever a chain looks like, the device does exactly what the [oracle](crate::oracle) says, and nothing besides.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use sky_devices::block::MemoryDisk;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

use crate::driver::*;
use crate::oracle::{Raw, World};

const SECTORS: usize = 64;
const DATA_END: u64 = DATA_BASE + DATA_SIZE as u64;
/// Where an indirect table is put: at the end of guest memory.
const INDIRECT: u64 = DATA_END - 0x100;

/// One hostile case, before it is laid out.
#[derive(Clone, Debug)]
struct Case {
    kind: u32,
    sector: u64,
    ranges: Vec<SectorRange>,
    /// Lengths of the pieces that the header and data are cut into, and of the writable ones.
    readable: Vec<u32>,
    writable: Vec<u32>,
    addresses: Vec<u64>,
    changes: Vec<(usize, Change)>,
    head: u16,
    indirect: bool,
    read_only: bool,
}

/// What a hostile driver does to a descriptor.
#[derive(Clone, Debug)]
enum Change {
    Address(u64),
    Length(u32),
    Flags(u16),
    Next(u16),
}

fn inside() -> impl Strategy<Value = u64> {
    DATA_BASE..INDIRECT - 0x2000
}

fn change() -> impl Strategy<Value = Change> {
    let wild = prop_oneof![
        select(vec![0x200_0000, DATA_BASE - 1, DATA_END - 1, DATA_END, u64::MAX, u64::MAX - 511, INDIRECT]),
        DATA_END - 2048..DATA_END,
        inside(),
    ];
    let length = prop_oneof![
        select(vec![0, 1, 15, 16, 511, 512, 513, 0x8_0000, u32::MAX, u32::MAX - 600]),
        0..2048_u32
    ];
    prop_oneof![
        wild.prop_map(Change::Address),
        length.prop_map(Change::Length),
        (0..8_u16).prop_map(Change::Flags),
        any::<u16>().prop_map(Change::Flags),
        (0..QUEUE_SIZE + 2).prop_map(Change::Next),
        any::<u16>().prop_map(Change::Next),
    ]
}

/// Piece lengths of a request as a driver would cut it: readable and writable ones.
fn sensible(kind: u32) -> impl Strategy<Value = (Vec<u32>, Vec<u32>)> {
    let header = select(vec![vec![16], vec![4, 12], vec![7, 0, 9], vec![1, 14, 1]]);
    let data = match kind {
        IN | OUT => select(vec![vec![], vec![512], vec![100, 412], vec![1024, 512], vec![0, 513, 511, 0]]),
        GET_ID => select(vec![vec![20], vec![3, 17], vec![24]]),
        DISCARD | WRITE_ZEROES => select(vec![vec![16], vec![32], vec![5, 43], vec![16, 16]]),
        _ => select(vec![vec![]]),
    };
    (header, data, any::<bool>(), any::<bool>()).prop_map(
        move |(header, data, merge_header, merge_status)| {
            let (input, output) = if matches!(kind, IN | GET_ID) { (vec![], data) } else { (data, vec![]) };
            (join(header, input, merge_header), join(output, vec![1], merge_status))
        },
    )
}

/// Two lists of pieces one after the other, the pieces where they meet perhaps made one.
fn join(mut first: Vec<u32>, mut second: Vec<u32>, merge: bool) -> Vec<u32> {
    if merge && let (Some(last), false) = (first.last_mut(), second.is_empty()) {
        *last += second.remove(0);
    }
    first.extend(second);
    first
}

fn senseless() -> impl Strategy<Value = (Vec<u32>, Vec<u32>)> {
    let lengths = || vec(prop_oneof![select(vec![0_u32, 1, 16, 17, 512, 513, 1024]), 0..700_u32], 0..4);
    (lengths(), lengths())
}

fn case() -> impl Strategy<Value = Case> {
    let kinds =
        prop_oneof![14 => select(vec![IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES]), 1 => any::<u32>()];
    let pieces = kinds.prop_flat_map(|kind| (Just(kind), prop_oneof![5 => sensible(kind), 1 => senseless()]));
    let sector = prop_oneof![9 => 0..SECTORS as u64 + 2, 1 => any::<u64>()];
    let sectors = prop_oneof![9 => 0..9_u32, 1 => any::<u32>()];
    let range = (sector.clone(), sectors, select(vec![0_u32, 0, 0, 0, 0, 1, 1, 2]));
    let changes = prop_oneof![Just(vec![]), vec((0..16_usize, change()), 1..4)];
    let layout = (0..QUEUE_SIZE, any::<bool>(), prop::bool::weighted(0.1));
    (pieces, sector, vec(range, 40), vec(inside(), 16), changes, layout).prop_map(
        |((kind, (readable, writable)), sector, ranges, addresses, changes, (head, indirect, read_only))| {
            Case { kind, sector, ranges, readable, writable, addresses, changes, head, indirect, read_only }
        },
    )
}

/// Lays a case out: the main table, and guest memory with what the driver wrote.
fn lay_out(case: &Case) -> (Vec<Raw>, Vec<u8>) {
    let mut data: Vec<u8> = (0..DATA_SIZE).map(|at| (at * 31 + at / 253) as u8).collect();
    let mut stream = [header(case.kind, case.sector), ranges(&case.ranges)].concat().into_iter();
    let mut chain = vec![];
    let pieces = case
        .readable
        .iter()
        .map(|&length| (length, 0))
        .chain(case.writable.iter().map(|&length| (length, FLAG_WRITE)));
    for ((length, flags), &address) in pieces.zip(&case.addresses) {
        if flags == 0 {
            let at = usize::try_from(address - DATA_BASE).unwrap();
            let room = &mut data[at..at + length as usize];
            room.iter_mut().zip(stream.by_ref()).for_each(|(to, from)| *to = from);
        }
        chain.push(Raw { address, length, flags: flags | FLAG_NEXT, next: 0 });
    }
    if let Some(last) = chain.last_mut() {
        last.flags &= !FLAG_NEXT;
    }
    // The chain starts at `head` and wraps around the table; an indirect one starts at zero.
    let start = if case.indirect { 0 } else { case.head };
    let mut table = vec![Raw { address: 0, length: 0, flags: 0, next: 0 }; usize::from(QUEUE_SIZE)];
    for (place, mut entry) in (start..).zip(chain.clone()) {
        entry.next = (place + 1) % QUEUE_SIZE;
        table[usize::from(place % QUEUE_SIZE)] = entry;
    }
    for (index, change) in &case.changes {
        let entry = &mut table[(usize::from(start) + index % chain.len().max(1)) % usize::from(QUEUE_SIZE)];
        match *change {
            Change::Address(address) => entry.address = address,
            Change::Length(length) => entry.length = length,
            Change::Flags(flags) => entry.flags = flags,
            Change::Next(next) => entry.next = next,
        }
    }
    if case.indirect {
        let at = usize::try_from(INDIRECT - DATA_BASE).unwrap();
        for (room, entry) in data[at..].chunks_mut(16).zip(&table) {
            let bytes = [
                &entry.address.to_le_bytes()[..],
                &entry.length.to_le_bytes(),
                &entry.flags.to_le_bytes(),
                &entry.next.to_le_bytes(),
            ];
            room.copy_from_slice(&bytes.concat());
        }
        table[usize::from(case.head)] =
            Raw { address: INDIRECT, length: 16 * u32::from(QUEUE_SIZE), flags: FLAG_INDIRECT, next: 0 };
    }
    (table, data)
}

/// Everything in the ring's region but the used ring, which alone the device may write.
fn rings(driver: &Driver) -> Vec<u8> {
    let mut bytes = vec![0; 0x2_0000];
    driver.memory.memory().read_slice(&mut bytes, GuestAddress(RING_BASE.into())).unwrap();
    bytes[0x8000..0x9000].fill(0);
    bytes
}

/// The world of a case, as its oracle sees it.
fn world(case: &Case, data: Vec<u8>) -> World {
    World { data, disk: numbered(0, SECTORS), read_only: case.read_only }
}

fn check(case: &Case) {
    let (table, data) = lay_out(case);
    let mut world = world(case, data);
    let disk = Arc::new(MemoryDisk::from_bytes(world.disk.clone(), case.read_only).unwrap());
    let mut driver = Driver::over(disk.clone(), 1);
    driver.memory.memory().write_slice(&world.data, GuestAddress(DATA_BASE)).unwrap();
    for (index, entry) in (0..).zip(&table) {
        let descriptor = Descriptor::new(entry.address, entry.length, entry.flags, entry.next);
        driver.set_descriptor(Driver::ring(0), index, descriptor);
    }
    driver.offer(0, case.head);
    let rings_before = rings(&driver);
    driver.kick(0);
    let used = driver.wait(0);
    let (length, _) = world.serve(&table, case.head);
    assert_eq!(used, (u32::from(case.head), length), "used ring");
    assert_eq!(first_difference(&driver.data(), &world.data), None, "guest memory");
    assert_eq!(first_difference(&disk.contents(), &world.disk), None, "disk");
    assert_eq!(first_difference(&rings(&driver), &rings_before), None, "rings");
}

fn first_difference(found: &[u8], expected: &[u8]) -> Option<(usize, u8, u8)> {
    assert_eq!(found.len(), expected.len());
    let at = found.iter().zip(expected).position(|(a, b)| a != b)?;
    Some((at, found[at], expected[at]))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn chains_do_what_the_oracle_says(case in case()) {
        check(&case);
    }
}

/// A generator that only ever made refusals would leave the test above with little to say.
#[test]
fn the_cases_are_varied() {
    let mut runner = TestRunner::deterministic();
    let mut counts = BTreeMap::new();
    for _ in 0..1000 {
        let case = case().new_tree(&mut runner).unwrap().current();
        let (table, data) = lay_out(&case);
        let mut world = world(&case, data);
        let (length, status) = world.serve(&table, case.head);
        let outcome = match status {
            None => "silent",
            Some(OK) if world.disk != numbered(0, SECTORS) => "disk changed",
            Some(OK) if length > 21 => "disk read",
            Some(OK) => "other success",
            Some(UNSUPP) => "unsupported",
            Some(_) => "error",
        };
        *counts.entry(outcome).or_insert(0) += 1;
    }
    assert_eq!(counts.len(), 6, "{counts:?}");
    assert!(counts.values().all(|&count| count >= 50), "{counts:?}");
}
