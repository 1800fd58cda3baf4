//! What each request does, seen through one connection or several.

use std::io::Read;
use std::process::Stdio;
use std::thread;

use crate::client::{FUA, NO_HOLE};
use crate::server::{FORMATS, MIB, Server, plugin};
use crate::tools;

const SIZE: u64 = 160 * MIB;

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes()
    });
    words.flatten().take(length).collect()
}

/// Bytes that compress well, and differ by seed.
pub(crate) fn text(seed: u64, length: usize) -> Vec<u8> {
    format!("block {seed}, and once more; ").bytes().cycle().take(length).collect()
}

#[test]
fn the_server_tells_what_it_can() {
    for format in FORMATS {
        let mut server = Server::new(format, SIZE);
        let client = server.connect();
        assert_eq!(client.size, SIZE);
        // Flags, flush, FUA, trim, write zeroes, multi-conn; not read-only, not rotational. No cache, no fast zero.
        assert_eq!(client.flags & 0b1001_0111_1111, 0b0001_0110_1101, "{format}: {:#b}", client.flags);
        drop(client);
        server.stop();
        server.start_with(&["readonly=true"]);
        assert_ne!(server.connect().flags & 2, 0, "read-only");
        let mut client = server.connect();
        assert_eq!(client.try_write(0, &[1; 512], 0).unwrap(), libc_eperm(), "{format}");
        assert_eq!(client.read(0, 512), [0; 512]);
    }
}

fn libc_eperm() -> u32 {
    1
}

#[test]
fn requests_do_what_a_vector_of_bytes_does() {
    for format in FORMATS {
        let mut server = Server::new(format, SIZE);
        let mut client = server.connect();
        let mut model = vec![0; 4 * MIB as usize];
        let mut state = 12345_u64;
        let mut random = |limit: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % limit
        };
        for step in 0..600 {
            let sectors = 1 + random(if step % 7 == 0 { 512 } else { 24 });
            let offset = random(model.len() as u64 / 512 - sectors) * 512;
            let length = sectors * 512;
            let range = offset as usize..(offset + length) as usize;
            match random(10) {
                0..=3 => {
                    let data = noise(step, length as usize);
                    client.write(offset, &data, if random(4) == 0 { FUA } else { 0 });
                    model[range].copy_from_slice(&data);
                }
                4..=5 => {
                    let data = text(step, length as usize);
                    client.write(offset, &data, 0);
                    model[range].copy_from_slice(&data);
                }
                6 => {
                    client.zero(offset, length as u32, if random(2) == 0 { NO_HOLE } else { 0 });
                    model[range].fill(0);
                }
                7 => {
                    client.trim(offset, length as u32, 0);
                    model[range].fill(0);
                }
                8 => client.flush(),
                _ => assert_eq!(client.read(offset, length as usize), model[range], "{format}, step {step}"),
            }
        }
        assert_eq!(client.read(0, model.len()), model, "{format}");
        drop(client);
        assert_eq!(server.stop(), 0);
        server.start();
        assert_eq!(server.connect().read(0, model.len()), model, "{format}, after a restart");
    }
}

#[test]
fn a_request_off_the_disk_is_refused_and_the_next_one_served() {
    for format in FORMATS {
        let server = Server::new(format, SIZE);
        let mut client = server.connect();
        assert_ne!(client.try_write(SIZE - 512, &[1; 1024], 0).unwrap(), 0);
        assert_ne!(client.try_read(SIZE, 512).unwrap().0, 0);
        assert_ne!(client.try_read(u64::MAX - 511, 512).unwrap().0, 0);
        assert_eq!(client.read(SIZE - 512, 512), [0; 512]);
    }
}

#[test]
fn connections_share_one_disk() {
    for format in FORMATS {
        let mut server = Server::new(format, SIZE);
        // Many writers at once, each with blocks of its own.
        thread::scope(|scope| {
            for writer in 0..6_u64 {
                let mut client = server.connect();
                scope.spawn(move || {
                    for block in 0..200_u64 {
                        client.write((block * 6 + writer) * 4096, &text(block * 6 + writer, 4096), 0);
                        if block % 50 == 49 {
                            client.flush();
                        }
                    }
                });
            }
        });
        // What one connection has written, another one sees at once and makes durable.
        let (mut writer, mut flusher) = (server.connect(), server.connect());
        writer.write(100 * MIB, &noise(1, 8192), 0);
        assert_eq!(flusher.read(100 * MIB, 8192), noise(1, 8192));
        flusher.flush();
        drop((writer, flusher));
        server.kill();
        server.start();
        let mut client = server.connect();
        for block in 0..1200 {
            assert_eq!(client.read(block * 4096, 4096), text(block, 4096), "{format}, block {block}");
        }
        assert_eq!(client.read(100 * MIB, 8192), noise(1, 8192), "{format}");
    }
}

#[test]
fn trim_gives_space_back() {
    for format in FORMATS {
        let server = Server::new(format, SIZE);
        let mut client = server.connect();
        for piece in 0..128 {
            client.write(piece * MIB, &noise(piece, MIB as usize), 0);
        }
        client.flush();
        let full = server.allocated();
        assert!(full >= 128 * MIB, "{format}: {full}");
        client.trim(0, 128 * MIB as u32, 0);
        client.flush();
        let left = full - server.allocated();
        assert!(left >= 64 * MIB, "{format}: trimming 128 MiB gave {left} bytes back");
        assert_eq!(client.read(64 * MIB, 65536), [0; 65536]);
    }
}

#[test]
fn mistakes_are_told_before_anybody_connects() {
    let server = Server::stopped(FORMATS[0], MIB);
    let image = format!("file={}", server.image().display());
    let missing = format!("file={}", server.beside("missing").display());
    for (arguments, message) in [
        (vec!["format=raw"], "say which image to serve"),
        (vec![image.as_str()], "say which format the image has"),
        (vec![&image, "format=vmdk"], "there is no format \"vmdk\""),
        (vec![&image, "format=raw", "layers=none"], "write cache, dedup or cache+dedup"),
        (vec![&image, "format=raw", "cache=/fast"], "needs `layers=cache`"),
        (vec![&image, "format=raw", "color=red"], "there is no parameter color"),
        (vec![&image, "format=raw", "readonly=perhaps"], "could not decipher boolean"),
        (vec![&missing, "format=raw"], "No such file"),
        (vec![&image, "format=selfie"], "cannot open"),
    ] {
        let mut command = tools::program("nbdkit");
        command.args(["--foreground", "--exit-with-parent", "--unix"]).arg(server.beside("none"));
        command.arg(plugin()).args(&arguments).stderr(Stdio::piped());
        let mut child = tools::spawn(&mut command);
        let mut told = String::new();
        child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
        assert!(!child.wait().unwrap().success(), "{arguments:?}");
        assert!(told.contains(message), "{arguments:?}: {told}");
    }
}

#[test]
fn an_image_has_one_server() {
    for format in FORMATS {
        let server = Server::new(format, MIB);
        let mut command = tools::program("nbdkit");
        command.args(["--foreground", "--exit-with-parent", "--unix"]).arg(server.beside("other"));
        command.arg(plugin()).arg(server.image()).arg(format!("format={format}"));
        let output = tools::output(&mut command);
        assert!(!output.status.success());
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains("open in another instance"), "{told}");
        assert_eq!(server.connect().read(0, 512), [0; 512], "the first one goes on");
        assert!(server.pid() > 0);
    }
}
