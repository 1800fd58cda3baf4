//! Disks that are converted stay what they are, and sparse.

use std::process::Stdio;

use crate::harness::{Folder, KIB, MIB, allocated, noise};

#[test]
fn raw_to_raw_keeps_content_and_drops_zeros() {
    let folder = Folder::new();
    let source = folder.disk("a.raw");
    let copy = folder.path("b.raw");
    let ran = folder.sky_img_ok("convert --json -f raw -O raw a.raw b.raw");
    folder.same("raw", "a.raw", "raw", "b.raw");
    assert_eq!(std::fs::read(&source).unwrap(), std::fs::read(&copy).unwrap());
    // 540,000 bytes of text, 3 MiB and a sector of noise between two blocks, 4 KiB, and a sector of noise.
    let data = (540_000_u64).next_multiple_of(4 * KIB) + 3 * MIB + 4 * KIB + 4 * KIB + 512;
    assert_eq!(ran.json()["data-bytes"], data);
    assert_eq!(ran.json()["zero-bytes"], 64 * MIB + 512 - data);
    assert!(allocated(&source) >= data + 4 * MIB, "the source has zeros that take space");
    assert!(allocated(&copy) <= data + 64 * KIB, "{} bytes", allocated(&copy));
    assert_eq!(folder.names(), ["a.raw", "b.raw"]);
}

#[test]
fn any_number_of_threads_makes_the_same_copy() {
    let folder = Folder::new();
    let source = std::fs::read(folder.disk("a.raw")).unwrap();
    for threads in [1, 2, 7] {
        folder.sky_img_ok(&format!("convert --threads {threads} -f raw -O raw a.raw {threads}.raw"));
        assert!(
            std::fs::read(folder.path(&format!("{threads}.raw"))).unwrap() == source,
            "{threads} threads"
        );
    }
}

#[test]
fn what_is_there_is_replaced_only_on_request() {
    let folder = Folder::new();
    folder.disk("a.raw");
    std::fs::write(folder.path("b.raw"), noise(1024)).unwrap();
    let ran = folder.sky_img("convert -f raw -O raw a.raw b.raw");
    assert_eq!(ran.status, 1);
    assert_eq!(
        ran.stderr,
        "sky-img: cannot create b.raw: it exists already\nsky-img: --force puts the new image in its place\n"
    );
    assert_eq!(std::fs::read(folder.path("b.raw")).unwrap(), noise(1024));
    folder.sky_img_ok("convert --force -f raw -O raw a.raw b.raw");
    folder.same("raw", "a.raw", "raw", "b.raw");
    assert_eq!(folder.names(), ["a.raw", "b.raw"]);
}

#[test]
fn an_image_is_not_converted_into_itself() {
    let folder = Folder::new();
    let before = std::fs::read(folder.disk("a.raw")).unwrap();
    let ran = folder.sky_img("convert --force -f raw -O raw a.raw a.raw");
    assert_eq!(ran.status, 1);
    assert!(ran.stderr.contains("cannot lock"), "{ran:?}");
    assert!(std::fs::read(folder.path("a.raw")).unwrap() == before);
    assert_eq!(folder.names(), ["a.raw"]);
}

#[test]
fn a_failed_copy_leaves_nothing() {
    let folder = Folder::new();
    // A cluster of the image lies where there is no file: found only when the copy comes to it.
    folder.qemu_img_ok("create -q -f qcow2 a.qcow2 64M");
    folder.qemu_io("qcow2", "a.qcow2", &["write -q -P 7 0 1M", "write -q -P 8 32M 1M"]);
    let file = std::fs::OpenOptions::new().write(true).open(folder.path("a.qcow2")).unwrap();
    file.set_len(file.metadata().unwrap().len() - MIB / 2).unwrap();
    std::fs::write(folder.path("b.raw"), noise(512)).unwrap();
    for arguments in ["a.qcow2 new.raw", "--force a.qcow2 b.raw"] {
        let ran = folder.sky_img(&format!("convert -f qcow2 -O raw {arguments}"));
        assert_eq!(ran.status, 1, "{ran:?}");
        assert!(
            ran.stderr.contains("(a.qcow2): the image is corrupt: its data lies behind the end"),
            "{ran:?}"
        );
    }
    assert_eq!(std::fs::read(folder.path("b.raw")).unwrap(), noise(512));
    assert_eq!(folder.names(), ["a.qcow2", "b.raw"]);
}

#[test]
fn a_copy_that_is_interrupted_leaves_nothing() {
    let folder = Folder::new();
    let file = std::fs::File::create(folder.path("a.raw")).unwrap();
    // Enough that it cannot be done before the signal comes.
    for mib in 0..512 {
        std::os::unix::fs::FileExt::write_all_at(&file, &vec![1; 1024 * 1024], mib * MIB).unwrap();
    }
    let mut command = folder.command("convert --threads 1 --progress -f raw -O raw a.raw b.raw");
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut progress = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut progress, &mut line).unwrap();
    assert_eq!(line, "converting: 5%\n");
    let pid = libc::pid_t::try_from(child.id()).unwrap();
    // SAFETY: the child has not been waited for, so the number is still its own.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGINT) }, 0);
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut progress, &mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest}");
    assert!(rest.contains("it was stopped"), "{rest}");
    assert_eq!(folder.names(), ["a.raw"]);
}

#[test]
fn progress_is_told_where_it_is_asked_for() {
    let folder = Folder::new();
    folder.disk("a.raw");
    let ran = folder.sky_img("convert --progress -f raw -O raw a.raw b.raw");
    let told: Vec<_> = ran.stderr.lines().collect();
    assert_eq!((ran.status, told.last()), (0, Some(&"converting: 100%")), "{ran:?}");
}
