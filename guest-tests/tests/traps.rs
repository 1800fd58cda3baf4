//! The trap engine on real guests: the torture program, strace's account against ours, insight-calls; with both engines
//! and both mechanisms, on one CPU and on four.
//!
//! Some combinations take part in every run; the others are ignored tests, for `cargo test -p guest-tests --test traps --
//! --include-ignored`. `SKY_NIGHTLY=1` makes all of them longer.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::BTreeMap;
use std::path::Path;

use guest_tests::disk::Disk;
use guest_tests::e2e;
use guest_tests::guest::{CMDLINE, Finished, GuestRun, MOUNT_ROOTFS, Scratch};
use guest_tests::packages::{Flavour, Kernel};
use guest_tests::strace::{self, Trace};
use serde_json::Value;

/// How a guest is watched.
#[derive(Clone, Copy, Debug)]
struct Setup {
    flavour: Flavour,
    cpus: u32,
    engine: &'static str,
    mechanism: &'static str,
    cmdline: &'static str,
}

impl Setup {
    const fn new(flavour: Flavour, cpus: u32, engine: &'static str, mechanism: &'static str) -> Setup {
        Setup { flavour, cpus, engine, mechanism, cmdline: "" }
    }
}

const COMBINATIONS: [(&str, &str); 4] =
    [("sce", "port"), ("entry", "port"), ("sce", "debug"), ("entry", "debug")];

/// What a monitored run left.
struct Watched {
    finished: Finished,
    report: Value,
    /// Lines of the trace, by thread id and in the order in which calls were entered.
    trace: BTreeMap<u64, Vec<Value>>,
    disk: Disk,
    /// Where the disk's image lies.
    _scratch: Scratch,
}

/// Runs a guest that does `script`, with processes that `rules` (TOML) name watched.
fn watch(setup: &Setup, rules: &str, script: &str, traced: bool) -> Watched {
    watch_with(setup, rules, script, traced, None)
}

/// The same; the disk holds a copy of `contents`.
fn watch_with(setup: &Setup, rules: &str, script: &str, traced: bool, contents: Option<&Path>) -> Watched {
    let scratch = Scratch::new().unwrap();
    let kernel = Kernel::get(setup.flavour).unwrap();
    let disk = Disk::ext4(scratch.path("disk.img"), 64, contents).unwrap();
    let initramfs = scratch.initramfs(&kernel, script).unwrap();
    let config = scratch.path("monitor.toml");
    let (engine, mechanism) = (setup.engine, setup.mechanism);
    let trap = format!("[trap]\nengine = '{engine}'\nmechanism = '{mechanism}'\nreturns = 'all'\n");
    std::fs::write(&config, format!("{rules}\n{trap}")).unwrap();
    let (stats, trace) = (scratch.path("stats.json"), scratch.path("trace"));
    let mut run = GuestRun::bare()
        .option("--kernel", kernel.bzimage())
        .option("--initrd", initramfs)
        .option("--cmdline", format!("{CMDLINE} {}", setup.cmdline))
        .option("--memory", "512M")
        .option("--stats", &stats)
        .cpus(setup.cpus)
        .monitor(&config)
        .rootfs()
        .unwrap()
        .disk(&disk);
    if traced {
        run = run.option("--trace", &trace).option("--trace-format", "json");
    }
    let finished = run.run().unwrap().ok().unwrap();
    let stats: Value = serde_json::from_slice(&std::fs::read(stats).unwrap()).unwrap();
    let report = stats["monitor"].clone();
    assert_eq!(report["problem"], Value::Null, "{setup:?}");
    assert_eq!((&report["engine"], &report["mechanism"]), (&engine.into(), &mechanism.into()));
    let mut by_thread: BTreeMap<u64, Vec<Value>> = BTreeMap::new();
    if traced {
        for line in std::fs::read_to_string(trace).unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            if line["call"].is_object() {
                by_thread.entry(line["tid"].as_u64().unwrap()).or_default().push(line);
            }
        }
    }
    for calls in by_thread.values_mut() {
        calls.sort_by_key(|line| line["time_ns"].as_u64());
    }
    Watched { finished, report, trace: by_thread, disk, _scratch: scratch }
}

/// Everything that the torture program counts for itself, and how our counters must compare.
const COUNTED: [&str; 11] = [
    "getpid",
    "getppid",
    "getpgid",
    "getpriority",
    "umask",
    "sysinfo",
    "personality",
    "sched_yield",
    "pause",
    "getsid",
    "times",
];

fn torture(setup: &Setup) {
    let nightly = std::env::var_os("SKY_NIGHTLY").is_some();
    // With several virtual CPUs at once the emulated machine is slow.
    let rounds = match setup.cpus {
        _ if nightly => 400,
        1 => 12,
        _ => 3,
    };
    let script = format!(
        "mount -t tmpfs tmpfs /tmp; mkdir /tmp/t
         torture --threads 4 --rounds {rounds} --storm 20000 --dir /tmp/t"
    );
    let watched = watch(setup, "[[process]]\nexecutable = 'torture'\nchildren = true", &script, false);
    assert_eq!(watched.finished.marker("TORTURE").unwrap(), "ok", "{}", watched.finished.serial);
    let calls = &watched.report["calls"];
    for name in COUNTED {
        let own = watched.finished.marker(&format!("TORTURE_COUNT_{}", name.to_uppercase())).unwrap();
        assert_eq!(calls[name]["entered"].as_u64(), own.parse().ok(), "{name} with {setup:?}");
        if name != "pause" {
            assert_eq!(calls[name]["entered"], calls[name]["returned"], "{name} with {setup:?}");
        }
    }
    assert_eq!(watched.report["outstanding"], 0, "{setup:?}");
    assert!(calls["rt_sigreturn"]["entered"].as_u64() > Some(0), "signals came");
}

macro_rules! torture {
    ($($(#[$ignore:meta])? $name:ident: $flavour:ident $cpus:literal $engine:literal $mechanism:literal,)*) => {
        $(#[test]
        $(#[$ignore])?
        fn $name() {
            e2e(stringify!($name), || torture(&Setup::new(Flavour::$flavour, $cpus, $engine, $mechanism)));
        })*
    };
}

torture! {
    #[ignore = "for time"]
    torture_61_1_sce_port: Cloud61 1 "sce" "port",
    torture_612_1_entry_debug: Cloud612 1 "entry" "debug",
    torture_612_4_sce_port: Cloud612 4 "sce" "port",
    #[ignore = "for time"]
    torture_61_4_entry_port: Cloud61 4 "entry" "port",
    #[ignore = "for time"]
    torture_61_1_entry_port: Cloud61 1 "entry" "port",
    #[ignore = "for time"]
    torture_612_1_sce_debug: Cloud612 1 "sce" "debug",
    #[ignore = "for time"]
    torture_61_4_sce_port: Cloud61 4 "sce" "port",
    #[ignore = "for time"]
    torture_612_4_entry_port: Cloud612 4 "entry" "port",
    #[ignore = "for time"]
    torture_61_4_sce_debug: Cloud61 4 "sce" "debug",
    #[ignore = "for time"]
    torture_612_4_entry_debug: Cloud612 4 "entry" "debug",
}

/// The other combinations, and page-table isolation, where time does not matter.
#[test]
#[ignore = "takes hours"]
fn torture_in_every_other_combination() {
    e2e("torture_in_every_other_combination", || {
        for flavour in Flavour::GUESTS {
            for cpus in [1, 2, 4] {
                for (engine, mechanism) in COMBINATIONS {
                    for cmdline in ["", "pti=on", "mitigations=off nokaslr"] {
                        let setup = Setup { cmdline, ..Setup::new(flavour, cpus, engine, mechanism) };
                        torture(&setup);
                    }
                }
            }
        }
    });
}

#[test]
fn isolated_page_tables_and_no_mitigations() {
    e2e("isolated_page_tables_and_no_mitigations", || {
        for (flavour, engine, mechanism, cmdline) in [
            (Flavour::Cloud61, "entry", "port", "pti=on"),
            (Flavour::Cloud612, "sce", "port", "pti=on"),
            (Flavour::Cloud612, "sce", "debug", "mitigations=off nokaslr"),
        ] {
            torture(&Setup { cmdline, ..Setup::new(flavour, 1, engine, mechanism) });
        }
    });
}

/// A call as both sides see it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    name: String,
    args: Vec<u64>,
    result: Option<i64>,
}

const EINTR: i64 = -4;

/// Our account of one thread; results as strace can be expected to have them.
fn ours(lines: &[Value]) -> Vec<Seen> {
    let hex =
        |text: &Value| u64::from_str_radix(text.as_str().unwrap().trim_start_matches("0x"), 16).unwrap();
    lines
        .iter()
        .map(|line| {
            let call = &line["call"];
            Seen {
                name: match call["name"].as_str() {
                    Some(name) => name.to_owned(),
                    None => format!("syscall_{:#x}", call["number"].as_u64().unwrap()),
                },
                args: call["raw"].as_array().unwrap().iter().map(hex).collect(),
                result: call["result"]["value"].as_i64(),
            }
        })
        .collect()
}

/// Compares with strace's account of the same thread, and says where they part. `together` tells which other threads
/// are of the same process, `ended` whether one of those ended the process.
fn compare(tid: i32, ours: &[Seen], theirs: &[strace::Call], together: impl Fn(i32) -> bool, ended: bool) {
    for at in 0..ours.len().max(theirs.len()) {
        // Another thread's exit_group may kill one that stands still for strace at the entry of a call: strace then sees
        // only its end.
        let killed = |our: &Seen| ended && our.result.is_none() && !our.name.starts_with("exit");
        if at == theirs.len() && at + 1 == ours.len() && ours.last().is_some_and(killed) {
            return;
        }
        let (Some(our), Some(their)) = (ours.get(at), theirs.get(at)) else {
            panic!("thread {tid}, call {at}: ours {:?}, strace's {:?}", ours.get(at), theirs.get(at));
        };
        let same_args = their.args.iter().zip(&our.args).all(|(their, our)| their == our);
        let same_result = match their.outcome {
            strace::Outcome::Value(value) => our.result == Some(value.cast_signed()),
            strace::Outcome::Error(errno) => our.result == Some(-i64::from(errno)),
            // What strace sees before the handler runs; afterwards the call fails, or is made again.
            strace::Outcome::Restart(_) => our.result.is_none() || our.result == Some(EINTR),
            strace::Outcome::Unknown => our.result.is_none(),
            strace::Outcome::Repeated { of } if together(of) => {
                let last = our.result.is_none() && at + 1 == ours.len();
                assert!(last && (of != tid || ended), "thread {tid}, call {at}: {our:?}");
                continue;
            }
            strace::Outcome::Repeated { .. } => our.result.is_none(),
        };
        let special = ["rt_sigreturn", "restart_syscall"].contains(&their.name.as_str());
        // A thread whose process ends dies on its way back from its last call. By then strace has been told of the
        // result, but to user mode it never returned.
        let died = at + 1 == ours.len().max(theirs.len()) && our.result.is_none();
        assert!(
            our.name == their.name && (special || same_args && (same_result || died)),
            "thread {tid}, call {at}: ours {our:?}, strace's {their:?}\naround: {:?}\nstrace's: {:?}",
            &ours[at.saturating_sub(3)..ours.len().min(at + 4)],
            &theirs[at.saturating_sub(3)..theirs.len().min(at + 4)]
        );
    }
}

/// Runs programs under strace in the guest, watched by us at the same time, and compares the two accounts.
fn against_strace(setup: &Setup, commands: &[&str]) {
    let mut script = format!(
        "ROOTFS=/dev/vda\n{MOUNT_ROOTFS}mount -t ext4 /dev/vdb /mnt\ncp /bin/torture /root-fs/tmp/\n"
    );
    for (at, command) in commands.iter().enumerate() {
        script += &format!(
            "inside strace -f -e raw=all -e signal=none -o /tmp/strace{at} {command}; echo ENDED{at}=$?\n"
        );
        script += &format!("cp /root-fs/tmp/strace{at} /mnt/\n");
    }
    script += "umount /mnt";
    // What strace starts, and what that starts in turn; not strace's own child before it becomes the program.
    let rules = "[[process]]\nparent = 'strace'\nexecutable = '[!s]*'\nchildren = true\n[[process]]\nparent = 'strace'\nexecutable = 's[!t]*'\nchildren = true";
    let watched = watch(setup, rules, &script, true);
    let mut threads: BTreeMap<i32, Vec<strace::Call>> = BTreeMap::new();
    let mut total = 0;
    for at in 0..commands.len() {
        assert_eq!(
            watched.finished.marker(&format!("ENDED{at}")).unwrap(),
            "0",
            "{}",
            watched.finished.serial
        );
        let text = String::from_utf8(watched.disk.cat(&format!("/strace{at}")).unwrap()).unwrap();
        let trace = Trace::parse(&text);
        assert_eq!(trace.strange, Vec::<String>::new());
        for (number, thread) in trace.threads.into_iter().enumerate() {
            // The program itself is executed by a process that is still strace.
            let first = usize::from(number == 0);
            threads.entry(thread.tid).or_default().extend(thread.calls.into_iter().skip(first));
        }
    }
    for (&tid, theirs) in &threads {
        let lines = |tid: i32| watched.trace.get(&u64::try_from(tid).unwrap()).map_or(&[][..], Vec::as_slice);
        let process = |tid| lines(tid).last().map(|line| line["pid"].as_u64().unwrap());
        let together = |other| process(other) == process(tid);
        let ended = threads
            .keys()
            .filter(|&&other| other != tid && together(other))
            .any(|&other| lines(other).iter().any(|line| line["call"]["name"] == "exit_group"));
        compare(tid, &ours(lines(tid)), theirs, together, ended);
        total += theirs.len();
    }
    assert_eq!(watched.trace.len(), threads.len(), "{:?}", watched.trace.keys());
    assert!(total > 50, "{total} calls are not enough to mean anything");
    assert_eq!(watched.report["outstanding"], 0);
    println!("{setup:?}: {total} calls of {} threads, the same as strace's", threads.len());
}

/// Everything that programs may do, on purpose.
const OWN: &[&str] = &["/tmp/torture trace --dir /tmp"];
/// Programs that nobody here wrote.
const OTHERS: &[&str] = &[
    "/bin/ls -l /etc",
    "sh -c 'seq 300 > /tmp/a && sort -r /tmp/a | tail -3 && cp /tmp/a /tmp/b && tar -czf /tmp/c.tgz -C /tmp a b'",
    "busybox sh -c 'for i in 1 2 3; do echo $i | cat > /tmp/x$i; done; rm /tmp/x*'",
    "sqlite3 /tmp/x.db 'create table t(n); insert into t values(20),(22); select sum(n) from t'",
    "sh -c 'mkdir -p /root/.gnupg; gpg --batch -q --pinentry-mode loopback --passphrase sky --s2k-count 1024 -c -o /tmp/gpg /tmp/a; gpgconf --kill gpg-agent'",
    "git init -q /tmp/git",
];

macro_rules! strace {
    ($($(#[$ignore:meta])? $name:ident: $flavour:ident $cpus:literal $engine:literal $mechanism:literal $commands:ident,)*) => {
        $(#[test]
        $(#[$ignore])?
        fn $name() {
            e2e(stringify!($name), || {
                against_strace(&Setup::new(Flavour::$flavour, $cpus, $engine, $mechanism), $commands);
            });
        })*
    };
}

strace! {
    strace_agrees_61_1_sce_port: Cloud61 1 "sce" "port" OWN,
    strace_agrees_on_debian_programs_sce: Cloud612 1 "sce" "port" OTHERS,
    #[ignore = "for time"]
    strace_agrees_612_4_entry_port: Cloud612 4 "entry" "port" OWN,
    #[ignore = "for time"]
    strace_agrees_612_4_sce_port: Cloud612 4 "sce" "port" OWN,
    #[ignore = "for time"]
    strace_agrees_61_4_entry_port: Cloud61 4 "entry" "port" OWN,
    #[ignore = "for time"]
    strace_agrees_61_4_sce_debug: Cloud61 4 "sce" "debug" OWN,
    #[ignore = "for time"]
    strace_agrees_612_1_entry_debug: Cloud612 1 "entry" "debug" OWN,
    #[ignore = "for time"]
    strace_agrees_on_debian_programs_entry: Cloud61 1 "entry" "debug" OTHERS,
}

/// The four ways give the same account of the same program.
#[test]
fn all_combinations_see_the_same() {
    e2e("all_combinations_see_the_same", || {
        let mut accounts = Vec::new();
        for (engine, mechanism) in COMBINATIONS {
            let rules = "[[process]]\nexecutable = 'torture'\nchildren = true";
            let script = "mount -t tmpfs tmpfs /tmp; torture trace --dir /tmp";
            let watched = watch(&Setup::new(Flavour::Cloud61, 1, engine, mechanism), rules, script, true);
            assert_eq!(watched.finished.marker("TRACE").unwrap(), "ok");
            // Numbers of threads and addresses differ from boot to boot; names, order and kind of result do not.
            let mut account: Vec<Vec<(String, Option<bool>)>> = watched
                .trace
                .values()
                .map(|lines| {
                    ours(lines)
                        .into_iter()
                        .filter(|call| {
                            !["restart_syscall", "futex", "sched_yield"].contains(&call.name.as_str())
                        })
                        .map(|call| (call.name, call.result.map(|result| (-4095..0).contains(&result))))
                        .collect()
                })
                .collect();
            account.sort();
            accounts.push(account);
        }
        for (account, combination) in accounts.iter().zip(COMBINATIONS) {
            assert_eq!(account, &accounts[0], "{combination:?}");
        }
    });
}

/// What the probe asked against what the program says of itself; and the program notices nothing, storm or not.
#[test]
fn insight_calls_are_right_and_leave_no_trace() {
    e2e("insight_calls_are_right_and_leave_no_trace", || {
        for (flavour, cpus, engine, mechanism) in
            [(Flavour::Cloud61, 1, "sce", "port"), (Flavour::Cloud612, 1, "entry", "debug")]
        {
            insight_calls(&Setup::new(flavour, cpus, engine, mechanism));
        }
    });
}

fn insight_calls(setup: &Setup) {
    const CALLS: u64 = 50;
    let scratch = Scratch::new().unwrap();
    let kernel = Kernel::get(setup.flavour).unwrap();
    let disk = Disk::blank(scratch.path("disk.img"), 16).unwrap();
    let script = format!(
        "mount -t tmpfs tmpfs /tmp; insight-target /tmp {CALLS}; echo QUIET=$?
        mkdir /tmp/storm; insight-target /tmp/storm 200 5000 > /tmp/said; echo STORM=$?
        sed 's/^/STORM_/' /tmp/said | grep -E 'WRONG|ALARMS'"
    );
    let initramfs = scratch.initramfs(&kernel, &script).unwrap();
    let config = scratch.path("monitor.toml");
    let (engine, mechanism) = (setup.engine, setup.mechanism);
    let text = format!(
        "[[process]]\nexecutable = 'insight-target'\n[trap]\nengine = '{engine}'\nmechanism = '{mechanism}'"
    );
    std::fs::write(&config, text).unwrap();
    let run = GuestRun::new(&kernel.bzimage(), &initramfs).disk(&disk).cpus(setup.cpus).monitor(&config);
    let finished = run.vmm(guest_tests::programs::insight_probe().unwrap()).run().unwrap().ok().unwrap();
    for key in ["QUIET", "STORM", "INSIGHT_WRONG", "STORM_INSIGHT_WRONG"] {
        assert_eq!(finished.marker(key).unwrap(), "0", "{setup:?}\n{}", finished.serial);
    }
    // Lines of the form `TIMES {...}`; those of the first program name its directory.
    let mut answers = 0;
    for line in finished.messages.lines().filter(|line| line.contains("\"CWD\":\"/tmp\"")) {
        let (times, answer) = line.split_once(' ').unwrap();
        let answer = &serde_json::from_str::<Value>(answer).unwrap()["answer"];
        for key in ["PID", "TID", "FLAGS", "OFFSET", "CWD", "EXE", "LINK", "STAT"] {
            assert_eq!(
                answer[key].as_str(),
                Some(finished.marker(key).unwrap()),
                "{key} with {setup:?}: {answer}"
            );
        }
        assert_eq!(answer["stat_by_path"], answer["STAT"]);
        assert_eq!(answer["content"], "insight-call may read\n");
        assert_eq!(answer["bad"], "the guest's kernel refused (errno 9)");
        answers += times.parse::<u64>().unwrap();
    }
    // At the entry and at the return of each.
    assert_eq!(answers, CALLS * 2, "{setup:?}\n{}", finished.messages);
    let report: Value = serde_json::from_str(finished.messages.lines().last().unwrap()).unwrap();
    assert_eq!((&report["problem"], &report["outstanding"]), (&Value::Null, &0.into()), "{setup:?}");
    assert!(report["insight"]["made"].as_u64() > Some(CALLS * 2 * 10));
}

/// Calls of 32-bit code are counted for the processes that are watched, and nobody else's stop.
#[test]
fn calls_of_32_bit_code_are_counted() {
    const SCRIPT: &str = "mount -t tmpfs tmpfs /tmp
        compat elf /tmp/watched32; cp /tmp/watched32 /tmp/other32; cp /bin/compat /tmp/other
        /tmp/watched32; echo WATCHED=$?; /tmp/other32; echo OTHER=$?
        compat int80 70; echo INT80=$?; /tmp/other int80 70; echo OTHER_INT80=$?";
    e2e("calls_of_32_bit_code_are_counted", || {
        let rules = "[[process]]\nexecutable = 'watched32'\n[[process]]\nexecutable = 'compat'";
        for (flavour, engine, cmdline) in [
            (Flavour::Cloud61, "sce", "pti=on"),
            (Flavour::Cloud612, "entry", "pti=on"),
            (Flavour::Cloud61, "entry", ""),
        ] {
            let setup = Setup { cmdline, ..Setup::new(flavour, 1, engine, "port") };
            let watched = watch(&setup, rules, SCRIPT, false);
            for key in ["WATCHED", "OTHER", "INT80", "OTHER_INT80"] {
                assert_eq!(watched.finished.marker(key).unwrap(), "0", "{key}\n{}", watched.finished.serial);
            }
            let calls = &watched.report["compat_calls"];
            assert_eq!(calls["int80"], 51 + 70, "{setup:?} {calls}");
            // The lab's processor is AMD's, where the vDSO prefers SYSCALL. Intel's would use SYSENTER.
            let recommended = calls["syscall"].as_u64().unwrap() + calls["sysenter"].as_u64().unwrap();
            assert_eq!(recommended, 100, "{setup:?} {calls}");
            let stops = watched.report["stops"]["compat"].as_u64().unwrap();
            assert!((221..=225).contains(&stops), "one more for each process that is new: {stops}");
        }
    });
}

/// What programs say of their data arrives with their calls: one that was made for it, and two that were not.
#[test]
fn hints_arrive_with_the_calls() {
    e2e("hints_arrive_with_the_calls", || {
        let contents = Scratch::new().unwrap();
        for file in guest_tests::programs::hints().unwrap() {
            std::fs::copy(&file, contents.path(file.file_name().unwrap().to_str().unwrap())).unwrap();
        }
        let script = format!(
            "ROOTFS=/dev/vda\n{MOUNT_ROOTFS}mount -t ext4 /dev/vdb /mnt; cp /mnt/libiwrite.so /mnt/every_call /root-fs/tmp/
            inside /tmp/every_call /tmp/every; echo EVERY=$?
            hinted() {{ inside /usr/bin/env LD_PRELOAD=/tmp/libiwrite.so 'IWRITE_RULES=*.db=3:/tmp/log*=7' \"$@\"; }}
            hinted sqlite3 /tmp/x.db 'create table t(n); insert into t values(20),(22);'; echo SQLITE=$?
            hinted /bin/dd if=/dev/zero of=/tmp/log bs=4096 count=5; echo DD=$?"
        );
        let rules =
            ["every_call", "sqlite3", "dd"].map(|name| format!("[[process]]\nexecutable = '{name}'\n"));
        for (engine, mechanism) in [("sce", "port"), ("entry", "debug")] {
            let setup = Setup::new(Flavour::Cloud61, 1, engine, mechanism);
            let watched = watch_with(&setup, &rules.concat(), &script, true, Some(&contents.path(".")));
            for key in ["EVERY", "SQLITE", "DD"] {
                assert_eq!(watched.finished.marker(key).unwrap(), "0", "{key}\n{}", watched.finished.serial);
            }

            check_hints(&watched.trace);
        }
    });
}

fn check_hints(trace: &BTreeMap<u64, Vec<Value>>) {
    let hinted = |lines: &[Value]| -> Vec<(String, u64, Option<i64>)> {
        let calls = lines.iter().map(|line| &line["call"]);
        let classes = calls.filter_map(|call| {
            let name = call["name"].as_str()?.to_owned();
            Some((name, call["hint"]["class"].as_u64()?, call["result"]["value"].as_i64()))
        });
        classes.collect()
    };
    let programs: Vec<_> = trace.values().map(|lines| hinted(lines)).collect();
    let [every, sqlite, dd] = &programs[..] else {
        panic!("three programs of one thread each: {programs:?}")
    };
    let expected = [
        ("write", 1, 3),
        ("pwrite64", 2, 3),
        ("writev", 3, 3),
        ("pwritev", 4, 3),
        ("fsync", 5, 0),
        ("read", 6, 3),
        ("pread64", 7, 3),
        ("preadv", 8, 3),
        ("readv", u64::from(u32::MAX), 0),
        ("write", 1, -9),
    ];
    let expected = expected.map(|(name, class, result)| (name.to_owned(), class, Some(result)));
    assert_eq!(every[..], expected);
    assert!(sqlite.iter().all(|(_, class, _)| *class == 3), "{sqlite:?}");
    let pages = sqlite.iter().filter(|(name, ..)| name == "pwrite64").count();
    assert!(pages >= 2, "a database has more than one page: {sqlite:?}");
    assert_eq!(dd[..], vec![("write".to_owned(), 7, Some(4096)); 5]);
}
