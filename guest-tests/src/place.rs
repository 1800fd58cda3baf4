//! Where guests can run: on this machine, or in the lab.
//!
//! `/dev/kvm` may exist and still be unable to run an ordinary guest, so the VMM's own functional self-test decides.

use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use crate::command;
use crate::error::Result;
use crate::programs;

/// Set for every command that the lab runs.
pub const IN_LAB: &str = "SKY_IN_LAB";
/// Overrides the self-test: `native` or `lab`.
const OVERRIDE: &str = "SKY_PLACE";
/// A KVM that cannot run guests may hang instead of failing.
const SELF_TEST_LIMIT: Duration = Duration::from_secs(20);

/// Where to run what needs KVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Here.
    Native,
    /// In the lab.
    Lab,
}

/// Whether this process runs in the lab.
pub fn inside_lab() -> bool {
    std::env::var_os(IN_LAB).is_some()
}

/// Decides once per process. In the lab, the lab's own machine is the native one.
pub fn place() -> Result<Place> {
    static PLACE: OnceLock<Place> = OnceLock::new();
    if inside_lab() {
        return Ok(Place::Native);
    }
    match std::env::var(OVERRIDE).as_deref() {
        Ok("native") => return Ok(Place::Native),
        Ok("lab") => return Ok(Place::Lab),
        _ => {}
    }
    if let Some(place) = PLACE.get() {
        return Ok(*place);
    }
    let vmm = programs::sky_vmm()?;
    let usable = command::run_with_timeout(Command::new(vmm).args(["check", "--json"]), SELF_TEST_LIMIT)
        .is_ok_and(|output| is_usable(&output.stdout));
    Ok(*PLACE.get_or_init(|| if usable { Place::Native } else { Place::Lab }))
}

/// The self-test's answer is JSON with a member `usable`.
fn is_usable(json: &[u8]) -> bool {
    let answer: Option<serde_json::Value> = serde_json::from_slice(json).ok();
    answer.is_some_and(|answer| answer["usable"] == serde_json::Value::Bool(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_yes_counts() {
        assert!(is_usable(br#"{"usable": true, "traps": []}"#));
        for answer in [
            &br#"{"usable": false}"#[..],
            br#"{"usable": "true"}"#,
            br#"{}"#,
            b"[]",
            b"Segmentation fault",
            b"",
        ] {
            assert!(!is_usable(answer));
        }
    }
}
