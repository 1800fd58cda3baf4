//! Mistakes on the command line and in the configuration, as a user meets them. All are found before `/dev/kvm` is
//! looked at, so these tests run anywhere.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};
use std::thread::{self, JoinHandle};

fn sky_vmm(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sky-vmm")).args(arguments).output().unwrap()
}

#[track_caller]
fn assert_fails(arguments: &[&str], status: i32, message: &str) {
    let output = sky_vmm(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{errors}");
    assert!(errors.contains(message), "{errors}");
    assert!(output.stdout.is_empty());
}

#[test]
fn help_names_the_exit_statuses() {
    let output = sky_vmm(&["run", "--help"]);
    assert!(output.status.success());
    let help = String::from_utf8_lossy(&output.stdout);
    assert!(help.contains("the guest triple-faulted") && help.contains("Ctrl-A x"), "{help}");
}

#[test]
fn usage_mistakes() {
    assert_fails(&["run", "--kernel", "k", "--memory", "lots"], 2, "`lots` is not a size");
    assert_fails(&["run", "--kernel", "k", "--disk", "path=x,redonly=on"], 2, "did you mean `readonly`?");
}

#[test]
fn configuration_mistakes() {
    assert_fails(&["run"], 1, "no kernel given");
    assert_fails(&["run", "--kernel", "k", "--cpus", "0"], 1, "0 virtual CPUs: a guest has 1 to 32");
    assert_fails(&["run", "--kernel", "k", "--cpus", "300"], 1, "300 virtual CPUs");
    assert_fails(&["run", "--kernel", "k", "--memory", "16M"], 1, "at least 32 MiB");
    assert_fails(&["run", "--kernel", "k", "--memory", "2T"], 1, "is too much");
    assert_fails(
        &["run", "--config", "/nonexistent.toml"],
        1,
        "cannot read configuration file /nonexistent.toml",
    );
}

#[test]
fn a_trace_needs_something_to_trace() {
    assert_fails(&["run", "--kernel", "k", "--trace", "-"], 1, "--trace needs --monitor");
    assert_fails(&["run", "--trace-format", "xml"], 2, "`xml` is no format of a trace: strace or json");
}

#[test]
fn mistakes_in_what_to_monitor_are_found_first() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "[[process]]\nexecutabel = 'x'").unwrap();
    let path = file.path().to_str().unwrap();
    assert_fails(&["run", "--kernel", "k", "--monitor", path], 1, "did you mean \"executable\"?");
    assert_fails(&["run", "--kernel", "k", "--monitor", "/nonexistent"], 1, "/nonexistent: No such file");
}

#[test]
fn the_client_says_what_it_can_do() {
    let output = sky_vmm(&["monitor", "--help"]);
    assert!(output.status.success());
    let help = String::from_utf8_lossy(&output.stdout);
    for word in ["add", "remove", "list", "report", "detach", "arm", "--control", "--json", "Exit status"] {
        assert!(help.contains(word), "{word}: {help}");
    }
    let output = sky_vmm(&["monitor", "--control", "x", "add", "--help"]);
    let help = String::from_utf8_lossy(&output.stdout);
    for word in ["--executable", "--command", "--parent", "--pid", "--children", "`*`"] {
        assert!(help.contains(word), "{word}: {help}");
    }
}

#[test]
fn mistakes_of_the_client() {
    assert_fails(&["monitor", "list"], 2, "--control <PATH>");
    assert_fails(&["monitor", "--control", "x"], 2, "Usage");
    assert_fails(&["monitor", "--control", "x", "add", "--children"], 2, "--executable");
    assert_fails(&["monitor", "--control", "x", "remove"], 2, "--all");
    assert_fails(&["monitor", "--control", "x", "remove", "1", "--pid", "2"], 2, "cannot be used with");
    assert_fails(&["monitor", "--control", "/nonexistent", "list"], 1, "cannot connect to /nonexistent");
    let output = sky_vmm(&["monitor", "--control", "/nonexistent", "list", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert!(report["error"].as_str().unwrap().contains("/nonexistent"), "{report}");
}

/// A server that gives one reply and keeps the request.
fn serve_once(path: &Path, reply: &'static str) -> JoinHandle<String> {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = String::new();
        BufReader::new(&stream).read_line(&mut request).unwrap();
        stream.write_all(reply.as_bytes()).unwrap();
        request
    })
}

#[test]
fn the_client_asks_and_shows() {
    let dir = tempfile::tempdir().unwrap();
    for (number, (arguments, request, reply, status, shown)) in [
        (
            "add --executable w* --children",
            r#"{"command":"add","rule":{"executable":"w*","children":true}}"#,
            "{\"ok\":{\"rule\":4}}\n",
            0,
            "rule 4: executable w*, with children\n",
        ),
        (
            "remove 4",
            r#"{"command":"remove","rule":4}"#,
            "{\"ok\":{\"processes\":0}}\n",
            0,
            "0 processes are left alone\n",
        ),
        ("report", r#"{"command":"report","text":true}"#, "{\"ok\":\"a\\nb\\n\"}\n", 0, "a\nb\n"),
        ("report --json", r#"{"command":"report"}"#, "{\"ok\":{\"armed\":true}}\n", 0, "{\"armed\":true}\n"),
        ("detach", r#"{"command":"detach"}"#, "{\"error\":\"no\"}\n", 1, ""),
        ("arm", r#"{"command":"arm"}"#, "", 1, ""),
        ("arm", r#"{"command":"arm"}"#, "[1]\n", 1, ""),
    ]
    .into_iter()
    .enumerate()
    {
        let path = dir.path().join(number.to_string());
        let server = serve_once(&path, reply);
        let mut words = vec!["monitor", "--control", path.to_str().unwrap()];
        words.extend(arguments.split(' '));
        let output = sky_vmm(&words);
        assert_eq!(server.join().unwrap(), format!("{request}\n"));
        assert_eq!(output.status.code(), Some(status), "{arguments}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), shown);
        assert_eq!(output.stderr.is_empty(), status == 0);
    }
}

#[test]
fn a_misspelt_key_in_the_file() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "kernel = 'k'\nmemry = '1G'").unwrap();
    assert_fails(&["run", "--config", file.path().to_str().unwrap()], 1, "did you mean `memory`?");
}

#[test]
fn mistakes_as_json() {
    let output = sky_vmm(&["run", "--json", "--kernel", "k", "--cpus", "0"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!((&report["exit"], &report["status"]), (&"error".into(), &1.into()));
}
