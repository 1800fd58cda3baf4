//! Hints arrive: from C, from Rust, and from programs that know nothing of them.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod trace;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use trace::{CALLS, Entry, trace};

/// The library, built now: cargo does not build it for tests alone.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let exe = std::env::current_exe().unwrap();
        // Tests lie in `TARGET/debug/deps`.
        let target = exe.ancestors().nth(3).unwrap();
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status = Command::new(cargo)
            .args(["build", "--quiet", "--package", env!("CARGO_PKG_NAME"), "--target-dir"])
            .arg(target)
            .status();
        assert!(status.unwrap().success());
        target.join("debug/libiwrite.so")
    })
}

fn preloaded(program: &str, rules: &str) -> Command {
    let mut command = Command::new(program);
    command.env("LD_PRELOAD", library()).env("IWRITE_RULES", rules).env("LC_ALL", "C");
    command
}

/// The calls on a file, and the class of each; a call with only half a hint is an error.
fn classes(entries: &[Entry], path: &Path) -> Vec<(i64, Option<u64>)> {
    let of_file = entries.iter().filter(|entry| entry.path == path);
    of_file
        .map(|entry| {
            if entry.r8 == hint::MAGIC {
                (entry.number, Some(entry.r9))
            } else {
                assert_ne!(entry.r8, hint::MAGIC.swap_bytes());
                (entry.number, None)
            }
        })
        .collect()
}

fn there_is(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap();
    if !found.status.success() {
        eprintln!("no {program} here");
    }
    found.status.success()
}

/// What `examples/every_call.rs` and `every.c` do.
const EVERY: [(i64, Option<u64>); 9] = [
    (libc::SYS_write, Some(1)),
    (libc::SYS_pwrite64, Some(2)),
    (libc::SYS_writev, Some(3)),
    (libc::SYS_pwritev, Some(4)),
    (libc::SYS_fsync, Some(5)),
    (libc::SYS_read, Some(6)),
    (libc::SYS_pread64, Some(7)),
    (libc::SYS_preadv, Some(8)),
    (libc::SYS_readv, Some(0xffff_ffff)),
];

#[test]
fn rust_passes_hints() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let exe = std::env::current_exe().unwrap();
    let program = exe.ancestors().nth(2).unwrap().join("examples/every_call");
    assert_eq!(classes(&trace(Command::new(program).arg(&path)), &path), EVERY);
    assert_eq!(fs::read(&path).unwrap(), b"abcghijkl");
}

#[test]
fn c_passes_hints() {
    if !there_is("cc") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (source, program, path) =
        (dir.path().join("every.c"), dir.path().join("every"), dir.path().join("file"));
    fs::write(&source, include_str!("every.c")).unwrap();
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let built = Command::new("cc")
        .args(["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O2", "-I"])
        .arg(include)
        .args(["-x", "c"])
        .arg(&source)
        .arg("-o")
        .arg(&program)
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    assert_eq!(classes(&trace(Command::new(program).arg(&path)), &path), EVERY);
    assert_eq!(fs::read(&path).unwrap(), b"abcghijkl");
}

#[test]
fn dd_writes_with_classes() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from.db"), dir.path().join("to.log"));
    fs::write(&from, vec![7; 3 * 4096]).unwrap();
    let mut dd = preloaded("dd", "*.db=3:*/to.*=4294967295:*=0");
    dd.arg(format!("if={}", from.display())).arg(format!("of={}", to.display()));
    let entries = trace(dd.args(["bs=4096", "conv=fsync", "status=none"]));
    assert_eq!(fs::read(&to).unwrap(), vec![7; 3 * 4096]);
    assert_eq!(classes(&entries, &from), vec![(libc::SYS_read, Some(3)); 4]);
    let mut wanted = vec![(libc::SYS_write, Some(0xffff_ffff)); 3];
    wanted.push((libc::SYS_fsync, Some(0xffff_ffff)));
    assert_eq!(classes(&entries, &to), wanted);
}

#[test]
fn cat_has_no_classes_without_rules_that_match() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "words").unwrap();
    for rules in ["", "*.db=3"] {
        let mut cat = preloaded("cat", rules);
        let entries = trace(cat.arg(&path).stdout(std::process::Stdio::null()));
        let classes = classes(&entries, &path);
        assert!(classes.contains(&(libc::SYS_read, None)), "{entries:?}");
        assert!(classes.iter().all(|(_, class)| class.is_none()));
    }
}

#[test]
fn cp_and_sort_work_as_ever() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::write(&from, "b\na\n".repeat(10_000)).unwrap();
    assert!(preloaded("cp", "*=9").arg(&from).arg(&to).status().unwrap().success());
    assert_eq!(fs::read(&from).unwrap(), fs::read(&to).unwrap());
    let sorted = preloaded("sort", "*=9").arg(&from).output().unwrap();
    assert_eq!(sorted.stdout, ["a\n".repeat(10_000), "b\n".repeat(10_000)].concat().into_bytes());
    let missing = preloaded("cat", "*=9").arg(dir.path().join("nothing")).output().unwrap();
    assert!(String::from_utf8_lossy(&missing.stderr).contains("No such file or directory"));
    let directory = preloaded("cat", "*=9").arg(dir.path()).output().unwrap();
    assert!(String::from_utf8_lossy(&directory.stderr).contains("Is a directory"), "errno arrives");
}

#[test]
fn sqlite_writes_with_classes() {
    if !there_is("sqlite3") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.db");
    let mut sqlite = preloaded("sqlite3", "*.db=3:*-journal=4");
    let sql = "create table t(n); insert into t values (41), (1); select sum(n) from t";
    let entries = trace(sqlite.arg(&path).arg(sql).stdout(std::process::Stdio::null()));
    let database = classes(&entries, &path);
    assert!(database.iter().any(|(number, _)| *number == libc::SYS_pwrite64));
    assert!(database.iter().all(|(_, class)| *class == Some(3)), "{database:?}");
    let journal = classes(&entries, &dir.path().join("x.db-journal"));
    assert!(!journal.is_empty() && journal.iter().all(|(_, class)| *class == Some(4)), "{journal:?}");
    let said = Command::new("sqlite3").arg(&path).arg("select sum(n) from t").output().unwrap();
    assert_eq!(said.stdout, b"42\n");
}

#[test]
fn a_descriptor_that_is_used_again_has_the_new_class() {
    let dir = tempfile::tempdir().unwrap();
    let script = "exec 5>a.x; echo 1 >&5; exec 5>b.y; echo 2 >&5; exec 5>c.z; echo 3 >&5; exec 5>&-; exec 5>>a.x; echo 4 >&5";
    // dash writes by `write`, from one process.
    let entries = trace(preloaded("dash", "*.x=1:*.y=2").args(["-c", script]).current_dir(dir.path()));
    let class = |name: &str| classes(&entries, &fs::canonicalize(dir.path().join(name)).unwrap());
    let write = libc::SYS_write;
    assert_eq!(class("a.x"), [(write, Some(1)), (write, Some(1))]);
    assert_eq!(class("b.y"), [(write, Some(2))]);
    assert_eq!(class("c.z"), [(write, None)]);
    assert_eq!(fs::read(dir.path().join("a.x")).unwrap(), b"1\n4\n");
}

#[test]
fn a_malformed_rule_is_told_once() {
    let output = preloaded("cat", "*=x:/dev/null=1").arg("/dev/null").output().unwrap();
    assert!(output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said, "iwrite: the rule `*=x` has no class from 0 to 4294967295 and is ignored\n");
}

#[test]
fn the_calls_of_interest_are_those_that_carry_hints() {
    use hint::number::*;
    let mut hinted =
        [READ, WRITE, PREAD64, PWRITE64, READV, WRITEV, PREADV, PWRITEV, FSYNC].map(u64::cast_signed);
    let mut watched = CALLS;
    hinted.sort_unstable();
    watched.sort_unstable();
    assert_eq!(hinted, watched);
}
