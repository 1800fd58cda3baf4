//! Ends a test that does not end by itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use kvm_ioctls::Kvm;

use super::guest::Leash;
use super::{Failure, Test, TestResult};

/// Tests take microseconds on hardware and milliseconds on an emulated CPU, but that may stand still with its host.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a vCPU may take to obey a kick.
const OBEDIENCE: Duration = Duration::from_secs(10);

/// Runs one test on a thread of its own. A thread that does not even obey a signal is left behind.
pub(super) fn supervise(test: &Test) -> TestResult {
    let leash = Arc::new(Leash::default());
    let (sender, receiver) = mpsc::channel();
    let (body, on_thread) = (test.body, Arc::clone(&leash));
    let spawned = thread::Builder::new().name(test.name.to_owned()).spawn(move || {
        let kvm = Kvm::new().map_err(Failure::ioctl("opening /dev/kvm"));
        // The receiver may have given up.
        let _ = sender.send(kvm.and_then(|kvm| body(&kvm, on_thread)));
    });
    let outcome = match spawned {
        Ok(_) => wait(&receiver, &leash, [PATIENCE, OBEDIENCE]),
        Err(error) => Err(Failure::new(format!("no thread for the test: {error}"))),
    };
    match outcome {
        Ok(detail) => TestResult::passed(test.name, detail),
        Err(failure) => TestResult::failed(test.name, failure.0),
    }
}

fn wait(
    receiver: &Receiver<Result<String, Failure>>,
    leash: &Leash,
    patience: [Duration; 2],
) -> Result<String, Failure> {
    for patience in patience {
        match receiver.recv_timeout(patience) {
            Ok(outcome) => return outcome,
            Err(RecvTimeoutError::Disconnected) => return Err(Failure::new("the test itself panicked")),
            Err(RecvTimeoutError::Timeout) => {
                leash.expired.store(true, Ordering::Release);
                if let Some(kicker) = leash.kicker.get() {
                    kicker.kick();
                }
            }
        }
    }
    Err(Failure::new("KVM_RUN did not return, not even after a signal"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: [Duration; 2] = [Duration::from_millis(1); 2];

    #[test]
    fn a_test_that_never_ends_is_given_up() {
        let (_sender, receiver) = mpsc::channel();
        let leash = Leash::default();
        let failure = wait(&receiver, &leash, SHORT).unwrap_err();
        assert!(leash.expired.load(Ordering::Acquire));
        assert!(failure.0.contains("did not return"));
    }

    #[test]
    fn a_test_that_panics_is_a_failure() {
        let (sender, receiver) = mpsc::channel();
        drop(sender);
        let failure = wait(&receiver, &Leash::default(), SHORT).unwrap_err();
        assert!(failure.0.contains("panicked"));
    }

    #[test]
    fn an_outcome_is_passed_on() {
        let (sender, receiver) = mpsc::channel();
        sender.send(Ok("fine".to_owned())).unwrap();
        assert_eq!(wait(&receiver, &Leash::default(), SHORT).unwrap(), "fine");
    }
}
