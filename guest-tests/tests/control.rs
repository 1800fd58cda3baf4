//! Changing what is monitored while a guest runs, over the socket of `--control`: both engines, both mechanisms.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use guest_tests::disk::Disk;
use guest_tests::guest::{CMDLINE, Finished, GuestRun, Running, Scratch};
use guest_tests::packages::{Flavour, Kernel};
use guest_tests::workload::Files;
use guest_tests::{e2e, programs};
use serde_json::{Value, json};
use sky_vmm::control::{self, Request};

const WAYS: [(&str, &str); 4] = [("sce", "port"), ("entry", "port"), ("sce", "debug"), ("entry", "debug")];
/// How long the guest may take to something that it will do by itself.
const SOON: Duration = Duration::from_secs(600);
/// Runs `getpid-loop` again and again until told to end, in the background; each says itself whether it was given the
/// right answers.
const LOAD: &str = "
    while [ ! -e /tmp/end ]; do
        getpid-loop 1000 >/dev/null && echo >>/tmp/right || echo >>/tmp/wrong
    done &
    load=$!";
const END_LOAD: &str = "
    touch /tmp/end; wait $load
    echo WRONG=$(cat /tmp/wrong 2>/dev/null | wc -l); echo RIGHT=$(cat /tmp/right | wc -l)";

/// A guest that waits for what the test has to say.
struct Guest {
    scratch: Scratch,
    disk: Disk,
    running: Running,
}

impl Guest {
    /// Starts a guest with an ext4 disk and two CPUs, whose traps are set when this returns. `rules` is the
    /// beginning of what `--monitor` names.
    fn start((engine, mechanism): (&str, &str), rules: &str, script: &str) -> Self {
        let trap = format!("[trap]\nengine = '{engine}'\nmechanism = '{mechanism}'\n");
        Self::boot(Some(&format!("{rules}\n{trap}")), script)
    }

    /// As [`start`](Self::start), with the whole of what `--monitor` names, or without it.
    fn boot(config: Option<&str>, script: &str) -> Self {
        let scratch = Scratch::new().unwrap();
        let kernel = Kernel::get(Flavour::Cloud61).unwrap();
        let disk = Disk::ext4(scratch.path("disk.img"), 16, None).unwrap();
        let initramfs = scratch.initramfs(&kernel, script).unwrap();
        let mut run = GuestRun::bare()
            .option("--kernel", kernel.vmlinux().unwrap())
            .option("--initrd", initramfs)
            .option("--cmdline", CMDLINE)
            .option("--memory", "512M")
            .option("--stats", scratch.path("stats.json"))
            .option("--control", scratch.path("control"))
            .option("--trace", scratch.path("trace"))
            .cpus(2)
            .disk(&disk);
        if let Some(text) = config {
            let path = scratch.path("monitor.toml");
            std::fs::write(&path, text).unwrap();
            run = run.monitor(&path);
        }
        let mut guest = Self { scratch, disk, running: run.spawn().unwrap() };
        guest.running.wait_for("READY").unwrap();
        soon("the traps are set", || guest.try_ask(&Request::List {}).ok());
        guest
    }

    fn socket(&self) -> PathBuf {
        self.scratch.path("control")
    }

    fn try_ask(&self, request: &Request) -> Result<Value, String> {
        control::ask(&self.socket(), request).map_err(|error| error.to_string())
    }

    #[track_caller]
    fn ask(&self, request: &str) -> Value {
        let request: Request = serde_json::from_str(request).unwrap();
        self.try_ask(&request).unwrap_or_else(|error| panic!("{request:?}: {error}"))
    }

    /// What `sky-vmm monitor` prints, and its status.
    fn client(&self, arguments: &str) -> (i32, String, String) {
        let mut client = Command::new(programs::sky_vmm().unwrap());
        client.args(["monitor", "--control"]).arg(self.socket()).args(arguments.split(' '));
        let output = client.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    }

    fn list(&self) -> Value {
        self.ask(r#"{"command":"list"}"#)
    }

    /// Waits for the guest's own end. Gives the report and the trace.
    fn finish(self) -> (Finished, Value, String) {
        let Self { scratch, disk, running } = self;
        let finished = running.finish().unwrap();
        let stats: Value =
            serde_json::from_slice(&std::fs::read(scratch.path("stats.json")).unwrap()).unwrap();
        let trace = std::fs::read_to_string(scratch.path("trace")).unwrap();
        assert!(!scratch.path("control").exists(), "the socket goes with sky-vmm");
        assert!(trace.is_empty() || trace.ends_with('\n'), "the last line is whole");
        disk.check().unwrap();
        (finished, stats["monitor"].clone(), trace)
    }
}

/// Waits until `done` gives something.
#[track_caller]
fn soon<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(result) = done() {
            return result;
        }
        assert!(started.elapsed() < SOON, "not within {SOON:?}: {what}");
        sleep(Duration::from_millis(20));
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[track_caller]
fn assert_healthy(finished: &Finished, report: &Value, (engine, mechanism): (&str, &str)) {
    assert_eq!(report["problem"], Value::Null, "{engine}, {mechanism}");
    assert_eq!((&report["engine"], &report["mechanism"]), (&json!(engine), &json!(mechanism)));
    assert_eq!(finished.marker("WRONG").unwrap(), "0");
    assert!(finished.marker("RIGHT").unwrap().parse::<u64>().unwrap() > 0);
}

fn add_and_remove(way: (&str, &str)) {
    let script = format!("{LOAD}\necho READY; read line\n{END_LOAD}");
    let mut guest = Guest::start(way, "process = []", &script);
    let mut numbers = vec![];
    for round in 0..20 {
        let rule = number(&guest.ask(r#"{"command":"add","rule":{"executable":"getpid-l*"}}"#)["rule"]);
        numbers.push(rule);
        let listing = soon("a process is monitored", || {
            let listing = guest.list();
            (!listing["processes"].as_array().unwrap().is_empty()).then_some(listing)
        });
        assert_eq!(
            listing["rules"],
            json!([[rule, {"executable": "getpid-l*", "children": false}]]),
            "{round}"
        );
        for process in listing["processes"].as_array().unwrap() {
            assert_eq!((&process["executable"], &process["rule"]), (&json!("getpid-loop"), &json!(rule)));
        }
        guest.ask(&format!(r#"{{"command":"remove","rule":{rule}}}"#));
        let listing = guest.list();
        assert_eq!((&listing["rules"], &listing["processes"]), (&json!([]), &json!([])), "{round}");
    }
    numbers.dedup();
    assert_eq!(numbers.len(), 20, "every rule has a number of its own");
    guest.running.say("end").unwrap();
    let (finished, report, trace) = guest.finish();
    let finished = finished.ok().unwrap();
    assert_healthy(&finished, &report, way);
    let getpid = &report["calls"]["getpid"];
    assert!(number(&getpid["entered"]) > 0, "{report}");
    // What the trace says that getpid gave is who it was.
    let calls: Vec<&str> = trace.lines().filter(|line| line.contains(" getpid() = ")).collect();
    assert_eq!(calls.len() as u64, number(&getpid["returned"]));
    for line in calls {
        let (pid, rest) = line.split_once(' ').unwrap();
        assert_eq!(rest, format!("getpid() = {pid}"));
    }
}

#[test]
#[ignore = "for time"]
fn rules_come_and_go_under_load_with_sce_and_ports() {
    e2e("rules_come_and_go_under_load_with_sce_and_ports", || add_and_remove(WAYS[0]));
}

#[test]
#[ignore = "for time"]
fn rules_come_and_go_under_load_with_entry_and_ports() {
    e2e("rules_come_and_go_under_load_with_entry_and_ports", || add_and_remove(WAYS[1]));
}

#[test]
#[ignore = "for time"]
fn rules_come_and_go_under_load_with_sce_and_debug_registers() {
    e2e("rules_come_and_go_under_load_with_sce_and_debug_registers", || add_and_remove(WAYS[2]));
}

#[test]
fn rules_come_and_go_under_load_with_entry_and_debug_registers() {
    e2e("rules_come_and_go_under_load_with_entry_and_debug_registers", || add_and_remove(WAYS[3]));
}

fn detach_and_arm(way: (&str, &str)) {
    const FILES: Files = Files { prefix: "w", seed: 1, files: 4, blocks: 8 };
    let script = format!(
        "mount -t ext4 /dev/vda /mnt{LOAD}\necho READY; read line\n{END_LOAD}
        writer /mnt 1 4 8; umount /mnt"
    );
    let mut guest = Guest::start(way, "[[process]]\nexecutable = 'getpid-loop'", &script);
    let rounds = if std::env::var_os("SKY_NIGHTLY").is_some() { 100 } else { 20 };
    for round in 0..rounds {
        guest.ask(r#"{"command":"detach"}"#);
        let error = guest.try_ask(&Request::List {}).unwrap_err();
        assert!(error.contains("no traps are set"), "{round}: {error}");
        guest.ask(r#"{"command":"arm"}"#);
        let rules = &guest.list()["rules"];
        assert_eq!(rules.as_array().unwrap().len(), 1, "{round}: the rules of the file are back");
    }
    soon("a process is monitored again", || guest.list()["processes"].as_array().unwrap().first().cloned());
    guest.running.say("end").unwrap();
    let (finished, report, _) = guest.finish();
    let finished = finished.ok().unwrap();
    assert_healthy(&finished, &report, way);
    assert_eq!(finished.marker("WRITER_CHECKSUM").unwrap(), FILES.checksum().to_string());
}

#[test]
fn traps_come_and_go_under_load_with_sce_and_ports() {
    e2e("traps_come_and_go_under_load_with_sce_and_ports", || detach_and_arm(WAYS[0]));
}

#[test]
#[ignore = "for time"]
fn traps_come_and_go_under_load_with_entry_and_debug_registers() {
    e2e("traps_come_and_go_under_load_with_entry_and_debug_registers", || detach_and_arm(WAYS[3]));
}

/// Without a file, with the program that people use, and with whatever mechanism works here.
#[test]
fn one_can_begin_with_nothing() {
    e2e("one_can_begin_with_nothing", || {
        let script = format!("{LOAD}\necho READY; read line\n{END_LOAD}");
        let mut guest = Guest::boot(None, &script);
        let (status, out, _) = guest.client("list");
        assert_eq!((status, out.starts_with("no rules\n\nno process is monitored\n")), (0, true), "{out}");
        let (status, out, _) = guest.client("add --executable getpid-loop");
        assert_eq!((status, out.as_str()), (0, "rule 0: executable getpid-loop\n"));
        soon("a process is listed", || {
            let (_, out, _) = guest.client("list");
            out.lines().any(|line| line.ends_with("  getpid-loop") && line.contains("     0  ")).then_some(())
        });
        let (_, out, _) = guest.client("list --json");
        let listing: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(listing["rules"], guest.list()["rules"]);
        let (status, out, _) = guest.client("report");
        assert!(status == 0 && out.contains("monitored getpid-loop (pid "), "{out}");
        assert_eq!(guest.client("remove 0").0, 0);
        let (status, out, _) = guest.client("detach");
        assert_eq!((status, out.as_str()), (0, "all traps are out of the guest\n"));
        let (status, out, error) = guest.client("list");
        assert_eq!(
            (status, out.as_str(), error.as_str()),
            (1, "", "sky-vmm: no traps are set in the guest\n")
        );
        assert_eq!(guest.client("arm").1, "the traps are set\n");
        guest.running.say("end").unwrap();
        let (finished, report, _) = guest.finish();
        let finished = finished.ok().unwrap();
        assert_healthy(&finished, &report, ("sce", "port"));
    });
}

/// The call was made before anybody looked.
#[test]
fn a_call_that_is_on_its_way_is_seen_to_return() {
    e2e("a_call_that_is_on_its_way_is_seen_to_return", || {
        let script = "mkfifo /tmp/pipe; exec 3<>/tmp/pipe
            dd bs=100 count=1 <&3 >/tmp/got 2>/dev/null & reader=$!
            until grep -q '^State:.S' /proc/$reader/status && [ $(readlink /proc/$reader/fd/0) = /tmp/pipe ]; do :; done
            sleep 1; echo READY $reader; echo READER=$reader; read line
            echo hello >&3; wait $reader; echo STATUS=$?; echo GOT=$(cat /tmp/got)";
        for way in WAYS {
            let mut guest = Guest::start(way, "process = []", script);
            let pid = guest.running.wait_for("READER=").unwrap();
            guest.ask(&format!(r#"{{"command":"add","rule":{{"pid":{pid}}}}}"#));
            let listing = guest.list();
            assert_eq!(listing["processes"][0]["pid"].to_string(), pid);
            assert_eq!(listing["outstanding"], 1, "it is inside its read");
            guest.running.say("go").unwrap();
            let (finished, report, trace) = guest.finish();
            let finished = finished.ok().unwrap();
            assert_eq!((finished.marker("STATUS").unwrap(), finished.marker("GOT").unwrap()), ("0", "hello"));
            assert_eq!((&report["problem"], &report["attached"]), (&Value::Null, &json!(1)), "{way:?}");
            assert_eq!(report["calls"]["read"]["returned"], report["calls"]["read"]["entered"], "{way:?}");
            let expected = format!("{pid} read(0, \"hello\\n\", 100) = 6");
            assert!(trace.lines().any(|line| line == expected), "{way:?}: {trace}");
        }
    });
}

#[test]
fn a_signal_ends_a_monitored_run_in_good_order() {
    e2e("a_signal_ends_a_monitored_run_in_good_order", || {
        let script = "mount -t ext4 /dev/vda /mnt; writer /mnt 1 4 8; sync; umount /mnt; echo READY
            while true; do getpid-loop 1000; done";
        let way = WAYS[3];
        let mut guest = Guest::start(way, "[[process]]\nexecutable = '*'", script);
        guest.running.wait_for("GETPID_CALLS").unwrap();
        // Somebody who is connected, and says nothing, is not waited for: the run would not end.
        let silent = std::os::unix::net::UnixStream::connect(guest.socket()).unwrap();
        guest.running.signal(libc::SIGINT);
        let (finished, report, trace) = guest.finish();
        drop(silent);
        assert_eq!(finished.status.code(), Some(130), "{way:?}: {}", finished.messages);
        assert_eq!(report["problem"], Value::Null);
        assert!(trace.contains(" getpid() = "), "{way:?}");
    });
}
