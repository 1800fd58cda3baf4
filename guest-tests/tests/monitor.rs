//! Sky on real guests: what it sees of a monitored process, and what the guest does not see of Sky.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::path::PathBuf;

use guest_tests::disk::Disk;
use guest_tests::e2e;
use guest_tests::forms::Form;
use guest_tests::guest::{CMDLINE, Finished, GuestRun, MOUNT_ROOTFS, Scratch};
use guest_tests::packages::{Flavour, Kernel};
use guest_tests::workload::Files;
use serde_json::Value;

const MONITORED: Files = Files { prefix: "w", seed: 1, files: 6, blocks: 16 };
const UNMONITORED: Files = Files { prefix: "b", seed: 2, files: 6, blocks: 16 };
/// Both at once, so that the guest switches between them. What is left in the page cache reaches the disk at the end.
const WRITE: &str = "mount -t ext4 /dev/vda /mnt
    bystander files /mnt 2 6 16 & writer /mnt 1 6 16; wait
    sync; umount /mnt";

/// A guest with a disk and a monitored process.
struct Watched {
    scratch: Scratch,
    kernel: Kernel,
    disk: Disk,
}

impl Watched {
    fn new(flavour: Flavour) -> Self {
        let scratch = Scratch::new().unwrap();
        let disk = Disk::ext4(scratch.path("disk.img"), 64, None).unwrap();
        Self { scratch, kernel: Kernel::get(flavour).unwrap(), disk }
    }

    fn config(&self, text: &str) -> PathBuf {
        let path = self.scratch.path("monitor.toml");
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Runs `script`, monitoring `executable` if one is given, and gives the report.
    fn run(&self, executable: Option<&str>, cmdline: &str, script: &str) -> (Finished, Value) {
        let config = executable.map(|executable| format!("[[process]]\nexecutable = '{executable}'\n"));
        self.run_with(config.as_deref(), cmdline, script)
    }

    fn run_with(&self, config: Option<&str>, cmdline: &str, script: &str) -> (Finished, Value) {
        self.run_from(GuestRun::bare(), config, cmdline, script)
    }

    /// The disk comes behind those that `run` has.
    fn run_from(
        &self,
        run: GuestRun,
        config: Option<&str>,
        cmdline: &str,
        script: &str,
    ) -> (Finished, Value) {
        let initramfs = self.scratch.initramfs(&self.kernel, script).unwrap();
        let stats = self.scratch.path("stats.json");
        // Only the bzImage moves itself about (KASLR).
        let mut run = run
            .option("--kernel", self.kernel.bzimage())
            .option("--initrd", initramfs)
            .option("--cmdline", format!("{CMDLINE} {cmdline}"))
            .option("--stats", &stats)
            .disk(&self.disk);
        if let Some(config) = config {
            run = run.monitor(&self.config(config));
        }
        let finished = run.run().unwrap().ok().unwrap();
        let stats: Value = serde_json::from_slice(&std::fs::read(stats).unwrap()).unwrap();
        (finished, stats["monitor"].clone())
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Blocks of a file, the last of which need not be full.
fn blocks_of(files: &Files, at: u64) -> u64 {
    guest_tests::pattern::file(files.seed, at, files.blocks).len().div_ceil(4096) as u64
}

/// What the report says against what the program's own description says that it wrote.
fn assert_everything_was_seen(report: &Value, files: &Files) {
    assert_eq!(report["problem"], Value::Null);
    assert_eq!(report["armed"], true);
    let seen = report["files"].as_array().unwrap();
    assert_eq!(seen.len() as u64, files.files, "{seen:?}");
    let mut writes = 0;
    for (at, file) in (0..).zip(seen) {
        let tail = u64::from(at % 3 == 2);
        let expected = guest_tests::pattern::file(files.seed, at, files.blocks).len() as u64;
        assert_eq!(file["path"], format!("/mnt/{}", files.name(at)));
        assert_eq!(number(&file["bytes"]), expected);
        assert_eq!(number(&file["size"]), expected);
        assert_eq!(number(&file["blocks"]), blocks_of(files, at));
        assert_eq!(number(&file["matched"]), blocks_of(files, at), "every block was recognised at the disk");
        writes += files.blocks + tail * u64::from(at % 2 == 0);
        // An odd file's tail is a pwrite64, even if it is empty.
        assert_eq!(number(&file["writes"]), files.blocks + tail, "{file}");
    }
    let pwrites = (0..files.files).filter(|at| at % 2 == 1).count() as u64 * files.blocks;
    assert!(number(&report["calls"]["write"]["entered"]) >= writes - pwrites);
    let all: u64 = (0..files.files).map(|at| blocks_of(files, at)).sum();
    assert_eq!(number(&report["blocks"]["data"]), all, "and nobody else's block was");
    assert_eq!(number(&report["blocks"]["pending"]), 0);
    for name in ["write", "pwrite64", "openat"] {
        let call = &report["calls"][name];
        assert_eq!(call["entered"], call["returned"], "{name}");
    }
}

/// The guest did with traps what it does without.
fn assert_undisturbed(watched: &Watched, finished: &Finished) {
    for (files, key) in [(&MONITORED, "WRITER_CHECKSUM"), (&UNMONITORED, "BYSTANDER_CHECKSUM")] {
        assert_eq!(finished.marker(key).unwrap(), files.checksum().to_string());
        for at in 0..files.files {
            let content = watched.disk.cat(&format!("/{}", files.name(at))).unwrap();
            assert!(
                content == guest_tests::pattern::file(files.seed, at, files.blocks),
                "{}",
                files.name(at)
            );
        }
    }
    watched.disk.check().unwrap();
}

fn writes_are_seen(flavour: Flavour, cmdline: &str, script: &str) -> Finished {
    let watched = Watched::new(flavour);
    let (finished, report) = watched.run(Some("writer"), cmdline, script);
    assert_undisturbed(&watched, &finished);
    assert_everything_was_seen(&report, &MONITORED);
    // The bystander's as many blocks reached the disk, too, besides the file system's own.
    assert!(number(&report["blocks"]["unknown"]) > UNMONITORED.files * UNMONITORED.blocks);
    finished
}

#[test]
fn writes_are_seen_on_6_1() {
    e2e("writes_are_seen_on_6_1", || {
        writes_are_seen(Flavour::Cloud61, "", WRITE);
    });
}

#[test]
fn writes_are_seen_on_6_12() {
    e2e("writes_are_seen_on_6_12", || {
        writes_are_seen(Flavour::Cloud612, "", WRITE);
    });
}

/// Each form of writing there is, at odd places: every block of every file is recognised, those that a write covered
/// partly, those that the kernel copied and those of writes that fell short. `options` are those of the mount.
fn every_form_of_writing_is_seen(flavour: Flavour, options: &str) {
    let watched = Watched::new(flavour);
    // Each block goes to the disk when the program says so, not when it has been in memory for half a minute. The first
    // write shows where the guest has its pages, when it returns.
    let script = format!(
        "echo 100000 > /proc/sys/vm/dirty_expire_centisecs
        mount -t ext4 -o {options} /dev/vda /mnt; writer /mnt 1 1 1; writer forms /mnt; echo FORMS=$?; umount /mnt"
    );
    let (finished, report) = watched.run(Some("writer"), "", &script);
    assert_eq!(finished.marker("FORMS").unwrap(), "0");
    watched.disk.check().unwrap();
    let files = report["files"].as_array().unwrap();
    let first = files.iter().find(|file| file["path"] == "/mnt/w0.dat").map(|file| number(&file["matched"]));
    let (mut all, mut copied) = (first.unwrap(), 0);
    for form in Form::ALL {
        let content = form.content();
        assert!(watched.disk.cat(&format!("/{}", form.name())).unwrap() == content, "{form:?}");
        let path = format!("/mnt/{}", form.name());
        let file =
            files.iter().find(|file| file["path"] == path).unwrap_or_else(|| panic!("{path}: {report}"));
        let blocks = content.len().div_ceil(4096) as u64;
        let matched = number(&file["matched"]);
        assert_eq!(number(&file["size"]), content.len() as u64, "{form:?}");
        match form {
            // Some blocks are written more than once.
            Form::Sync | Form::Patch | Form::Mapped | Form::Zero => {
                assert!(matched > blocks, "{form:?}: {matched}")
            }
            _ if options == "sync" => assert!(matched >= blocks, "{form:?}: {file}"),
            _ => assert_eq!(matched, blocks, "{form:?}: {file}"),
        }
        all += matched;
        copied += if form.copies().is_some() { blocks } else { 0 };
    }
    assert_eq!(number(&report["blocks"]["data"]), all);
    assert_eq!(
        number(&report["blocks"]["copied"]),
        copied - Form::Splice.content().len().div_ceil(4096) as u64
    );
    assert_eq!(number(&report["blocks"]["pending"]), 0, "{report}");
    for call in ["io_submit", "io_uring_enter"] {
        assert_eq!(number(&report["calls"][call]["returned"]), 1, "{call}");
    }
    for what in ["unreadable", "partial_blocks", "absent_blocks", "unclear_submissions", "polled_rings"] {
        assert_eq!(number(&report["untracked"][what]), 0, "{what}: {report}");
    }
}

#[test]
#[ignore = "for time"]
fn every_form_of_writing_is_seen_on_6_1() {
    e2e("every_form_of_writing_is_seen_on_6_1", || every_form_of_writing_is_seen(Flavour::Cloud61, "async"));
}

#[test]
fn every_form_of_writing_is_seen_on_6_12() {
    e2e("every_form_of_writing_is_seen_on_6_12", || {
        every_form_of_writing_is_seen(Flavour::Cloud612, "async")
    });
}

/// What a call has had written back is not expected again when it returns.
#[test]
fn every_form_of_writing_through_is_seen() {
    e2e("every_form_of_writing_through_is_seen", || every_form_of_writing_is_seen(Flavour::Cloud612, "sync"));
}

/// Into the journal, and from there to their places: by the time of the unmount all are there.
#[test]
fn journalled_data_is_recognised_at_both_places() {
    e2e("journalled_data_is_recognised_at_both_places", || {
        let watched = Watched::new(Flavour::Cloud61);
        let script = "mount -t ext4 -o data=journal /dev/vda /mnt; writer /mnt 1 2 16; sync; umount /mnt";
        let (finished, report) = watched.run(Some("writer"), "", script);
        assert_eq!(finished.marker("WRITER_FILES").unwrap(), "2");
        watched.disk.check().unwrap();
        let files = report["files"].as_array().unwrap();
        let matched: Vec<u64> = files.iter().map(|file| number(&file["matched"])).collect();
        assert_eq!(matched, [2 * 16, 2 * 16], "{report:#}");
    });
}

/// Files that were there before: blocks of the disk are named by who reads them, however much the kernel reads ahead, and
/// what is written as it was read is a copy.
#[test]
fn reads_name_blocks_and_copies_are_seen() {
    e2e("reads_name_blocks_and_copies_are_seen", || {
        let watched = Watched::new(Flavour::Cloud61);
        let script =
            "mount -t ext4 /dev/vda /mnt; writer forms /mnt; umount /mnt; mount -t ext4 /dev/vda /mnt
            # With read and write, not with copy_file_range.
            dd if=/mnt/append of=/mnt/copy bs=8192; sha256sum /mnt/copy /mnt/limit; sync
            echo 3 > /proc/sys/vm/drop_caches; sha256sum /mnt/limit; umount /mnt";
        // Not of the shell's children: nobody knows what the writer wrote.
        let config = "[[process]]\nexecutable = 'busybox'\n";
        let (_, report) = watched.run_with(Some(config), "", script);
        let content = Form::Append.content();
        assert!(watched.disk.cat("/copy").unwrap() == content);
        let files = report["files"].as_array().unwrap();
        let file = |path: &str| {
            files.iter().find(|file| file["path"] == path).unwrap_or_else(|| panic!("{path}: {report}"))
        };
        let blocks = |bytes: usize| bytes.div_ceil(4096) as u64;
        assert_eq!(number(&file("/mnt/append")["named"]), blocks(content.len()));
        assert_eq!(number(&file("/mnt/limit")["named"]), blocks(Form::Limit.content().len()), "once");
        let copy = file("/mnt/copy");
        assert_eq!(number(&copy["matched"]), blocks(content.len()));
        assert_eq!(number(&copy["named"]), 0, "it was in the page cache");
        // The executable itself is in the initramfs, which is no disk. The last block is written as a part, which is the same as what was read of it.
        assert_eq!(number(&report["blocks"]["copied"]), blocks(content.len()));
    });
}

/// Programs that nobody here wrote: the database's file and its journal, a copy that the kernel makes, and the programs
/// themselves, which are read through mappings.
#[test]
fn programs_of_debian_are_understood() {
    e2e("programs_of_debian_are_understood", || {
        let watched = Watched::new(Flavour::Cloud61);
        let script = format!(
            "echo 100000 > /proc/sys/vm/dirty_expire_centisecs
            ROOTFS=/dev/vda\n{MOUNT_ROOTFS}mount -t ext4 /dev/vdb /root-fs/mnt
            inside sqlite3 /mnt/x.db 'pragma journal_mode=wal; create table t(n, text);
                with recursive c(n) as (select 1 union all select n+1 from c where n<2000)
                insert into t select n, hex(randomblob(20)) from c; update t set n = -n where n % 7 = 0;'
            echo SQLITE=$?; inside /bin/cp /mnt/x.db /mnt/copy.enc; echo CP=$?; umount /root-fs/mnt"
        );
        let config = "[[process]]\nexecutable = 'sqlite3'\n[[process]]\nexecutable = 'cp'\n
            [insight]\nfiles = ['/root-fs/mnt', '/root-fs/*/libc.so.6', '/root-fs/*bin/*']\n";
        let run = GuestRun::bare().rootfs().unwrap();
        let (finished, report) = watched.run_from(run, Some(config), "", &script);
        assert_eq!((finished.marker("SQLITE").unwrap(), finished.marker("CP").unwrap()), ("0", "0"));
        watched.disk.check().unwrap();
        let files = report["files"].as_array().unwrap();
        let file = |path: &str| {
            files.iter().find(|file| file["path"] == path).unwrap_or_else(|| panic!("{path}: {report:#}"))
        };
        let database = watched.disk.cat("/x.db").unwrap();
        let blocks = database.len().div_ceil(4096) as u64;
        assert!(blocks > 20 && watched.disk.cat("/copy.enc").unwrap() == database);
        for name in ["x.db", "copy.enc"] {
            let file = file(&format!("/root-fs/mnt/{name}"));
            assert_eq!(number(&file["size"]), database.len() as u64);
            assert!(number(&file["matched"]) >= blocks, "{file}");
        }
        // The journal was removed in the end, or is as good as never written.
        assert!(number(&report["blocks"]["copied"]) >= blocks, "{report:#}");
        assert_eq!(number(&report["blocks"]["unique"]["extension"]), blocks);
        for name in ["usr/bin/sqlite3", "bin/cp", "lib/x86_64-linux-gnu/libc.so.6"] {
            assert!(number(&file(&format!("/root-fs/{name}"))["named"]) > 0, "{name}: {report:#}");
        }
        let outside = |file: &&Value| file["path"].as_str().unwrap().contains("libsqlite3");
        assert_eq!(files.iter().find(outside), None, "it is not among those that are followed");
    });
}

/// Renamed, cut, replaced and deleted files: blocks go by the name that a file has in the end, and come to an end when
/// it does.
#[test]
fn files_are_followed_to_their_end() {
    e2e("files_are_followed_to_their_end", || {
        let watched = Watched::new(Flavour::Cloud612);
        let script =
            "echo 100000 > /proc/sys/vm/dirty_expire_centisecs; mount -t ext4 /dev/vda /mnt; mkdir /mnt/d
            make() { dd if=/dev/urandom of=/mnt/$1 bs=4096 count=$2; }
            make a 5; mv /mnt/a /mnt/b; make d/x 2; mv /mnt/d /mnt/e
            make cut 5; make gone 4; make old 2; make new 2; make again 3; sync
            truncate -s 5000 /mnt/cut; rm /mnt/gone; mv /mnt/new /mnt/old; make again 1; sync; umount /mnt";
        let config = "[[process]]\nexecutable = 'busybox'\n[insight]\nassume = 'complete'\n";
        let (_, report) = watched.run_with(Some(config), "", script);
        watched.disk.check().unwrap();
        let files = report["files"].as_array().unwrap();
        let mut matched: Vec<(&str, u64)> = files
            .iter()
            .map(|file| (file["path"].as_str().unwrap(), number(&file["matched"])))
            .filter(|(path, _)| path.starts_with("/mnt/"))
            .collect();
        matched.sort_unstable();
        let expected = [
            ("/mnt/again", 4),
            ("/mnt/b", 5),
            // What is behind the end of the file is zeros now.
            ("/mnt/cut", 6),
            ("/mnt/e/x", 2),
            ("/mnt/gone", 4),
            ("/mnt/old", 2),
            ("/mnt/old", 2),
        ];
        assert_eq!(matched, expected, "{report:#}");
        let ends = |cause: &str| -> u64 {
            report["lifetimes"].as_array().unwrap().iter().map(|class| number(&class[cause])).sum()
        };
        assert_eq!(
            (ends("deleted"), ends("truncated"), ends("overwritten")),
            (4 + 2, 3 + 3, 1),
            "{report:#}"
        );
        assert_eq!(number(&report["blocks"]["data"]), 25);
        // The shell and its tools are all that writes, so the rest is the file system's.
        assert_eq!(number(&report["blocks"]["unknown"]), 0);
        assert!(number(&report["blocks"]["metadata"]) > 0);
    });
}

/// The classes of blocks at the disk, by an administrator's file, against what the program says that it wrote.
#[test]
fn blocks_get_classes_by_a_policy() {
    e2e("blocks_get_classes_by_a_policy", || {
        let watched = Watched::new(Flavour::Cloud61);
        let policy = format!(
            "IO class id,IO class name,Eviction priority,Allocation\n0,unclassified,255,1.00\n\
             1,process_name:writer&directory:/mnt,1,1.00\n2,file_name_prefix:{},0,1.00\n3,process_name:bystander,0,1.00\n",
            MONITORED.name(0)
        );
        std::fs::write(watched.scratch.path("classes.csv"), policy).unwrap();
        let config = "[[process]]\nexecutable = 'writer'\n[insight]\npolicy = 'classes.csv'\n";
        let (finished, report) = watched.run_with(Some(config), "", WRITE);
        assert_undisturbed(&watched, &finished);
        assert_everything_was_seen(&report, &MONITORED);
        let blocks: Vec<u64> =
            report["classes"].as_array().unwrap().iter().map(|class| number(&class["blocks"])).collect();
        let unknown = number(&report["blocks"]["unknown"]);
        let others = (1..MONITORED.files).map(|at| blocks_of(&MONITORED, at)).sum();
        // Nobody looks at the bystander, so nobody knows which blocks are its own.
        assert_eq!(blocks, [unknown, others, MONITORED.blocks, 0]);
    });
}

#[test]
fn results_are_the_same_without_traps() {
    e2e("results_are_the_same_without_traps", || {
        let watched = Watched::new(Flavour::Cloud61);
        let (finished, report) = watched.run(None, "", WRITE);
        assert_undisturbed(&watched, &finished);
        assert_eq!(report, Value::Null);
    });
}

#[test]
fn files_that_inherit_an_inode_are_told_apart() {
    e2e("files_that_inherit_an_inode_are_told_apart", || {
        let watched = Watched::new(Flavour::Cloud61);
        let script = "mount -t ext4 /dev/vda /mnt; mkdir /mnt/a
            writer /mnt/a 1 2 4; set -- $(ls -i /mnt/a/w1.dat); echo FIRST=$1
            rm /mnt/a/*; mv /mnt/a /mnt/b
            writer /mnt/b 2 2 4; set -- $(ls -i /mnt/b/w1.dat); echo SECOND=$1
            umount /mnt";
        let (finished, report) = watched.run(Some("writer"), "", script);
        assert_eq!(
            finished.marker("FIRST").unwrap(),
            finished.marker("SECOND").unwrap(),
            "an inode is used again"
        );
        let files = report["files"].as_array().unwrap();
        let paths: Vec<&Value> = files.iter().map(|file| &file["path"]).collect();
        assert_eq!(paths, ["/mnt/a/w0.dat", "/mnt/a/w1.dat", "/mnt/b/w0.dat", "/mnt/b/w1.dat"]);
        assert!(files.iter().all(|file| file["matched"] == 4), "{files:?}");
    });
}

/// A file goes by the names that it is given, too: its end is seen by whichever is the last.
#[test]
fn files_are_followed_by_every_name() {
    e2e("files_are_followed_by_every_name", || {
        let watched = Watched::new(Flavour::Cloud612);
        let script = "mount -t ext4 /dev/vda /mnt
            dd if=/dev/urandom of=/mnt/a bs=4096 count=4 conv=fsync; dd if=/dev/urandom of=/mnt/kept bs=4096 count=2 conv=fsync
            for n in 1 2 3 4 5 6 7 8 9; do ln /mnt/a /mnt/n$n; rm /mnt/n$n; done
            ln /mnt/a /mnt/b; mv /mnt/b /mnt/c; rm /mnt/a; ln /mnt/kept /mnt/d; rm /mnt/c; rm /mnt/d; umount /mnt";
        let (_, report) = watched.run_with(Some("[[process]]\nexecutable = 'busybox'\n"), "", script);
        let matched: Vec<(&Value, u64)> = report["files"]
            .as_array()
            .unwrap()
            .iter()
            .map(|file| (&file["path"], number(&file["matched"])))
            .collect();
        assert_eq!(matched, [(&Value::from("/mnt/a"), 4), (&Value::from("/mnt/kept"), 2)], "{report}");
        assert_eq!(number(&report["blocks"]["known"]), 2, "those of the one that is there: {report}");
    });
}

/// With isolation the kernel is entered on page tables of its own.
fn with_isolation(flavour: Flavour) {
    let script = format!("{WRITE}\necho ISOLATED=$(grep -cw pti /proc/cpuinfo)");
    for (option, expected) in [("pti=on", "1"), ("pti=off", "0")] {
        let finished = writes_are_seen(flavour, option, &script);
        assert_eq!(finished.marker("ISOLATED").unwrap(), expected, "{option}");
    }
}

#[test]
#[ignore = "for time"]
fn page_table_isolation_on_and_off_on_6_1() {
    e2e("page_table_isolation_on_and_off_on_6_1", || with_isolation(Flavour::Cloud61));
}

#[test]
fn page_table_isolation_on_and_off_on_6_12() {
    e2e("page_table_isolation_on_and_off_on_6_12", || with_isolation(Flavour::Cloud612));
}

#[test]
fn the_kernel_may_lie_anywhere() {
    e2e("the_kernel_may_lie_anywhere", || {
        let script = format!("{WRITE}\nset -- $(grep ' _text$' /proc/kallsyms); echo TEXT=$1");
        let text = |cmdline| {
            let finished = writes_are_seen(Flavour::Cloud61, cmdline, &script);
            finished.marker("TEXT").unwrap().to_owned()
        };
        assert_eq!(text("nokaslr"), "ffffffff81000000");
        // One place in 500 is the usual one.
        assert!((0..2).any(|_| text("") != "ffffffff81000000"), "KASLR did not move the kernel");
    });
}

#[test]
fn invalid_opcodes_are_the_guests_own() {
    e2e("invalid_opcodes_are_the_guests_own", || {
        for flavour in Flavour::GUESTS {
            let watched = Watched::new(flavour);
            let (finished, report) = watched.run(Some("ud2"), "", "ud2");
            assert_eq!(finished.marker("UD2").unwrap(), "ok");
            assert_eq!(number(&report["stops"]["invalid_opcodes"]), 100);
            assert!(number(&report["calls"]["rt_sigreturn"]["entered"]) == 100, "{report}");
        }
    });
}

/// Reads EFER (0xc0000080) from a process that runs with `EFER.SCE` clear.
#[test]
fn the_guest_sees_the_efer_that_it_set() {
    e2e("the_guest_sees_the_efer_that_it_set", || {
        let script = "for module in /modules/*msr.ko; do insmod $module 2>/dev/null; done
            set -- $(dd if=/dev/cpu/0/msr iflag=skip_bytes skip=3221225600 bs=8 count=1 2>/dev/null | od -An -tx1)
            echo EFER=$1";
        let watched = Watched::new(Flavour::Cloud61);
        let (plain, _) = watched.run(None, "", script);
        // The shell and dd are the same executable.
        let (finished, report) = watched.run(Some("busybox"), "", script);
        assert_eq!(plain.marker("EFER").unwrap(), "01");
        assert_eq!(finished.marker("EFER").unwrap(), "01");
        assert!(number(&report["calls"]["read"]["entered"]) > 0, "it ran with SCE clear: {report}");
        assert_eq!(report["problem"], Value::Null);
    });
}

#[test]
fn every_new_process_of_the_name_is_monitored_and_no_other() {
    e2e("every_new_process_of_the_name_is_monitored_and_no_other", || {
        let watched = Watched::new(Flavour::Cloud612);
        let script = "for round in 1 2 3 4 5 6 7 8; do getpid-loop 50; bystander getpid 50; true & ls / >/dev/null; done; wait";
        let (_, report) = watched.run(Some("getpid-loop"), "", script);
        let processes = report["processes"].as_array().unwrap();
        assert_eq!(processes.len(), 8);
        let mut pids: Vec<u64> = processes.iter().map(|process| number(&process[1])).collect();
        pids.dedup();
        assert_eq!(pids.len(), 8);
        // 50, one to compare with, one of the standard library, and none of the bystander's 400.
        assert_eq!(number(&report["calls"]["getpid"]["entered"]), 8 * 52);
        assert_eq!(number(&report["calls"]["exit_group"]["entered"]), 8);
    });
}

#[test]
fn what_cannot_be_monitored_is_said() {
    e2e("what_cannot_be_monitored_is_said", || {
        let watched = Watched::new(Flavour::Cloud61);
        let run = |text: &str, cpus: u32| {
            let path = watched.config(text);
            let initramfs = watched.scratch.initramfs(&watched.kernel, "true").unwrap();
            GuestRun::new(&watched.kernel.bzimage(), &initramfs).cpus(cpus).monitor(&path).run().unwrap()
        };
        for (text, cpus, expected) in [
            ("[[process]]\nexecutabel = 'x'", 1, "did you mean \"executable\"?"),
            ("[trap]\nport = 1", 1, "missing field `process`"),
            ("[[process]]\nchildren = true", 2, "needs executable, command, parent or pid"),
        ] {
            let finished = run(text, cpus);
            assert_eq!(finished.status.code(), Some(1), "{text}");
            assert!(finished.messages.contains(expected), "{}", finished.messages);
            assert!(finished.serial.is_empty(), "the guest did not start");
        }
        let finished = run("[[process]]\nexecutable = 'x'", 1).ok().unwrap();
        assert!(finished.messages.contains("no traps were set"), "without a disk: {}", finished.messages);
    });
}
