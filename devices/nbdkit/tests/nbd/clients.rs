//! qemu-img, qemu-io, libnbd's programs and fio.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::protocol::{noise, text};
use crate::server::{FORMATS, MIB, Server};
use crate::tools::{program, run};

const SIZE: u64 = 192 * MIB;

/// A sparse disk: text, noise, zeros that were written, and holes.
fn disk(path: &Path) -> Vec<u8> {
    let file = File::create(path).unwrap();
    file.set_len(SIZE).unwrap();
    file.write_all_at(&text(1, 20 * MIB as usize), 0).unwrap();
    file.write_all_at(&noise(2, 30 * MIB as usize + 512), 50 * MIB - 4096).unwrap();
    file.write_all_at(&vec![0; 8 * MIB as usize], 100 * MIB).unwrap();
    file.write_all_at(&noise(3, 4096), 130 * MIB + 8192).unwrap();
    file.write_all_at(&noise(4, 512), SIZE - 512).unwrap();
    fs::read(path).unwrap()
}

fn assert_same(left: &[u8], right: &[u8], what: &str) {
    assert_eq!(left.len(), right.len(), "{what}");
    let differs = left.iter().zip(right).position(|(left, right)| left != right);
    assert_eq!(differs, None, "{what}: the first byte that differs");
}

#[test]
fn qemu_img_brings_back_what_it_took() {
    for format in FORMATS {
        let mut server = Server::new(format, SIZE);
        let (source, back) = (server.beside("source"), server.beside("back"));
        let expected = disk(&source);
        let convert = ["convert", "-f", "raw", "-O", "raw"];
        run(program("qemu-img").args(convert).arg("-n").arg(&source).arg(server.uri()));
        run(program("qemu-img").args(["compare", "-f", "raw", "-F", "raw"]).arg(&source).arg(server.uri()));
        assert_eq!(server.stop(), 0);
        server.start();
        run(program("qemu-img").args(convert).arg(server.uri()).arg(&back));
        assert_same(&fs::read(&back).unwrap(), &expected, "after qemu-img");
        // Holes stay holes, and cost the image nothing to speak of.
        let status = run(program("qemu-img").args(["map", "--output=json", "-f", "raw"]).arg(server.uri()));
        let map: Value = serde_json::from_str(&status).unwrap();
        let data = |entry: &&Value| entry["data"].as_bool().unwrap();
        let length = |entry: &Value| entry["length"].as_u64().unwrap();
        let held: u64 = map.as_array().unwrap().iter().filter(data).map(length).sum();
        assert!((50 * MIB..70 * MIB).contains(&held), "{format}: {held} bytes of 50 MiB are data");
    }
}

#[test]
fn nbdcopy_copies_over_many_connections() {
    for format in FORMATS {
        let server = Server::new(format, SIZE);
        let (source, back) = (server.beside("source"), server.beside("back"));
        let expected = disk(&source);
        run(program("nbdcopy").args(["--flush", "--connections=4"]).arg(&source).arg(server.uri()));
        File::create(&back).unwrap().set_len(SIZE).unwrap();
        run(program("nbdcopy").args(["--connections=4", "--requests=16"]).arg(server.uri()).arg(&back));
        assert_same(&fs::read(&back).unwrap(), &expected, "after nbdcopy");
    }
}

#[test]
fn nbdinfo_sees_what_is_allocated() {
    for format in FORMATS {
        let server = Server::new(format, SIZE);
        let mut client = server.connect();
        client.write(8 * MIB, &noise(1, 65536), 0);
        client.write(100 * MIB, &noise(2, MIB as usize), 0);
        client.zero(100 * MIB, 65536, 0);
        client.trim(100 * MIB + 131_072, 65536, 0);
        let text = run(program("nbdinfo").args(["--json", "--map"]).arg(server.uri()));
        let map: Value = serde_json::from_str(&text).unwrap();
        let entry = |entry: &Value| {
            let [offset, length, kind] = ["offset", "length", "type"].map(|key| entry[key].as_u64().unwrap());
            (offset, length, kind)
        };
        let seen: Vec<_> = map.as_array().unwrap().iter().map(entry).collect();
        let (hole, data) = (3, 0);
        let expected = [
            (0, 8 * MIB, hole),
            (8 * MIB, 65536, data),
            (8 * MIB + 65536, 92 * MIB, hole),
            (100 * MIB + 65536, 65536, data),
            (100 * MIB + 131_072, 65536, hole),
            (100 * MIB + 196_608, MIB - 196_608, data),
            (101 * MIB, SIZE - 101 * MIB, hole),
        ];
        assert_eq!(seen, expected, "{format}");
    }
}

/// fio through its own NBD client, with `jobs` connections that each have a part of the disk.
pub(crate) fn fio(server: &Server, jobs: u32, more: &[&str]) -> Command {
    let mut command = program("fio");
    command.current_dir(server.image().parent().unwrap());
    command.args(["--name=verify", "--ioengine=nbd", "--thread", "--group_reporting", "--iodepth=8"]);
    command.arg(format!("--uri={}", server.uri()));
    command.arg(format!("--numjobs={jobs}"));
    command.args(["--verify=crc32c", "--verify_fatal=1", "--randrepeat=1"]);
    command.args(more);
    command
}

#[test]
fn fio_reads_back_what_it_wrote() {
    for format in FORMATS {
        let mut server = Server::new(format, SIZE);
        for (pattern, block) in [("randwrite", "4k"), ("randwrite", "16k"), ("write", "512")] {
            let size = if block == "512" { "--size=2m" } else { "--size=24m" };
            let (pattern, block) = (format!("--rw={pattern}"), format!("--bs={block}"));
            let arguments = [&pattern, &block, size, "--offset_increment=32m", "--fsync=16"];
            run(&mut fio(&server, 4, &arguments));
        }
        assert_eq!(server.stop(), 0);
        server.start();
        let again = ["--rw=randwrite", "--bs=16k", "--size=24m", "--offset_increment=32m", "--offset=2m"];
        run(&mut fio(&server, 4, &again));
    }
}
