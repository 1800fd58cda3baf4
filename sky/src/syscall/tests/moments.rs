//! What is read when, how much of it, and as what.

use std::os::unix::fs::MetadataExt;

use libc::*;

use super::guest::{CWD, END, Guest, START, int, raw};
use crate::syscall::{HINT_MAGIC, Limits, Moment, Outcome, Value, decode};

/// The kernel that runs this fills in a `struct stat`; what the decoder makes of it is what libc makes of it.
#[test]
fn stat_is_laid_out_as_the_kernel_does() {
    let guest = Guest::new();
    let mut real = [0u64; 18];
    // SAFETY: the buffer has the 144 bytes that fstat fills.
    assert_eq!(unsafe { syscall(SYS_stat, c"/etc/passwd".as_ptr(), real.as_mut_ptr()) }, 0);
    let call = raw(SYS_stat, &[guest.string("/etc/passwd"), guest.words(&real)]);
    let decoded = guest.decode(&call, Moment::Returned(Outcome::Returned(0)));
    let Some(Value::Struct { members, .. }) = decoded.arg("statbuf") else { panic!("{decoded}") };
    let member = |name| members.iter().find(|(known, _)| *known == name).unwrap().1.clone();
    let meta = std::fs::metadata("/etc/passwd").unwrap();
    assert_eq!(member("st_ino"), Value::Unsigned(meta.ino()));
    assert_eq!(member("st_size"), Value::Signed(meta.size().cast_signed()));
    assert_eq!(member("st_blocks"), Value::Unsigned(meta.blocks()));
    assert_eq!(member("st_nlink"), Value::Unsigned(meta.nlink()));
    assert_eq!(member("st_dev"), Value::Device(major(meta.dev()), minor(meta.dev())));
}

/// The same of `statx`, whose device numbers are not packed.
#[test]
fn statx_is_laid_out_as_the_kernel_does() {
    let guest = Guest::new();
    let mut real = [0u64; 32];
    let path = c"/etc/passwd".as_ptr();
    // SAFETY: the buffer has the 256 bytes that statx fills.
    assert_eq!(unsafe { syscall(SYS_statx, AT_FDCWD, path, 0, STATX_BASIC_STATS, real.as_mut_ptr()) }, 0);
    let args = [CWD, guest.string("/etc/passwd"), 0, 0x7ff, guest.words(&real)];
    let decoded = guest.decode(&raw(SYS_statx, &args), Moment::Returned(Outcome::Returned(0)));
    let Some(Value::Struct { members, .. }) = decoded.arg("buffer") else { panic!("{decoded}") };
    let member = |name| members.iter().find(|(known, _)| *known == name).unwrap().1.clone();
    let meta = std::fs::metadata("/etc/passwd").unwrap();
    assert_eq!(member("stx_ino"), Value::Unsigned(meta.ino()));
    assert_eq!(member("stx_size"), Value::Unsigned(meta.size()));
    assert_eq!(member("stx_blocks"), Value::Unsigned(meta.blocks()));
    assert_eq!(member("stx_blksize"), Value::Unsigned(meta.blksize()));
    assert_eq!(member("stx_nlink"), Value::Unsigned(meta.nlink()));
    assert_eq!(member("stx_mode").to_string(), format!("S_IFREG|0{:o}", meta.mode() & 0o777));
    assert_eq!(member("stx_dev"), Value::Device(major(meta.dev()), minor(meta.dev())));
    assert_eq!(decoded.args[3].1.to_string(), "STATX_BASIC_STATS");
}

#[test]
fn what_the_kernel_stores_is_read_at_return() {
    let guest = Guest::new();
    let buffer = guest.bytes(b"old data");
    let name = guest.string("before");
    let mut read = guest.decode(&raw(SYS_read, &[3, buffer, 8]), Moment::Entered);
    let mut open = guest.decode(&raw(SYS_open, &[name, 0]), Moment::Entered);
    assert_eq!(read.to_string(), format!("read(3, {buffer:#x}, 8)"));
    guest.write(buffer, b"new");
    guest.write(name, b"after!");
    let mut failed = read.clone();
    failed.returned(&guest.view(), Outcome::Returned(-5));
    read.returned(&guest.view(), Outcome::Returned(3));
    open.returned(&guest.view(), Outcome::Returned(4));
    assert_eq!(read.line().to_string(), "read(3, \"new\", 8) = 3");
    assert_eq!(failed.line().to_string(), format!("read(3, {buffer:#x}, 8) = -1 EIO (Input/output error)"));
    assert_eq!(open.line().to_string(), "open(\"before\", O_RDONLY) = 4");
}

#[test]
fn what_is_too_long_is_cut_and_what_is_absent_is_told() {
    let guest = Guest::new();
    let limits = Limits { path: 4, string: 3, buffer: 2, iovecs: 1, strings: 1 };
    let show =
        |number, args: &[u64]| decode(&raw(number, args), &guest.view(), Moment::Entered, limits).to_string();
    assert_eq!(show(SYS_chdir, &[guest.string("/abc")]), r#"chdir("/abc")"#);
    assert_eq!(show(SYS_chdir, &[guest.string("/abcd")]), r#"chdir("/abc"...)"#);
    let argv = guest.words(&[guest.string("long"), guest.string("b"), 0]);
    assert_eq!(show(SYS_execve, &[guest.string("/x"), argv, 0]), r#"execve("/x", ["lon"..., ...], NULL)"#);
    let vectors = guest.words(&[guest.string("data"), 4, 0, 0]);
    assert_eq!(show(SYS_writev, &[1, vectors, 2]), r#"writev(1, [{iov_base="da"..., iov_len=4}, ...], 2)"#);
    assert_eq!(show(SYS_writev, &[1, vectors, 0]), "writev(1, [], 0)");

    guest.write(END - 3, b"end");
    let whole = |number, args: &[u64]| guest.decode(&raw(number, args), Moment::Entered);
    // The string would go on behind the last page: the kernel would find that out, too.
    assert_eq!(whole(SYS_chdir, &[END - 3]).args[0].1, Value::Absent(END - 3));
    assert_eq!(whole(SYS_chdir, &[END]).args[0].1, Value::Absent(END));
    assert_eq!(whole(SYS_chdir, &[START - 1]).args[0].1, Value::Absent(START - 1));
    assert_eq!(whole(SYS_write, &[1, END - 3, 10]).to_string(), r#"write(1, "end"..., 10)"#);
    guest.write(END - 16, &[0; 16]);
    let last = whole(SYS_writev, &[1, END - 16, 2]).to_string();
    assert_eq!(last, format!("writev(1, [{{iov_base=NULL, iov_len=0}}, {END:#x} /* absent */, ...], 2)"));
}

#[test]
fn json() {
    let guest = Guest::new();
    let args = [CWD, guest.string("/a\"\n"), int(O_WRONLY | O_CREAT), 0o600];
    let mut decoded = guest.decode(&raw(SYS_openat, &args), Moment::Entered);
    decoded.returned(&guest.view(), Outcome::Returned(-2));
    let expected = serde_json::json!({
        "number": 257,
        "name": "openat",
        "args": {"dirfd": "AT_FDCWD", "filename": "/a\\\"\\n", "flags": "O_WRONLY|O_CREAT", "mode": "0600"},
        "raw": ["0xffffff9c", "0x7f0000000000", "0x41", "0x180", "0xdeadbeefdeadbeef", "0xdeadbeefdeadbeef"],
        "result": {"value": -2, "errno": "ENOENT"},
    });
    assert_eq!(serde_json::to_value(&decoded).unwrap(), expected);
    let text = serde_json::to_string(&decoded).unwrap();
    assert!(text.contains(r#""args":{"dirfd":"AT_FDCWD","filename":"#), "in the call's order: {text}");

    let data = guest.bytes(&[b'x'; 40]);
    let args = [1, data, 40, 0, HINT_MAGIC, 9];
    let write = guest.decode(&raw(SYS_write, &args), Moment::Returned(Outcome::Unknown));
    let json = serde_json::to_value(&write).unwrap();
    assert_eq!(json["args"]["buf"], serde_json::json!({"text": "x".repeat(32), "cut": true}));
    assert_eq!((&json["hint"]["class"], &json["result"]), (&9.into(), &"unknown".into()));
    assert!(write.line().to_string().ends_with(" /* hint 9 */"));
    let read = guest.decode(&raw(SYS_read, &[1, 8, 40]), Moment::Returned(Outcome::Returned(2)));
    assert_eq!(serde_json::to_value(&read).unwrap()["args"]["buf"], serde_json::json!({"absent": "0x8"}));
}
