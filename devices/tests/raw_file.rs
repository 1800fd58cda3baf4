//! Raw images on a real file system: locks, bounds, holes, and what an image must not be.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use std::ffi::CString;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use sky_devices::block::{BlockDevice, Error, ErrorKind, Operation, RawFile, RawOptions};
use tempfile::NamedTempFile;
use vmm_sys_util::fallocate::{FallocateMode, fallocate};

const MIB: u64 = 1024 * 1024;

fn image(bytes: &[u8]) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

fn open(path: &Path, read_only: bool) -> Result<RawFile, Error> {
    RawFile::open(RawOptions { read_only, ..RawOptions::new(path) })
}

fn kind_of<T: std::fmt::Debug>(result: Result<T, Error>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[test]
fn a_writer_excludes_everybody_and_readers_only_writers() {
    let file = image(&[0; 4096]);
    let writer = open(file.path(), false).unwrap();
    let error = open(file.path(), false).unwrap_err();
    assert_eq!((error.kind(), error.operation()), (ErrorKind::Locked, Operation::Lock));
    assert!(error.to_string().contains("open in another instance"), "{error}");
    assert!(error.to_string().contains(&*file.path().to_string_lossy()), "{error}");
    assert_eq!(kind_of(open(file.path(), true)), ErrorKind::Locked);
    drop(writer);
    let _reader = open(file.path(), true).unwrap();
    let _second_reader = open(file.path(), true).unwrap();
    assert_eq!(kind_of(open(file.path(), false)), ErrorKind::Locked);
}

#[test]
fn unrelated_descriptors_do_not_drop_the_lock() {
    let file = image(&[0; 4096]);
    let _writer = open(file.path(), false).unwrap();
    // A process-wide lock would be gone after this.
    drop(std::fs::File::open(file.path()).unwrap());
    assert_eq!(kind_of(open(file.path(), false)), ErrorKind::Locked);
}

/// A process that is being started has copies of our descriptors.
#[test]
fn a_lock_ends_though_others_have_the_file_open() {
    let file = image(&[0; 4096]);
    let writer = open(file.path(), false).unwrap();
    let (mut begun, tell) = std::io::pipe().unwrap();
    let (wait, mut end) = std::io::pipe().unwrap();
    let mut child = Command::new("true");
    // SAFETY: between fork and exec it only reads from a pipe and writes to one.
    unsafe {
        child.pre_exec(move || {
            (&tell).write_all(b"!")?;
            (&wait).read_exact(&mut [0])
        });
    }
    std::thread::scope(|scope| {
        let started = scope.spawn(|| child.status().unwrap());
        begun.read_exact(&mut [0]).unwrap();
        drop(writer);
        let opened = open(file.path(), false).map(drop);
        end.write_all(b"!").unwrap();
        assert!(started.join().unwrap().success());
        opened.unwrap();
    });
}

#[test]
fn requests_stay_inside_the_image() {
    let file = image(&[1; 4096]);
    let raw = open(file.path(), false).unwrap();
    assert_eq!(raw.geometry().size, 4096);
    for (offset, length) in [(4096, 512), (3584, 1024), (u64::MAX, 512), (u64::MAX - 511, 512)] {
        let mut buffer = vec![0; usize::try_from(length).unwrap()];
        let error = raw.read(offset, &mut buffer, &[]).unwrap_err();
        assert_eq!(
            (error.kind(), error.offset(), error.length()),
            (ErrorKind::OutOfRange, Some(offset), Some(length))
        );
        assert_eq!(kind_of(raw.write(offset, &buffer, &[])), ErrorKind::OutOfRange);
        assert_eq!(kind_of(raw.discard(offset, length)), ErrorKind::OutOfRange);
        assert_eq!(kind_of(raw.write_zeroes(offset, length, true)), ErrorKind::OutOfRange);
    }
    assert_eq!(std::fs::read(file.path()).unwrap(), [1; 4096]);
    raw.write(3584, &[2; 512], &[]).unwrap();
    raw.flush().unwrap();
    assert_eq!(std::fs::read(file.path()).unwrap()[3584..], [2; 512]);
}

#[test]
fn a_read_only_image_refuses_changes() {
    let file = image(&[1; 4096]);
    let raw = open(file.path(), true).unwrap();
    assert!(raw.geometry().read_only);
    assert_eq!(kind_of(raw.write(0, &[0; 512], &[])), ErrorKind::ReadOnly);
    assert_eq!(kind_of(raw.discard(0, 512)), ErrorKind::ReadOnly);
    assert_eq!(kind_of(raw.write_zeroes(0, 512, false)), ErrorKind::ReadOnly);
    raw.flush().unwrap();
    assert_eq!(std::fs::read(file.path()).unwrap(), [1; 4096]);
}

#[test]
fn an_image_cut_short_below_us_fails_reads_instead_of_inventing_data() {
    let file = image(&[1; 8192]);
    let raw = open(file.path(), false).unwrap();
    file.as_file().set_len(4096).unwrap();
    assert_eq!(kind_of(raw.read(4096, &mut [0; 512], &[])), ErrorKind::Io);
}

/// Allocated bytes, or nothing where the file system of the test has no holes.
fn allocated_after(change: impl Fn(&RawFile)) -> Option<(u64, Vec<u8>)> {
    let file = image(&vec![0xee; usize::try_from(4 * MIB).unwrap()]);
    file.as_file().sync_all().unwrap();
    if fallocate(file.as_file(), FallocateMode::PunchHole, true, 0, 4096).is_err() {
        return None;
    }
    file.as_file().write_all_at(&[0xee; 4096], 0).unwrap();
    change(&open(file.path(), false).unwrap());
    file.as_file().sync_all().unwrap();
    Some((file.as_file().metadata().unwrap().blocks() * 512, std::fs::read(file.path()).unwrap()))
}

fn check_hole(bytes: &[u8]) {
    let mib = usize::try_from(MIB).unwrap();
    let wrong = bytes
        .iter()
        .enumerate()
        .find(|&(at, &byte)| byte != if (mib..3 * mib).contains(&at) { 0 } else { 0xee });
    assert_eq!(wrong, None);
    assert_eq!(bytes.len(), 4 * mib);
}

#[test]
fn discard_gives_space_back() {
    if let Some((allocated, bytes)) = allocated_after(|raw| raw.discard(MIB, 2 * MIB).unwrap()) {
        assert!((2 * MIB..=5 * MIB / 2).contains(&allocated), "{allocated} bytes");
        check_hole(&bytes);
    }
}

#[test]
fn zeroes_with_unmap_give_space_back_and_without_keep_it() {
    if let Some((allocated, bytes)) = allocated_after(|raw| raw.write_zeroes(MIB, 2 * MIB, true).unwrap()) {
        assert!(allocated <= 5 * MIB / 2, "{allocated} bytes");
        check_hole(&bytes);
    }
    if let Some((allocated, bytes)) = allocated_after(|raw| raw.write_zeroes(MIB, 2 * MIB, false).unwrap()) {
        assert!(allocated >= 4 * MIB, "{allocated} bytes");
        check_hole(&bytes);
    }
}

#[test]
fn empty_ranges_do_nothing() {
    let file = image(&[1; 4096]);
    let raw = open(file.path(), false).unwrap();
    raw.discard(4096, 0).unwrap();
    raw.write_zeroes(0, 0, true).unwrap();
    raw.write(4096, &[], &[]).unwrap();
    assert_eq!(std::fs::read(file.path()).unwrap(), [1; 4096]);
}

#[test]
fn says_what_is_wrong_with_a_path() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing.img");
    let error = open(&missing, false).unwrap_err();
    assert_eq!((error.kind(), error.path()), (ErrorKind::NotFound, Some(&*missing)));
    for read_only in [false, true] {
        assert_eq!(kind_of(open(directory.path(), read_only)), ErrorKind::NotAFile);
        assert_eq!(kind_of(open(Path::new("/dev/null"), read_only)), ErrorKind::NotAFile);
    }
    for size in [0, 511, 513] {
        let file = image(&vec![0; size]);
        let error = open(file.path(), true).unwrap_err();
        assert_eq!((error.kind(), error.length()), (ErrorKind::BadSize, Some(u64::try_from(size).unwrap())));
    }
}

#[test]
fn a_fifo_is_refused_without_waiting_for_its_other_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fifo");
    let name = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: the path is a valid string.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    assert_eq!(kind_of(open(&path, true)), ErrorKind::NotAFile);
    assert_eq!(kind_of(open(&path, false)), ErrorKind::NotAFile);
}

#[test]
fn permission_is_named() {
    let file = image(&[0; 512]);
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o400)).unwrap();
    // Root may write anything, so there is nothing to see as root.
    if std::fs::OpenOptions::new().write(true).open(file.path()).is_err() {
        assert_eq!(kind_of(open(file.path(), false)), ErrorKind::Permission);
    }
    open(file.path(), true).unwrap();
}
