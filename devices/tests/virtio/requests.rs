//! Every kind of request, in every shape that a driver may give it, and its refusals.

use std::sync::{Arc, Mutex};

use sky_devices::block::{BlockDevice, Geometry, MemoryDisk, RawFile, RawOptions, Result};
use sky_devices::io_class::{Classifier, IoClass, IoTag};
use sky_devices::virtio::blk::{Blk, BlkSpec};
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

use crate::driver::*;

fn driver() -> (Driver, Arc<MemoryDisk>) {
    let disk = numbered_disk(64, false);
    (Driver::over(disk.clone(), 1), disk)
}

fn refusal(status: u8, room: usize) -> Answer {
    Answer { status, output: vec![UNTOUCHED; room], used_length: u32::from(room == 0) }
}

#[test]
fn reads_and_writes_whatever_the_cuts() {
    // 16 descriptors are enough for each of these; 7 splits the header and merges its rest with the data.
    for cut in [20, 16, 17, 100, 511, 512, 513, 4096] {
        let (mut driver, disk) = driver();
        let sectors = if cut < 100 { 0 } else { 1 } + cut / 512 * 4;
        let answer = driver.request(IN, 5, &[], sectors * 512, cut.max(1));
        let used_length = u32::try_from(sectors * 512 + 1).unwrap();
        assert_eq!(answer, Answer { status: OK, output: numbered(5, sectors), used_length }, "cut {cut}");
        let data = vec![0x5b; sectors * 512];
        let answer = driver.request(OUT, 9, &data, 0, cut);
        assert_eq!(answer, Answer { status: OK, output: vec![], used_length: 1 }, "cut {cut}");
        let expected = [numbered(0, 9), data, numbered(9 + sectors, 55 - sectors)].concat();
        assert_eq!(disk.contents(), expected, "cut {cut}");
    }
}

#[test]
fn a_header_may_be_cut_anywhere() {
    for cut in 2..=16 {
        let (mut driver, _disk) = driver();
        // A queue of 16 entries has no room for smaller pieces of a longer request.
        let (kind, room) = if cut >= 4 { (GET_ID, 20) } else { (FLUSH, 0) };
        assert_eq!(driver.request(kind, 0, &[], room, cut).status, OK, "cut {cut}");
    }
}

#[test]
fn get_id_answers_twenty_bytes() {
    let (mut driver, _disk) = driver();
    let serial = b"sky-test\0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
    let answer = driver.request(GET_ID, 0, &[], 20, 4096);
    assert_eq!(answer, Answer { status: OK, output: serial.clone(), used_length: 21 });
    let answer = driver.request(GET_ID, 0, &[], 24, 4096);
    // The four bytes before the status are not written, so the answer ends before them.
    assert_eq!((answer.status, answer.used_length), (OK, 20));
    assert_eq!(answer.output, [serial, vec![UNTOUCHED; 4]].concat());
    assert_eq!(driver.request(GET_ID, 0, &[], 19, 4096), refusal(IOERR, 19));
}

#[test]
fn flush_and_unknown_types() {
    let (mut driver, _disk) = driver();
    assert_eq!(driver.request(FLUSH, 0, &[], 0, 4096), refusal(OK, 0));
    for kind in [2, 3, 5, 7, 9, 10, 14, 16, u32::MAX] {
        assert_eq!(driver.request(kind, 0, &[], 512, 4096), refusal(UNSUPP, 512), "type {kind}");
        assert_eq!(driver.request(kind, 0, &[1; 3], 0, 4096), refusal(UNSUPP, 0), "type {kind}");
    }
}

#[test]
fn discard_and_write_zeroes_take_lists_of_ranges() {
    for (kind, flags) in [(DISCARD, 0), (WRITE_ZEROES, 0), (WRITE_ZEROES, 1)] {
        let (mut driver, disk) = driver();
        let list = ranges(&[(1, 2, flags), (10, 0, flags), (60, 4, flags)]);
        assert_eq!(driver.request(kind, 0, &list, 0, 20), refusal(OK, 0));
        let expected = [numbered(0, 1), vec![0; 1024], numbered(3, 57), vec![0; 2048]].concat();
        assert_eq!(disk.contents(), expected);
    }
}

#[test]
fn bad_ranges_are_refused_before_anything_happens() {
    let (mut driver, disk) = driver();
    let before = disk.contents();
    let good = (0, 8, 0);
    let cases: &[(u32, &[SectorRange], u8)] = &[
        (DISCARD, &[good, (0, 1, 1)], UNSUPP),
        (DISCARD, &[good, (0, 1, 2)], UNSUPP),
        (WRITE_ZEROES, &[good, (0, 1, 2)], UNSUPP),
        (WRITE_ZEROES, &[good, (0, 1, u32::MAX)], UNSUPP),
        (DISCARD, &[good, (64, 1, 0)], IOERR),
        (DISCARD, &[good, (u64::MAX, 1, 0)], IOERR),
        (DISCARD, &[good, (0, u32::MAX, 0)], IOERR),
        (WRITE_ZEROES, &[good, (u64::MAX / 512 + 1, 1, 0)], IOERR),
        (WRITE_ZEROES, &[good, (63, 2, 1)], IOERR),
        (DISCARD, &[], IOERR),
        (DISCARD, &[good; 33], IOERR),
    ];
    for (kind, list, status) in cases {
        let answer = driver.request(*kind, 0, &ranges(list), 0, 4096);
        assert_eq!(answer, refusal(*status, 0), "type {kind}, {list:?}");
    }
    assert_eq!(driver.request(DISCARD, 0, &ranges(&[good])[..15], 0, 4096), refusal(IOERR, 0));
    assert_eq!(disk.contents(), before);
    assert_eq!(driver.request(DISCARD, 0, &ranges(&[good; 32]), 0, 4096), refusal(OK, 0));
}

#[test]
fn ranges_have_the_limits_that_the_configuration_tells() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 32).unwrap();
    let mut driver = Driver::over(Arc::new(RawFile::open(RawOptions::new(file.path())).unwrap()), 1);
    for (kind, register) in [(DISCARD, 0x100 + 36), (WRITE_ZEROES, 0x100 + 48)] {
        let limit = driver.read32(register);
        // Zeroes may be unmapped, or else a sparse file would not stay small.
        let flags = u32::from(kind == WRITE_ZEROES);
        assert_eq!(driver.request(kind, 0, &ranges(&[(8, limit, flags)]), 0, 4096), refusal(OK, 0));
        assert_eq!(driver.request(kind, 0, &ranges(&[(8, limit + 1, flags)]), 0, 4096), refusal(IOERR, 0));
    }
}

#[test]
fn transfers_off_the_disk_or_off_the_grid_are_refused() {
    let (mut driver, disk) = driver();
    let before = disk.contents();
    for (sector, length) in
        [(64, 512), (63, 1024), (u64::MAX, 512), (u64::MAX / 512 + 1, 512), (0, 511), (0, 513), (0, 1)]
    {
        assert_eq!(
            driver.request(IN, sector, &[], length, 4096),
            refusal(IOERR, length),
            "{sector} {length}"
        );
        assert_eq!(
            driver.request(OUT, sector, &vec![1; length], 0, 4096),
            refusal(IOERR, 0),
            "{sector} {length}"
        );
    }
    // Data in the wrong direction, or in both.
    assert_eq!(driver.request(IN, 0, &[1; 512], 512, 4096), refusal(IOERR, 512));
    assert_eq!(driver.request(OUT, 0, &[1; 512], 512, 4096), refusal(IOERR, 512));
    assert_eq!(driver.request(FLUSH, 0, &[1], 0, 4096), refusal(IOERR, 0));
    assert_eq!(disk.contents(), before);
    // Nothing at the very end is still on the disk.
    assert_eq!(driver.request(IN, 64, &[], 0, 4096), refusal(OK, 0));
    assert_eq!(driver.request(OUT, 64, &[], 0, 4096), refusal(OK, 0));
}

#[test]
fn a_read_only_disk_refuses_every_change() {
    let disk = numbered_disk(8, true);
    let mut driver = Driver::over(disk.clone(), 1);
    assert_eq!(driver.request(OUT, 0, &[1; 512], 0, 4096), refusal(IOERR, 0));
    assert_eq!(driver.request(DISCARD, 0, &ranges(&[(0, 1, 0)]), 0, 4096), refusal(IOERR, 0));
    assert_eq!(driver.request(WRITE_ZEROES, 0, &ranges(&[(0, 1, 0)]), 0, 4096), refusal(IOERR, 0));
    assert_eq!(driver.request(IN, 1, &[], 512, 4096).output, numbered(1, 1));
    assert_eq!(disk.contents(), numbered(0, 8));
}

#[test]
fn a_request_over_sixteen_mebibytes_is_refused() {
    // The same half mebibyte, 33 times, through an indirect table.
    let (mut driver, _disk) = driver();
    let half = u32::try_from(DATA_SIZE).unwrap();
    for (times, expected) in [(32, UNSUPP), (33, IOERR)] {
        // An unknown type is refused too, but only after the length has passed.
        let head = header(99, 0);
        let table = Driver::ring(0) + 0xc000;
        let status = Driver::ring(0) + 0xb000;
        let memory = driver.memory.memory();
        memory.write_slice(&head, GuestAddress(status + 16)).unwrap();
        drop(memory);
        let descriptor = Descriptor::new;
        driver.set_descriptor(table, 0, descriptor(status + 16, 16, FLAG_NEXT, 1));
        for index in 1..=times {
            driver.set_descriptor(
                table,
                index,
                descriptor(DATA_BASE, half, FLAG_NEXT | FLAG_WRITE, index + 1),
            );
        }
        driver.set_descriptor(table, times + 1, descriptor(status, 1, FLAG_WRITE, 0));
        let length = 16 * (u32::from(times) + 2);
        driver.set_descriptor(Driver::ring(0), 0, descriptor(table, length, FLAG_INDIRECT, 0));
        driver.offer(0, 0);
        driver.kick(0);
        assert_eq!(driver.wait(0), (0, 0));
        let memory = driver.memory.memory();
        let status: u8 = memory.read_obj(GuestAddress(status)).unwrap();
        assert_eq!(status, expected);
    }
}

#[test]
fn queues_work_side_by_side() {
    let disk = numbered_disk(256, false);
    let mut driver = Driver::over(disk.clone(), 4);
    for queue in 0..4_u16 {
        let sector = usize::from(queue) * 64;
        let data = vec![queue.to_le_bytes()[0] | 0x80; 512];
        assert_eq!(driver.request_on(queue, OUT, sector as u64, &data, 0, 4096).status, OK);
        assert_eq!(driver.request_on((queue + 1) % 4, IN, sector as u64, &[], 512, 4096).output, data);
    }
    // A burst on all queues, each chain in descriptors of its own.
    for queue in 0..4_u16 {
        let base = DATA_BASE + 0x1_0000 * u64::from(queue);
        for index in 0..5_u16 {
            let at = base + 0x1000 * u64::from(index);
            let memory = driver.memory.memory();
            let sector = u64::from(queue) * 64 + u64::from(index);
            memory.write_slice(&header(IN, sector), GuestAddress(at)).unwrap();
            let piece = |offset, length, writable| Piece { address: at + offset, length, writable };
            driver.chain(
                queue,
                3 * index,
                &[piece(0, 16, false), piece(16, 512, true), piece(1024, 1, true)],
            );
            driver.offer(queue, 3 * index);
        }
    }
    (0..4).for_each(|queue| driver.kick(queue));
    for queue in 0..4_u16 {
        for index in 0..5_u16 {
            assert_eq!(driver.wait(queue), (u32::from(3 * index), 513), "in order");
            let sector = usize::from(queue) * 64 + usize::from(index);
            let at = 0x1_0000 * usize::from(queue) + 0x1000 * usize::from(index) + 16;
            assert_eq!(driver.data()[at..at + 512], disk.contents()[sector * 512..][..512]);
        }
    }
}

/// A device and a classifier that write down what they are told.
#[derive(Debug)]
struct Recorder {
    disk: Arc<MemoryDisk>,
    log: Mutex<Vec<String>>,
}

impl Recorder {
    fn note(&self, line: String) {
        self.log.lock().unwrap().push(line);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }
}

impl Classifier for Recorder {
    fn classify_write(&self, offset: u64, block: &[u8], page: Option<GuestAddress>) -> IoTag {
        self.note(format!("is-write {offset}+{} {}{}", block.len(), block[0], at(page)));
        IoTag { class: if offset < 4096 { IoClass::Metadata } else { IoClass::Data }, ..IoTag::default() }
    }

    fn classify_read(&self, offset: u64, page: Option<GuestAddress>) -> IoTag {
        self.note(format!("is-read {offset}{}", at(page)));
        IoTag { class: IoClass::Data, ..IoTag::default() }
    }

    fn was_read(&self, offset: u64, block: &[u8], page: Option<GuestAddress>) {
        self.note(format!("was-read {offset}+{}{}", block.len(), at(page)));
    }

    fn discarded(&self, offset: u64, length: u64) {
        self.note(format!("discarded {offset}+{length}"));
    }
}

/// Where a block lies, if it is a page.
fn at(page: Option<GuestAddress>) -> String {
    page.map(|page| format!("@{:x}", page.0)).unwrap_or_default()
}

fn classes(tags: &[IoTag]) -> String {
    let letter = |tag: &IoTag| match tag.class {
        IoClass::Unknown => 'u',
        IoClass::Metadata => 'm',
        IoClass::Data => 'd',
    };
    tags.iter().map(letter).collect()
}

impl BlockDevice for Recorder {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }

    fn read(&self, offset: u64, buffer: &mut [u8], tags: &[IoTag]) -> Result<()> {
        self.note(format!("read {offset}+{} {}", buffer.len(), classes(tags)));
        self.disk.read(offset, buffer, tags)
    }

    fn write(&self, offset: u64, data: &[u8], tags: &[IoTag]) -> Result<()> {
        self.note(format!("write {offset}+{} {}", data.len(), classes(tags)));
        self.disk.write(offset, data, tags)
    }

    fn flush(&self) -> Result<()> {
        self.note("flush".into());
        self.disk.flush()
    }

    fn discard(&self, offset: u64, length: u64) -> Result<()> {
        self.note(format!("discard {offset}+{length}"));
        self.disk.discard(offset, length)
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> Result<()> {
        self.note(format!("zeroes {offset}+{length} {unmap}"));
        self.disk.write_zeroes(offset, length, unmap)
    }
}

#[test]
fn the_classifier_is_asked_first_and_its_answers_travel_down() {
    let recorder = Arc::new(Recorder { disk: numbered_disk(64, false), log: Mutex::default() });
    let spec = BlkSpec { queue_size: QUEUE_SIZE, ..BlkSpec::default() };
    let device = Blk::new(spec, recorder.clone(), recorder.clone()).unwrap();
    let stats = device.stats();
    let mut driver = Driver::new(device);
    driver.start(FEATURE_VERSION_1);

    let data = [vec![1; 512], vec![2; 4096], vec![3; 1024]].concat();
    assert_eq!(driver.request(OUT, 7, &data, 0, 4096).status, OK);
    let expected =
        ["is-write 3584+512 1", "is-write 4096+4096 2", "is-write 8192+1024 3", "write 3584+5632 mdd"];
    assert_eq!(recorder.take(), expected);

    assert_eq!(driver.request(IN, 6, &[], 1536, 4096).status, OK);
    assert_eq!(recorder.take(), ["is-read 0", "is-read 4096", "read 3072+1536 dd"]);
    assert_eq!(driver.request(IN, 7, &[], 5120, 4096).status, OK);
    let expected = ["is-read 0", "is-read 4096", "is-read 8192", "read 3584+5120 ddd", "was-read 4096+4096"];
    assert_eq!(recorder.take(), expected);

    assert_eq!(driver.request(DISCARD, 0, &ranges(&[(8, 16, 0)]), 0, 4096).status, OK);
    assert_eq!(driver.request(WRITE_ZEROES, 0, &ranges(&[(8, 1, 1), (9, 1, 0)]), 0, 4096).status, OK);
    assert_eq!(driver.request(FLUSH, 0, &[], 0, 4096).status, OK);
    let expected = [
        "discarded 4096+8192",
        "discard 4096+8192",
        "discarded 4096+512",
        "zeroes 4096+512 true",
        "discarded 4608+512",
        "zeroes 4608+512 false",
        "flush",
    ];
    assert_eq!(recorder.take(), expected);

    assert_eq!(driver.request(IN, 64, &[], 512, 4096).status, IOERR);
    assert_eq!(driver.request(77, 0, &[], 0, 4096).status, UNSUPP);
    assert_eq!(driver.request(IN, 0, &[1], 0, 4096).status, IOERR);
    assert!(recorder.take().is_empty(), "a refused request reaches nobody");

    let stats = stats.snapshot();
    assert_eq!((stats.reads, stats.bytes_read), (2, 6656));
    assert_eq!((stats.writes, stats.bytes_written), (1, 5632));
    assert_eq!((stats.flushes, stats.discards, stats.write_zeroes, stats.errors), (1, 1, 1, 3));
    assert_eq!((stats.unknown_blocks, stats.metadata_blocks, stats.data_blocks), (0, 1, 2));
}
