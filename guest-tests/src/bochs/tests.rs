//! Sessions with a shell script in the place of Bochs: what it writes, and when it ends, is what counts.

use std::process::Command;

use super::*;

/// What a session with a script came to: the result, standard output, standard error.
fn session(script: &str, limit: Duration) -> (Result<u8>, String, String) {
    let dir = tempfile::tempdir().unwrap();
    let [console, stdout, stderr] = machine::PORTS;
    let script = format!("say() {{ echo \"[ 1.0] sky-lab: $*\" >> {console}; }}; {script}");
    let bochs = Command::new("sh")
        .args(["-c", &script])
        .env("OUT", stdout)
        .env("ERR", stderr)
        .env("CONSOLE", console)
        .current_dir(dir.path())
        .spawn()
        .unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let collect = |stream, bytes: &[u8]| match stream {
        Stream::Stdout => out.extend_from_slice(bytes),
        Stream::Stderr => err.extend_from_slice(bytes),
    };
    let result = Session::new(Machine::fake(bochs), limit, collect).follow(dir.path());
    (result, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn status_and_both_streams_come_back() {
    let script = "say started; printf one > $OUT; sleep 0.3; printf err > $ERR; printf two >> $OUT; say exit 3; \
                  sleep 0.3; printf three >> $OUT";
    let (result, out, err) = session(script, LONG);
    assert_eq!((result.unwrap(), out.as_str(), err.as_str()), (3, "onetwothree", "err"));
}

#[test]
fn output_comes_while_the_command_runs() {
    let dir = tempfile::tempdir().unwrap();
    let [console, stdout, _] = machine::PORTS;
    // The script ends only when its output has been seen.
    let script = format!(
        "echo early > {stdout}; until [ -e seen ]; do sleep 0.1; done; echo 'sky-lab: exit 0' > {console}"
    );
    let bochs = Command::new("sh").args(["-c", &script]).current_dir(dir.path()).spawn().unwrap();
    let seen = dir.path().join("seen");
    let session = Session::new(Machine::fake(bochs), LONG, |_, _| std::fs::write(&seen, "").unwrap());
    assert_eq!(session.follow(dir.path()).unwrap(), 0);
}

#[test]
fn an_early_end_is_an_error_that_shows_the_console() {
    let (result, ..) = session(
        "say started; echo last words >> $CONSOLE; echo '00p[CPU0 ] >>PANIC<< 3rd exception' > bochs.log",
        LONG,
    );
    let error = result.unwrap_err().to_string();
    assert!(error.starts_with("the lab in Bochs ended before the command did"), "{error}");
    assert!(error.ends_with("  | last words\n  | Bochs: 3rd exception"), "{error}");
}

#[test]
fn a_panic_is_not_waited_out() {
    let script = "printf some > $OUT; echo 'Kernel panic - not syncing: x' > $CONSOLE; exec sleep 600";
    let (result, out, _) = session(script, LONG);
    let error = result.unwrap_err().to_string();
    assert!(error.contains("in Bochs died: Kernel panic - not syncing: x\n  | "), "{error}");
    assert_eq!(out, "some");
}

#[test]
fn time_is_limited() {
    let start = Instant::now();
    let (result, out, _) = session("printf some > $OUT; exec sleep 600", Duration::from_secs(1));
    let error = result.unwrap_err().to_string();
    assert!(error.contains("was stopped: it took longer than 1s"), "{error}");
    assert_eq!(out, "some");
    assert!(start.elapsed() < LONG);
}
