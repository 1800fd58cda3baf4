//! Any bytes as a Selfie image. Images are large and mostly holes, and nearly everything in them has a checksum, so the
//! bytes say how an image that works is to be changed, and which checksums are made right afterwards:
//!
//! ```text
//!   flags: u8 │ size: u8 │ { region: u8, at: u24, length: u8, bytes } ...
//! ```
//!
//! Used by the tests and by the fuzz target.

use std::sync::{Arc, OnceLock};

use sky_devices::block::simulated::{SimulatedDisk, SimulatedOptions};
use sky_devices::block::{BlockDevice, MemoryDisk, Storage};
use sky_devices::selfie::{
    Backing, BackingFormat, CreateOptions, Identity, OpenOptions, Selfie, check, create, dump_header,
    dump_l1, dump_l2, dump_superblocks, dump_zones, superblock,
};

const BLOCK: u64 = 4096;
const CLUSTER: u64 = 65536;
const ZONE: u64 = 64 << 20;
/// Bytes of the disk that the image is made for.
const SIZE: u64 = 64 * CLUSTER;
const MAX_SIZE: u64 = 1 << 30;
/// The zone table and the L1 table of such an image, by docs/selfie-format.md; the zones follow.
const ZONE_TABLE: u64 = CLUSTER;
const L1: u64 = 2 * CLUSTER;
const ZONES: u64 = 3 * CLUSTER;
/// Entries of the tables that are made right: more than a small image uses.
const ENTRIES: u64 = 64;

/// Bits of the flags.
pub(crate) const SEAL_SUPERBLOCKS: u8 = 1;
pub(crate) const SEAL_ZONES: u8 = 2;
pub(crate) const SEAL_L1: u8 = 4;
/// Nothing is there but what is written.
pub(crate) const EMPTY: u8 = 8;
/// Closed, not left as by a crash.
pub(crate) const CLOSED: u8 = 16;
/// Over a backing image.
pub(crate) const BACKED: u8 = 32;

fn parent() -> Arc<dyn BlockDevice> {
    static PARENT: OnceLock<Arc<dyn BlockDevice>> = OnceLock::new();
    let make = || {
        let content = (0..SIZE / 2).map(|at| u8::try_from(at % 251).unwrap()).collect();
        Arc::new(MemoryDisk::from_bytes(content, true).unwrap()) as Arc<dyn BlockDevice>
    };
    Arc::clone(PARENT.get_or_init(make))
}

fn options() -> OpenOptions {
    // Every run is like the other.
    OpenOptions { background: false, ..OpenOptions::default() }
}

/// An image with something of everything in it.
fn image(backed: bool, closed: bool) -> SimulatedDisk {
    let disk = Arc::new(SimulatedDisk::new(SimulatedOptions { record: false, ..SimulatedOptions::file() }));
    let backing = backed.then(|| Backing {
        path: "parent".into(),
        format: BackingFormat::Raw,
        identity: Identity { size: SIZE / 2, ..Identity::default() },
        reach: 0,
    });
    create(&*disk, &CreateOptions { max_size: Some(MAX_SIZE), backing, ..CreateOptions::new(SIZE) }).unwrap();
    let open =
        || Selfie::open(Arc::clone(&disk) as Arc<dyn Storage>, options(), backed.then(parent)).unwrap();
    let first = open();
    let mut noise = 1u64;
    for cluster in 0..24 {
        let mut bytes = vec![b'a'; 2 * 4096];
        if cluster % 3 == 0 {
            for byte in &mut bytes {
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *byte = noise.to_be_bytes()[0];
            }
        }
        first.write(cluster * CLUSTER + cluster % 15 * BLOCK, &bytes, &[]).unwrap();
    }
    // Closing writes tables and summaries, on which headers and tombstones follow.
    first.close().unwrap();
    let second = open();
    second.discard(5 * CLUSTER, 2 * CLUSTER).unwrap();
    for cluster in 24..40 {
        second.write(cluster * CLUSTER, &[b'b'; 4096], &[]).unwrap();
    }
    second.flush().unwrap();
    if closed {
        second.close().unwrap();
    } else {
        drop(second);
    }
    disk.copy()
}

fn base(flags: u8) -> SimulatedDisk {
    static BASES: [OnceLock<SimulatedDisk>; 4] = [const { OnceLock::new() }; 4];
    let (backed, closed) = (flags & BACKED != 0, flags & CLOSED != 0);
    let base = &BASES[usize::from(backed) * 2 + usize::from(closed)];
    base.get_or_init(|| image(backed, closed)).copy()
}

/// Where a record's place is counted from.
fn region(number: u8) -> u64 {
    match number % 8 {
        0 => 0,
        1 => BLOCK,
        2 => ZONE_TABLE,
        3 => L1,
        4 => ZONES,
        5 => ZONES + ZONE,
        // Headers of the first zone: the clusters after the one with the summaries.
        6 => ZONES + CLUSTER,
        _ => ZONES + 2 * ZONE,
    }
}

/// The image that the bytes describe.
fn build(data: &[u8]) -> Option<SimulatedDisk> {
    let (&[flags, size], mut records) = data.split_first_chunk()?;
    let blank = || SimulatedDisk::new(SimulatedOptions { record: false, ..SimulatedOptions::file() });
    let disk = if flags & EMPTY != 0 { blank() } else { base(flags) };
    // Files are mostly holes, and their length is cheap: up to 2 to the power of 44.
    if size > 0 {
        disk.grow((u64::from(size & 15) + 1) << (24 + u32::from(size >> 4))).ok()?;
    }
    while let Some((&[place, a, b, c, length], rest)) = records.split_first_chunk() {
        let (bytes, rest) = rest.split_at(usize::from(length).min(rest.len()));
        records = rest;
        write(&disk, region(place) + u64::from(u32::from_le_bytes([a, b, c, 0])), bytes);
    }
    if flags & SEAL_SUPERBLOCKS != 0 {
        for at in [0, BLOCK] {
            let copy = read(&disk, at, 4096);
            write(&disk, at + 4092, &crc32c::crc32c(&copy[..4092]).to_le_bytes());
        }
    }
    for number in 0..ENTRIES {
        let numbered = crc32c::crc32c(&u32::try_from(number).unwrap().to_le_bytes());
        let mut zone = read(&disk, ZONE_TABLE + number * 16, 16);
        if flags & SEAL_ZONES != 0 && zone != [0; 16] {
            seal_zone(number, &mut zone);
            write(&disk, ZONE_TABLE + number * 16, &zone);
        }
        let table = read(&disk, L1 + number * 8, 8);
        if flags & SEAL_L1 != 0 && table != [0; 8] {
            let sum = crc32c::crc32c_append(numbered, &table[..4]) | 1;
            write(&disk, L1 + number * 8 + 4, &sum.to_le_bytes());
        }
    }
    Some(disk)
}

fn seal_zone(number: u64, entry: &mut [u8]) {
    let numbered = crc32c::crc32c(&u32::try_from(number).unwrap().to_le_bytes());
    let [a, b, c, d] = crc32c::crc32c_append(numbered, &entry[..14]).to_le_bytes();
    entry[14..].copy_from_slice(&[a ^ c, b ^ d]);
}

/// Checks an image that was not closed, of so many Z zones that are holes and that no summary knows. Says whether it is
/// clean.
pub(crate) fn many_zones(count: u64) -> bool {
    let disk = Arc::new(SimulatedDisk::new(SimulatedOptions { record: false, ..SimulatedOptions::file() }));
    create(&*disk, &CreateOptions { max_size: Some(count * ZONE), ..CreateOptions::new(SIZE) }).unwrap();
    drop(Selfie::open(Arc::clone(&disk) as Arc<dyn Storage>, options(), None).unwrap());
    disk.grow((count + 1) * ZONE).unwrap();
    let mut table = Vec::new();
    for number in 0..count {
        // A Z zone with nothing in its summary, which is somewhere.
        let mut entry = [2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 0, 0];
        seal_zone(number, &mut entry);
        table.extend(entry);
    }
    write(&disk, ZONE_TABLE, &table);
    let report = check(&*disk).unwrap();
    assert!(report.dirty, "{report:?}");
    report.is_clean()
}

/// Bytes at any place, as far as the file goes.
fn read(disk: &SimulatedDisk, at: u64, length: usize) -> Vec<u8> {
    let (start, end) = (at / 512 * 512, (at + length as u64).next_multiple_of(512));
    let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
    let _ = disk.read(start, &mut bytes);
    bytes[usize::try_from(at - start).unwrap()..][..length].to_vec()
}

fn write(disk: &SimulatedDisk, at: u64, bytes: &[u8]) {
    let start = at / 512 * 512;
    let end = (at + bytes.len() as u64).next_multiple_of(512);
    let _ = disk.grow(end);
    let mut around = read(disk, start, usize::try_from(end - start).unwrap());
    around[usize::try_from(at - start).unwrap()..][..bytes.len()].copy_from_slice(bytes);
    disk.write(start, &around).unwrap();
}

/// Uses the image in all ways there are. Says whether it could be opened for writing.
///
/// # Panics
/// When the engine does, or says of an image without faults that it has some.
pub(crate) fn run(data: &[u8]) -> bool {
    let Some(disk) = build(data) else { return false };
    let disk = Arc::new(disk);
    let storage = || Arc::clone(&disk) as Arc<dyn Storage>;
    let _ = dump_superblocks(&*disk);
    let Ok(said) = superblock(&*disk) else {
        assert!(Selfie::open(storage(), options(), None).is_err());
        return false;
    };
    let _ = dump_zones(&*disk);
    let _ = dump_l1(&*disk);
    let _ = dump_l2(&*disk, 0);
    for cluster in 0..4 {
        let _ = dump_header(&*disk, ZONES + cluster * CLUSTER);
    }
    let report = check(&*disk).unwrap();
    let backing = said.backing.as_ref().map(|_| parent());
    let mut opened = false;
    for options in [
        OpenOptions { read_only: true, tolerant: true, ..options() },
        OpenOptions { read_only: true, ..options() },
        options(),
    ] {
        let (tolerant, read_only) = (options.tolerant, options.read_only);
        match Selfie::open(storage(), options, backing.clone()) {
            Ok(image) => {
                opened = !read_only;
                exercise(&image);
                let _ = image.close();
            }
            // A wrong backing image, or a state that is no fault, may be refused as well.
            Err(error) => assert!(!tolerant || said.backing.is_some(), "{error}: {report:?}"),
        }
    }
    opened
}

fn exercise(image: &Selfie) {
    let size = image.geometry().size.min(SIZE);
    let mut content = vec![0; usize::try_from(size).unwrap()];
    let _ = image.read(0, &mut content, &[]);
    let _ = image.map(0, size);
    let _ = image.info();
    content.resize(8192, b'c');
    for at in (0..size).step_by(7 * 4096 + 512) {
        let _ = image.write(at, &content[..8192], &[]);
    }
    let _ = image.flush();
    let _ = image.write_zeroes(size / 3 / 512 * 512, size / 3 / 512 * 512, true);
    let _ = image.discard(0, size / 2 / 512 * 512);
    let _ = image.flush();
}
