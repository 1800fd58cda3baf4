//! The lab itself, with plain commands: what enters it, what comes out, and what is left behind.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::io::{Read, Write};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use guest_tests::lab::{Exit, Lab, LabCommand, Output};
use guest_tests::paths;

/// For what would never end if it went wrong.
const LIMIT: Duration = Duration::from_secs(600);

fn sh(script: &str) -> LabCommand {
    LabCommand::new("sh").args(["-c", script])
}

fn run(script: &str) -> Output {
    sh(script).output(&Lab::connect_or_start().unwrap()).unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap().trim_end()
}

#[test]
fn there_is_a_kvm() {
    assert!(run("test -c /dev/kvm").success());
    assert_eq!(text(&run("cat /sys/module/kvm_amd/parameters/nested").stdout), "1");
}

#[test]
fn statuses_and_signals_come_back() {
    assert_eq!(run("exit 3").exit, Exit::Code(3));
    assert_eq!(run("kill -9 $$").exit, Exit::Signal(9));
}

#[test]
fn the_two_streams_stay_apart_and_whole() {
    let output = run("echo out; echo err >&2; seq 1 100000");
    assert_eq!(text(&output.stderr), "err");
    let expected: String = std::iter::once("out".to_string())
        .chain((1..=100_000).map(|n| n.to_string()))
        .fold(String::new(), |all, line| all + &line + "\n");
    assert!(output.stdout == expected.as_bytes(), "{} bytes", output.stdout.len());
}

#[test]
fn input_arrives_whole_even_if_read_late() {
    let input: Vec<u8> = (0..3_000_000u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    let lab = Lab::connect_or_start().unwrap();
    let output = sh("sleep 1; cat").stdin(std::io::Cursor::new(input.clone())).output(&lab).unwrap();
    assert!(output.stdout == input, "{} bytes", output.stdout.len());
}

#[test]
fn output_comes_while_the_command_runs() {
    let lab = Lab::connect_or_start().unwrap();
    let (seen, input) = mpsc::channel();
    // It ends only when somebody who has seen its output lets it.
    let command = sh("echo early; read answer; test $answer = seen").stdin(Answer(input)).timeout(LIMIT);
    let exit = command.stream(&lab, |_, _| seen.send(b"seen\n").unwrap()).unwrap();
    assert_eq!(exit, Exit::Code(0));
}

#[test]
fn environment_and_directory_are_the_callers() {
    let lab = Lab::connect_or_start().unwrap();
    let command = sh("echo $COLOUR $SKY_IN_LAB; pwd").env("COLOUR", "a b").current_dir("/usr");
    assert_eq!(text(&command.output(&lab).unwrap().stdout), "a b 1\n/usr");
    let error = sh("true").current_dir("/no/such/place").output(&lab).unwrap_err().to_string();
    assert!(error.contains("cannot run sh in /no/such/place"), "{error}");
}

#[test]
fn a_program_that_does_not_exist_is_an_error() {
    let lab = Lab::connect_or_start().unwrap();
    let error = LabCommand::new("no-such-program").output(&lab).unwrap_err().to_string();
    assert!(error.contains("cannot run no-such-program"), "{error}");
}

#[test]
fn the_target_directory_is_shared_both_ways_and_the_rest_is_read_only() {
    let dir = tempfile::tempdir_in(paths::target()).unwrap();
    let file = dir.path().join("file");
    let name = file.display();
    std::fs::write(&file, "from outside").unwrap();
    assert_eq!(text(&run(&format!("cat {name}; printf 'from inside' > {name}")).stdout), "from outside");
    assert_eq!(std::fs::read(&file).unwrap(), b"from inside");
    // Nothing of it may be kept: programs are built again while the lab runs.
    let mut handle = std::fs::File::create(&file).unwrap();
    handle.write_all(b"changed").unwrap();
    assert_eq!(text(&run(&format!("cat {name}")).stdout), "changed");
    let manifest = paths::workspace().join("Cargo.toml");
    assert!(!run(&format!("touch {}", manifest.display())).success());
}

#[test]
fn what_a_command_leaves_behind_dies_with_it() {
    let output = run("setsid sleep 4242 & echo started");
    assert_eq!((output.exit, text(&output.stdout)), (Exit::Code(0), "started"));
    assert!(!run("pgrep -f 'sleep 424[2]'").success());
}

#[test]
fn a_command_that_takes_too_long_is_killed() {
    let lab = Lab::connect_or_start().unwrap();
    let error = sh("exec sleep 2424").timeout(Duration::from_secs(1)).output(&lab).unwrap_err().to_string();
    assert!(error.contains("took longer"), "{error}");
    let deadline = Instant::now() + LIMIT;
    while run("pgrep -f 'sleep 242[4]'").success() {
        assert!(Instant::now() < deadline, "it still runs");
    }
}

#[test]
fn several_commands_run_at_once() {
    // Each waits for the others: one after the other, the first would never end.
    const MEET: &str = "mkdir -p /tmp/meeting; touch /tmp/meeting/$NUMBER
        while test $(ls /tmp/meeting | wc -l) -lt 3; do sleep 0.1; done";
    assert!(run("rm -rf /tmp/meeting").success());
    std::thread::scope(|scope| {
        for number in 0..3 {
            scope.spawn(move || {
                let command = sh(MEET).env("NUMBER", number.to_string()).timeout(LIMIT);
                assert!(command.output(&Lab::connect_or_start().unwrap()).unwrap().success());
            });
        }
    });
}

/// Input that comes when it is sent, and ends with the sender.
struct Answer(mpsc::Receiver<&'static [u8; 5]>);

impl Read for Answer {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.recv().map_or(Ok(0), |bytes| bytes.as_slice().read(buffer))
    }
}
