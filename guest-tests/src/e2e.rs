//! Tests that need a working KVM: run here if this machine has one, else the same test again inside the lab.

use std::io::Write;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::lab::{Exit, Lab, LabCommand};
use crate::place::{Place, place};
use crate::{guest, progress};

/// A test that hangs must not hold the lab for ever.
const LIMIT: Duration = Duration::from_secs(3600);

/// What sky-vmm says when a guest ends so.
const TRIPLE_FAULT: &str = "the guest triple-faulted";

/// How often a test is tried while the lab dies under it.
const ATTEMPTS: usize = 3;

/// The body of a test called `name`.
///
/// ```no_run
/// // #[test]
/// fn boots() {
///     guest_tests::e2e("boots", || { /* start guests */ });
/// }
/// ```
///
/// # Panics
/// As tests do, when the body panics here or in the lab, or there is no place to run it.
#[track_caller]
pub fn e2e(name: &str, body: impl FnOnce()) {
    match run_here_or_in_lab(name, body) {
        Ok(()) => {}
        Err(error) => panic!("{error}"),
    }
}

fn run_here_or_in_lab(name: &str, body: impl FnOnce()) -> Result<()> {
    guest::prepare()?;
    match place()? {
        Place::Native => {
            body();
            Ok(())
        }
        Place::Lab => again_in_lab(name),
    }
}

/// Runs the test in the lab, and again if the lab is to blame.
///
/// The emulated machine is not wholly reliable (docs/lab.md): its kernel was seen to panic, and a guest without any
/// traps to triple-fault or to hang as it boots. That is not the test's failure, so the test is repeated, and every
/// death is told. A second one of a guest in the same test is ours, and any other failure is never repeated.
fn again_in_lab(name: &str) -> Result<()> {
    repeat_if_lab_dies(name, forgive_one_death(|| once_in_lab(name)))
}

fn forgive_one_death(mut attempt: impl FnMut() -> Result<()>) -> impl FnMut() -> Result<()> {
    let mut died = false;
    move || match attempt() {
        Err(Error::GuestDied { problem }) if !died => {
            died = true;
            Err(Error::LabDied { problem, console: String::new() })
        }
        result => result,
    }
}

/// Tries again while the lab dies, and tells each time.
pub(crate) fn repeat_if_lab_dies<T>(name: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    for death in 1..ATTEMPTS {
        match attempt() {
            Err(error @ Error::LabDied { .. }) => {
                progress::note(&format!(
                    "death {death} of the lab during {name}, which is repeated: {error}"
                ));
            }
            result => return result,
        }
    }
    attempt()
}

fn once_in_lab(name: &str) -> Result<()> {
    let lab = Lab::connect_or_start()?;
    let exe = std::env::current_exe().map_err(Error::file("find", "the running test"))?;
    let command = LabCommand::new(exe)
        // One that is ignored has been asked for out here.
        .args(["--exact", name, "--include-ignored", "--nocapture", "--test-threads=1"])
        .env("RUST_BACKTRACE", "0")
        .timeout(LIMIT);
    let mut said = Vec::new();
    let exit = command.stream(&lab, |_, bytes| said.extend_from_slice(bytes))?;
    // Through the macros of the standard library the test harness captures it, and shows it when the test fails.
    print!("{}", String::from_utf8_lossy(&said));
    let _ = std::io::stdout().flush();
    if !ran_one_test(&said) {
        return Err(Error::lab(format!(
            "found no test called {name}: the name given to e2e must be the function's"
        )));
    }
    let said = String::from_utf8_lossy(&said);
    let death = [TRIPLE_FAULT, guest::STUCK].into_iter().find(|death| said.contains(death));
    match (exit, death) {
        (Exit::Code(0), _) => Ok(()),
        (_, Some(death)) => Err(Error::GuestDied {
            problem: format!("says that the test {name} failed, and that {death}; its output is above"),
        }),
        (exit, None) => {
            Err(Error::lab(format!("says that the test {name} failed ({exit:?}); its output is above")))
        }
    }
}

/// A name that matches nothing would pass with no test run, and so would a test that is ignored.
fn ran_one_test(output: &[u8]) -> bool {
    let output = String::from_utf8_lossy(output);
    output.contains("running 1 test\n") && !output.contains("; 1 ignored;")
}

/// Runs a program of this package with arguments where KVM works and passes its output on; gives its exit status.
pub fn rerun_in_lab(lab: &Lab, args: &[String]) -> Result<i32> {
    let exe = std::env::current_exe().map_err(Error::file("find", "the running program"))?;
    let exit = LabCommand::new(exe).args(args).stream(lab, |stream, bytes| {
        // Whoever has closed our output does not want it.
        let _ = match stream {
            crate::lab::Stream::Stdout => std::io::stdout().write_all(bytes),
            crate::lab::Stream::Stderr => std::io::stderr().write_all(bytes),
        };
    })?;
    match exit {
        Exit::Code(code) => Ok(code),
        Exit::Signal(signal) => {
            progress::note(&format!("killed by signal {signal}"));
            Ok(128 + signal)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_labs_death_is_a_reason_to_repeat() {
        let died = || Err(Error::LabDied { problem: "hung up".into(), console: String::new() });
        let mut tries = 0;
        let second: Result<()> = repeat_if_lab_dies("x", || {
            tries += 1;
            if tries == 1 { died() } else { Ok(()) }
        });
        assert!(second.is_ok() && tries == 2);
        tries = 0;
        let failed: Result<()> = repeat_if_lab_dies("x", || {
            tries += 1;
            Err(Error::lab("says that the test failed"))
        });
        assert!(failed.is_err() && tries == 1);
        tries = 0;
        let never: Result<()> = repeat_if_lab_dies("x", || {
            tries += 1;
            died()
        });
        assert!(never.is_err() && tries == ATTEMPTS);
    }

    #[test]
    fn one_death_of_a_guest_is_forgiven_and_a_second_is_not() {
        for deaths in 0..4 {
            let mut tries = 0;
            let attempt = forgive_one_death(|| {
                tries += 1;
                if tries <= deaths { Err(Error::GuestDied { problem: "says so".into() }) } else { Ok(()) }
            });
            let result = repeat_if_lab_dies("x", attempt);
            assert_eq!(result.is_ok(), deaths <= 1, "{deaths}");
            assert!(tries <= 2);
        }
    }

    #[test]
    fn the_message_is_the_vmms() {
        let reason = sky_vmm::exit::ExitReason::TripleFault { vcpu: 0 };
        assert!(reason.to_string().contains(TRIPLE_FAULT));
    }

    #[test]
    fn a_name_that_matches_nothing_is_no_success() {
        assert!(ran_one_test(b"\nrunning 1 test\ntest x ... ok\n"));
        assert!(!ran_one_test(b"\nrunning 0 tests\n\ntest result: ok. 0 passed"));
        assert!(!ran_one_test(
            b"\nrunning 1 test\ntest x ... ignored\n\ntest result: ok. 0 passed; 0 failed; 1 ignored; 0"
        ));
    }
}
