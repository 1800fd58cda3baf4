//! The torture program on this machine: its own counts against those of strace.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use guest_tests::packages::{self, Tool};
use guest_tests::programs::Program;
use guest_tests::strace::{Call, Outcome, Trace};
use guest_tests::torture::counts::Own;
use guest_tests::{command, guest};

fn run(command: &mut Command) -> HashMap<String, String> {
    let output = command::run_with_timeout(command, guest::LIMIT).unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{command:?}: {} {said}", String::from_utf8_lossy(&output.stderr));
    said.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.into(), value.into()))
        .collect()
}

fn torture(args: &[&str]) -> HashMap<String, String> {
    run(Command::new(Program::Torture.path().unwrap()).args(args))
}

/// Runs under strace, or not at all where nobody may trace, as in some containers.
fn traced(args: &[&str]) -> Option<(HashMap<String, String>, Trace)> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("strace");
    let strace = |program: &Path, args: &[&str]| {
        let mut strace = packages::ensure(Tool::Strace).unwrap();
        strace.args(["-f", "-e", "raw=all", "-e", "signal=none", "-o"]).arg(&file).arg(program).args(args);
        strace
    };
    if !strace(Path::new("true"), &[]).status().is_ok_and(|status| status.success()) {
        eprintln!("nobody may trace here: the counts are not compared with strace's");
        return None;
    }
    let said = run(&mut strace(&Program::Torture.path().unwrap(), args));
    let text = std::fs::read_to_string(&file).unwrap();
    Some((said, Trace::parse(&text)))
}

fn count(said: &HashMap<String, String>, key: &str) -> u64 {
    said[&format!("TORTURE_{key}")].parse().unwrap()
}

fn leaves_nothing(dir: &Path) {
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 0);
}

#[test]
fn everything_is_right_natively() {
    for (threads, storm) in [("1", "200"), ("4", "1000"), ("7", "50"), ("3", "0")] {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().to_str().unwrap();
        let said = torture(&["--threads", threads, "--rounds", "36", "--storm", storm, "--dir", place]);
        assert_eq!(said["TORTURE"], "ok");
        assert_eq!(count(&said, "SIGNALS") > 0, storm != "0");
        assert!(count(&said, "PROCESSES") >= 33);
        leaves_nothing(dir.path());
    }
}

#[test]
fn time_ends_it_as_well() {
    let said = torture(&["--seconds", "1"]);
    assert_eq!(said["TORTURE"], "ok");
    assert!(count(&said, "COUNT_GETPID") > 100);
}

#[test]
fn counts_follow_from_the_rounds() {
    let [first, second] = ["1", "2"].map(|seed| torture(&["--rounds", "12", "--seed", seed]));
    for own in Own::ALL.into_iter().filter(|own| !Own::OF_HANDLERS.contains(own)) {
        let key = format!("COUNT_{}", own.name().to_uppercase());
        assert_eq!(count(&first, &key), count(&second, &key), "{key}");
    }
    assert_ne!(first["TORTURE_BYTES"], second["TORTURE_BYTES"], "another seed gives other lengths");
}

#[test]
fn its_counts_are_those_of_strace() {
    let Some((said, trace)) = traced(&["--rounds", "24"]) else { return };
    assert_eq!(trace.strange, Vec::<String>::new());
    for own in Own::ALL {
        let key = format!("COUNT_{}", own.name().to_uppercase());
        assert_eq!(trace.entered(own.name()), count(&said, &key), "{key}");
        assert!(count(&said, &key) > 0, "{key}");
        let unreturned = if own == Own::Pause { count(&said, "UNRETURNED_PAUSE") } else { 0 };
        assert_eq!(trace.unreturned(own.name()), unreturned, "{}", own.name());
    }
    let restarts = trace.threads.iter().flat_map(|thread| &thread.calls);
    assert!(restarts.filter(|call| matches!(call.outcome, Outcome::Restart(_))).count() > 10);
    assert!(trace.entered("rt_sigreturn") >= count(&said, "SIGNALS"));
    // Of what a worker does in 12 rounds, each of the four does all twice.
    for (name, times) in [("vfork", 8), ("clone3", 8), ("execve", 8 * 7), ("fork", 8 * 8)] {
        assert!(trace.entered(name) >= times, "{name}");
    }
    assert!(trace.entered("restart_syscall") > 0, "stopped sleeps were resumed");
}

/// The calls of each thread, in order, threads in the order of their numbers. Without those that follow from what
/// strace itself does: a signal that is ignored interrupts a traced process all the same, so the wait for a stopped
/// child appears twice or not.
fn sequences(trace: &Trace) -> Vec<Vec<&str>> {
    let mut threads: Vec<_> = trace.threads.iter().collect();
    threads.sort_by_key(|thread| thread.tid);
    let by_strace = |call: &&Call| call.name == "wait4" && matches!(call.outcome, Outcome::Restart(_));
    threads
        .iter()
        .map(|thread| {
            thread.calls.iter().filter(|call| !by_strace(call)).map(|call| call.name.as_str()).collect()
        })
        .collect()
}

#[test]
fn a_trace_is_the_same_each_time() {
    let Some((said, first)) = traced(&["trace"]) else { return };
    assert_eq!((&*said["TRACE"], &*said["TRACE_RESTARTED"], &*said["TRACE_INTERRUPTED"]), ("ok", "1", "2"));
    let Some((_, second)) = traced(&["trace"]) else { return };
    assert_eq!(first.strange, Vec::<String>::new());
    let calls: usize = first.threads.iter().map(|thread| thread.calls.len()).sum();
    assert!((300..1000).contains(&calls), "{calls}");
    for (first, second) in sequences(&first).iter().zip(sequences(&second)) {
        let same = first.iter().zip(&second).take_while(|(one, other)| one == other).count();
        assert_eq!(first[same..], second[same..], "behind {same} calls that are the same");
    }
    assert_eq!(first.threads.len(), second.threads.len());
}

#[test]
fn a_wrong_argument_is_refused() {
    let output = Command::new(Program::Torture.path().unwrap()).arg("--threads").output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("usage: torture"));
}
