//! Any sequence of requests leaves the disk as a vector of bytes would be, and reads what the vector holds.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use sky_devices::block::{BlockDevice, MemoryDisk, RawFile, RawOptions};
use vmm_sys_util::fallocate::{FallocateMode, fallocate};

use crate::driver::*;

const SECTORS: u64 = 96;

#[derive(Clone, Debug)]
enum Action {
    Read { sector: u64, sectors: usize },
    Write { sector: u64, sectors: usize, seed: u8 },
    Discard(Vec<(u64, u32)>),
    Zero(Vec<(u64, u32, bool)>),
    Flush,
}

fn action() -> impl Strategy<Value = Action> {
    // A little beyond the end, so that some are refused.
    let sector = 0..SECTORS + 2;
    prop_oneof![
        (sector.clone(), 0..20_usize).prop_map(|(sector, sectors)| Action::Read { sector, sectors }),
        (sector.clone(), 0..20_usize, any::<u8>()).prop_map(|(sector, sectors, seed)| Action::Write {
            sector,
            sectors,
            seed
        }),
        vec((sector.clone(), 0..20_u32), 1..4).prop_map(Action::Discard),
        vec((sector, 0..20_u32, any::<bool>()), 1..4).prop_map(Action::Zero),
        Just(Action::Flush),
    ]
}

/// The slice of a disk that a request means, or nothing if it is not on the disk.
fn slice(disk: &mut [u8], sector: u64, sectors: usize) -> Option<&mut [u8]> {
    let start = usize::try_from(sector).unwrap() * 512;
    disk.get_mut(start..start + sectors * 512)
}

/// What the action answers, after changing the model.
fn apply(model: &mut [u8], action: &Action) -> (u8, Vec<u8>) {
    let zero = |model: &mut [u8], list: &[(u64, usize)]| {
        if list.iter().any(|&(sector, sectors)| slice(model, sector, sectors).is_none()) {
            return (IOERR, vec![]);
        }
        for &(sector, sectors) in list {
            slice(model, sector, sectors).unwrap().fill(0);
        }
        (OK, vec![])
    };
    match action {
        Action::Read { sector, sectors } => match slice(model, *sector, *sectors) {
            Some(bytes) => (OK, bytes.to_vec()),
            None => (IOERR, vec![UNTOUCHED; sectors * 512]),
        },
        Action::Write { sector, sectors, seed } => match slice(model, *sector, *sectors) {
            Some(bytes) => {
                bytes.copy_from_slice(&content(*seed, *sectors));
                (OK, vec![])
            }
            None => (IOERR, vec![]),
        },
        Action::Discard(list) => {
            zero(model, &list.iter().map(|&(at, n)| (at, n as usize)).collect::<Vec<_>>())
        }
        Action::Zero(list) => {
            zero(model, &list.iter().map(|&(at, n, _)| (at, n as usize)).collect::<Vec<_>>())
        }
        Action::Flush => (OK, vec![]),
    }
}

fn content(seed: u8, sectors: usize) -> Vec<u8> {
    (0..sectors * 512).map(|at| seed.wrapping_add((at / 3) as u8)).collect()
}

fn send(driver: &mut Driver, queue: u16, cut: usize, action: &Action) -> (u8, Vec<u8>) {
    let answer = match action {
        Action::Read { sector, sectors } => driver.request_on(queue, IN, *sector, &[], sectors * 512, cut),
        Action::Write { sector, sectors, seed } => {
            driver.request_on(queue, OUT, *sector, &content(*seed, *sectors), 0, cut)
        }
        Action::Discard(list) => {
            let list: Vec<_> = list.iter().map(|&(at, n)| (at, n, 0)).collect();
            driver.request_on(queue, DISCARD, 0, &ranges(&list), 0, cut)
        }
        Action::Zero(list) => {
            let list: Vec<_> = list.iter().map(|&(at, n, unmap)| (at, n, u32::from(unmap))).collect();
            driver.request_on(queue, WRITE_ZEROES, 0, &ranges(&list), 0, cut)
        }
        Action::Flush => driver.request_on(queue, FLUSH, 0, &[], 0, cut),
    };
    (answer.status, answer.output)
}

fn check(disk: Arc<dyn BlockDevice>, contents: impl Fn() -> Vec<u8>, actions: &[(u16, usize, Action)]) {
    let mut model = contents();
    let mut driver = Driver::over(disk, 2);
    for (queue, cut, action) in actions {
        assert_eq!(send(&mut driver, *queue, *cut, action), apply(&mut model, action), "{action:?}");
    }
    driver.transport.shutdown();
    assert!(contents() == model, "the disk differs from the model");
}

fn actions() -> impl Strategy<Value = Vec<(u16, usize, Action)>> {
    // Nineteen sectors in pieces of 700 bytes are 14 descriptors, and header and status take at most two more.
    vec((0..2_u16, 700..5000_usize, action()), 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_disk_in_memory_is_a_vector_of_bytes(actions in actions()) {
        let disk = Arc::new(MemoryDisk::from_bytes(numbered(0, SECTORS as usize), false).unwrap());
        check(disk.clone(), || disk.contents(), &actions);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_raw_image_is_a_vector_of_bytes(actions in actions()) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), numbered(0, SECTORS as usize)).unwrap();
        // Without holes in its files a file system ignores discards, and the model does not know that.
        if fallocate(file.as_file(), FallocateMode::PunchHole, true, 0, 512).is_err() {
            return Ok(());
        }
        std::fs::write(file.path(), numbered(0, SECTORS as usize)).unwrap();
        let disk = Arc::new(RawFile::open(RawOptions::new(file.path())).unwrap());
        check(disk, || std::fs::read(file.path()).unwrap(), &actions);
    }
}
