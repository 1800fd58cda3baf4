//! Mistakes on the command line and in the configuration, as a user meets them. All are found before `/dev/kvm` is
//! looked at, so these tests run anywhere.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::process::{Command, Output};

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
