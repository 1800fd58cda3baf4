//! The server is killed under load, again and again: what was flushed is there, and nothing is there that nobody wrote.
//!
//! Blocks name themselves: number, version, and a checksum of both in every word. Each writer keeps what it has asked
//! for and what it knows to be durable. After a kill a block must be of a version between the two.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use sky_devices::block::{FileOptions, FileStorage, Storage};
use sky_devices::idedup;
use sky_devices::image::{Format, Image, ImageSpec};
use sky_devices::layers::DeviceStorage;
use sky_devices::selfie::{self, CheckReport};

use crate::client::Client;
use crate::clients::fio;
use crate::server::{FORMATS, MIB, Server};
use crate::tools::{alone, run};

const SIZE: u64 = 256 * MIB;
/// fio has the disk up to here, our writers the rest.
const OURS: u64 = 64 * MIB;
const WRITERS: u64 = 4;
/// Blocks that each writer has, spread over the disk.
const BLOCKS: u64 = 1500;
const BLOCK: usize = 4096;

/// What one writer knows of one of its blocks.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// The newest version that may have reached the server.
    asked: u64,
    /// The newest version that is durable.
    durable: u64,
}

/// One writer's blocks, by number.
type Knowledge = BTreeMap<u64, Known>;

fn place(writer: u64, block: u64) -> u64 {
    OURS + (block * WRITERS + writer) * 6 * BLOCK as u64
}

/// Version `version` of a block. Odd ones do not compress. The version before all others is zeros.
fn content(writer: u64, block: u64, version: u64) -> Vec<u8> {
    if version == 0 {
        return vec![0; BLOCK];
    }
    let seed = (writer << 48) ^ (block << 24) ^ version;
    let word = |index: u64| {
        let mix = if version % 2 == 1 { index } else { 0 };
        (seed ^ mix.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xd6e8_feb8_6659_fd93)
    };
    let mut bytes: Vec<u8> = (0..BLOCK as u64 / 8).flat_map(|index| word(index).to_le_bytes()).collect();
    bytes[..8].copy_from_slice(&version.to_le_bytes());
    bytes
}

/// Writes and flushes until the server is gone.
fn write_until_killed(mut client: Client, writer: u64, round: u64, known: &mut Knowledge, stop: &AtomicBool) {
    let mut state = round * WRITERS + writer + 1;
    let mut since_flush = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let block = (state >> 33) % BLOCKS;
        let entry = known.entry(block).or_default();
        entry.asked += 1;
        let version = entry.asked;
        match client.try_write(place(writer, block), &content(writer, block, version), 0) {
            Ok(error) => assert_eq!(error, 0),
            Err(_) => return,
        }
        since_flush.push((block, version));
        if state >> 60 == 0 {
            match client.try_flush() {
                Ok(error) => assert_eq!(error, 0),
                Err(_) => return,
            }
            for (block, version) in since_flush.drain(..) {
                known.entry(block).or_default().durable = version;
            }
        }
    }
}

/// Compares all blocks that were ever written with what is known of them; what is there now is durable.
fn verify(client: &mut Client, writer: u64, known: &mut Knowledge, what: &str) {
    for (&block, entry) in known.iter_mut() {
        let bytes = client.read(place(writer, block), BLOCK);
        let version = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        assert!(
            (entry.durable..=entry.asked).contains(&version),
            "{what}: block {block} of writer {writer} is of version {version}, not in {entry:?}"
        );
        assert!(bytes == content(writer, block, version), "{what}: block {block} of writer {writer} is torn");
        *entry = Known { asked: version, durable: version };
    }
}

/// What the image says of itself, with nobody using it.
fn check(server: &Server) -> CheckReport {
    let options = FileOptions { read_only: true, ..FileOptions::new(server.image()) };
    alone(|| selfie::check(&FileStorage::open(options).unwrap()).unwrap())
}

fn assert_clean(server: &Server, dirty: bool, what: &str) {
    if server.format() == Format::Selfie {
        let report = check(server);
        assert!(report.is_clean() && report.dirty == dirty, "{what}: {report:?}");
    }
}

fn rounds(few: u64) -> u64 {
    if std::env::var_os("SKY_NIGHTLY").is_some() { 100 } else { few }
}

/// Kills the server again and again; `clean` looks at the image while nobody uses it.
fn kill_and_verify(mut server: Server, rounds: u64, what: &str, clean: impl Fn(&Server, bool, &str)) {
    // fio's part is written once and verified after every kill.
    let part = ["--rw=randwrite", "--bs=4k", "--size=12m", "--offset_increment=16m", "--end_fsync=1"];
    run(fio(&server, 4, &part).arg("--do_verify=0"));
    let mut known = vec![Knowledge::new(); WRITERS as usize];
    for round in 0..rounds {
        let what = format!("{what}, round {round}");
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for (writer, known) in (0..).zip(&mut known) {
                let (client, stop) = (server.connect(), &stop);
                scope.spawn(move || write_until_killed(client, writer, round, known, stop));
            }
            // Not always at the same point of whatever the disk does in the background.
            thread::sleep(Duration::from_millis(150 + round * 37 % 400));
            server.kill();
            stop.store(true, Ordering::Relaxed);
        });
        assert!(known.iter().map(BTreeMap::len).sum::<usize>() > 0, "nothing was written");
        clean(&server, true, &what);
        server.start();
        for (writer, known) in (0..).zip(&mut known) {
            verify(&mut server.connect(), writer, known, &what);
        }
        run(fio(&server, 4, &part).arg("--verify_only"));
        // What the crash left undecided must stay decided.
        server.connect().flush();
    }
    assert_eq!(server.stop(), 0);
    clean(&server, false, "after a clean end");
}

#[test]
fn what_was_flushed_survives_kills() {
    for format in FORMATS {
        kill_and_verify(Server::new(format, SIZE), rounds(4), &format.to_string(), assert_clean);
    }
}

/// The same through layers: a cache in every mode, deduplication, and both.
#[test]
fn what_was_flushed_through_layers_survives_kills() {
    for (format, layers, mode) in [
        (Format::Raw, "cache", "through"),
        (Format::Raw, "cache", "around"),
        (Format::Selfie, "cache", "back"),
        (Format::Selfie, "dedup", ""),
        (Format::Selfie, "cache+dedup", "back"),
    ] {
        let mut server = Server::layered(format, SIZE, layers, mode);
        server.start();
        let what = format!("{format}, {layers} {mode}");
        kill_and_verify(server, rounds(2), &what, |server, dirty, what| {
            assert_clean(server, dirty, what);
            if layers.contains("dedup") {
                let spec = ImageSpec::new(server.image(), format).read_only();
                let report = alone(|| {
                    let image = Arc::new(Image::open(&spec).unwrap());
                    idedup::check(&(Arc::new(DeviceStorage(image)) as Arc<dyn Storage>)).unwrap()
                });
                assert!(report.is_clean() && report.mapped_blocks > 0, "{what}: {report:?}");
            }
        });
    }
}

#[test]
fn the_image_is_closed_though_a_client_stays() {
    let mut server = Server::stopped(Format::Selfie, SIZE);
    server.start_with(&["grace=1"]);
    let mut client = server.connect();
    client.write(0, &content(0, 0, 1), 0);
    assert_eq!(server.stop(), 0);
    assert!(!check(&server).dirty);
    server.start();
    assert_eq!(server.connect().read(0, BLOCK), content(0, 0, 1), "closing is a flush, too");
}
