//! Requests of every kind, many queues, interrupts, and frontends that go, come back or misbehave.

use std::io::Write;
use std::os::unix::net::UnixStream;

use sky_devices::block::BlockDevice;
use vhost::VhostBackend;
use vm_memory::{Bytes, GuestAddress};

use crate::frontend::*;

const OK: u8 = 0;
const IOERR: u8 = 1;

fn pattern(seed: usize, length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + seed * 7 + at / 256) as u8).collect()
}

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [sector.to_le_bytes().as_slice(), &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
}

#[test]
fn every_kind_of_request_reaches_the_disk() {
    let (server, disk) = Server::over_memory(1 << 20, 1);
    let mut driver = Driver::start(&server, 1, VERSION_1);
    let data = pattern(1, 8192);
    assert_eq!(driver.request(0, OUT, 16, &data, 0).0, OK);
    assert_eq!(&disk.contents()[8192..16384], &data);
    assert_eq!(driver.request(0, FLUSH, 0, &[], 0).0, OK);
    assert_eq!(driver.request(0, IN, 17, &[], 512), (OK, data[512..1024].to_vec()));
    assert_eq!(driver.request(0, WRITE_ZEROES, 0, &range(16, 8, 1), 0).0, OK);
    assert_eq!(driver.request(0, DISCARD, 0, &range(24, 4, 0), 0).0, OK);
    assert_eq!(&disk.contents()[8192..14336], &[0; 6144]);
    assert_eq!(&disk.contents()[14336..16384], &data[6144..]);
    let (status, serial) = driver.request(0, GET_ID, 0, &[], 20);
    assert_eq!((status, serial.as_slice()), (OK, b"vhost-test\0\0\0\0\0\0\0\0\0\0".as_slice()));
    assert_eq!(driver.request(0, OUT, 2048, &data, 0).0, IOERR, "behind the end of the disk");
    assert_eq!(driver.request(0, 99, 0, &[], 0).0, 2, "a type that nobody offered");
    server.stop();
}

#[test]
fn configuration_space_tells_size_and_queues() {
    let (server, _disk) = Server::over_memory(3 << 20, 4);
    let mut driver = Driver::start(&server, 4, VERSION_1);
    let config = driver.config();
    assert_eq!(config[..8], (3u64 << 11).to_le_bytes(), "capacity");
    assert_eq!(config[20..24], 512u32.to_le_bytes(), "block size");
    assert_eq!(config[34..36], 4u16.to_le_bytes(), "queues");
    server.stop();
}

#[test]
fn queues_work_side_by_side() {
    let (server, disk) = Server::over_memory(1 << 20, 4);
    let mut driver = Driver::start(&server, 4, VERSION_1);
    for round in 0..50 {
        for queue in 0..4 {
            for slot in 0..5 {
                let sector = u64::from(queue * 5 + slot) * 8;
                let data = pattern(usize::from(round * 20 + queue * 5 + slot), 4096);
                driver.offer(queue, slot, OUT, sector, &data, 0);
            }
        }
        (0..4).for_each(|queue| driver.kick(queue));
        (0..4).for_each(|queue| driver.wait(queue, 5));
        let contents = disk.contents();
        for index in 0..20 {
            let expected = pattern(usize::from(round) * 20 + index, 4096);
            assert_eq!(&contents[index * 4096..(index + 1) * 4096], expected, "round {round}, block {index}");
        }
    }
    server.stop();
}

#[test]
fn interrupts_follow_the_event_index() {
    let (server, _disk) = Server::over_memory(1 << 20, 1);
    let mut driver = Driver::start(&server, 1, VERSION_1 | EVENT_IDX);
    driver.interrupt_after(0, 3);
    for slot in 0..3 {
        driver.offer(0, slot, IN, 0, &[], 512);
        driver.kick(0);
        driver.wait(0, 1);
        if slot == 0 {
            // The third of these is the one: the mark stays where it was put.
            assert_eq!(driver.interrupts(0), 0);
        }
    }
    // The used index is visible before the interrupt is sent.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while driver.interrupts(0) == 0 {
        assert!(std::time::Instant::now() < deadline, "no interrupt for the third request");
        std::thread::yield_now();
    }
    server.stop();
}

#[test]
fn interrupts_can_be_switched_off_by_the_flag() {
    let (server, _disk) = Server::over_memory(1 << 20, 1);
    let mut driver = Driver::start(&server, 1, VERSION_1);
    driver.memory.write_obj(1u16, GuestAddress(available(0))).unwrap();
    for _ in 0..5 {
        assert_eq!(driver.request(0, IN, 0, &[], 512).0, OK);
    }
    // Stopping the queue waits for what its thread does, so a late interrupt would be there by now.
    driver.frontend.get_vring_base(0).unwrap();
    assert_eq!(driver.interrupts(0), 0);
    server.stop();
}

#[test]
fn frontends_come_one_after_the_other() {
    let (server, disk) = Server::over_memory(1 << 20, 2);
    for round in 0..3 {
        let mut driver = Driver::start(&server, 2, VERSION_1);
        assert_eq!(driver.request(1, OUT, round, &[round as u8 + 1; 512], 0).0, OK);
    }
    // One that says nothing, and one that says nonsense.
    drop(UnixStream::connect(server.socket()).unwrap());
    UnixStream::connect(server.socket()).unwrap().write_all(&[0xff; 4096]).unwrap();
    let mut driver = Driver::start(&server, 1, VERSION_1);
    assert_eq!(driver.request(0, IN, 0, &[], 1536).1, disk.contents()[..1536]);
    assert_eq!(disk.contents()[1024], 3);
    server.stop();
}

#[test]
fn broken_rings_stop_one_connection_only() {
    let (server, _disk) = Server::over_memory(1 << 20, 1);
    let driver = Driver::start(&server, 1, VERSION_1);
    // More is available than the queue has entries.
    driver.memory.write_obj(1000u16, GuestAddress(available(0) + 2)).unwrap();
    driver.kick(0);
    drop(driver);
    let mut driver = Driver::start(&server, 1, VERSION_1);
    assert_eq!(driver.request(0, IN, 0, &[], 512).0, OK);
    // The server ends with the connection still there.
    server.stop();
}

#[test]
fn a_read_only_disk_says_so() {
    let disk =
        std::sync::Arc::new(sky_devices::block::MemoryDisk::from_bytes(vec![7; 1 << 20], true).unwrap());
    assert!(disk.geometry().read_only);
    let server = Server::new(disk, 1);
    let mut driver = Driver::start(&server, 1, VERSION_1 | 1 << 5);
    assert_eq!(driver.request(0, OUT, 0, &[0; 512], 0).0, IOERR);
    assert_eq!(driver.request(0, IN, 0, &[], 512), (OK, vec![7; 512]));
    server.stop();
}
