//! What the self-test found, what follows from it, and how to say so.

use std::fmt;

use serde::Serialize;
use sky::config::MechanismChoice;

use super::{DEBUG, INTERRUPTS, LONG_MODE, MSR_FILTER, PORT, SYNC_REGS, SYSCALL, SYSCALL_TRAP};

pub(super) const DEVICE: &str = "/dev/kvm";

/// Outcome of one test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TestResult {
    /// What was tested.
    pub name: &'static str,
    /// Whether it works.
    pub passed: bool,
    /// What was seen.
    pub detail: String,
}

impl TestResult {
    pub(super) fn passed(name: &'static str, detail: String) -> Self {
        Self { name, passed: true, detail }
    }

    pub(super) fn failed(name: &'static str, detail: String) -> Self {
        Self { name, passed: false, detail }
    }
}

/// A way to stop a guest at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mechanism {
    /// An `OUT` patched into the guest's code: any number of places, for all vCPUs at once.
    Port,
    /// The CPU's debug registers: four addresses per vCPU, invisible in guest memory.
    Debug,
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Port => "port traps",
            Self::Debug => "debug registers",
        })
    }
}

/// Result of a self-test. Its `Display` is the table for people, its serialization the one for programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether guests can run here.
    pub usable: bool,
    /// One entry per test that ran.
    pub tests: Vec<TestResult>,
    /// How a guest can be stopped here, the default first. Empty if that was not tested.
    pub mechanisms: Vec<Mechanism>,
    /// What follows, in a sentence or two.
    pub advice: String,
}

impl Report {
    pub(super) fn new(tests: Vec<TestResult>) -> Self {
        let passed = |name| tests.iter().any(|test| test.name == name && test.passed);
        let tested = |name| tests.iter().any(|test| test.name == name);
        let runs = [LONG_MODE, INTERRUPTS, SYSCALL].iter().all(|test| passed(test.name));
        let traps = runs && passed(SYSCALL_TRAP.name);
        let mechanisms: Vec<_> = [(PORT.name, Mechanism::Port), (DEBUG.name, Mechanism::Debug)]
            .into_iter()
            .filter_map(|(name, mechanism)| (traps && passed(name)).then_some(mechanism))
            .collect();
        let usable = runs && (!mechanisms.is_empty() || !tested(SYSCALL_TRAP.name));
        let advice = if !runs {
            let reason =
                tests.iter().find(|test| !test.passed).map_or("a test is missing".to_owned(), |test| {
                    if test.name == DEVICE {
                        test.detail.clone()
                    } else {
                        format!("{}: {}", test.name, test.detail)
                    }
                });
            format!("this /dev/kvm cannot run guests ({reason}); use the lab: cargo lab -- COMMAND")
        } else if usable {
            match mechanisms.as_slice() {
                [] => "guests can run here".to_owned(),
                [only] => format!("guests can run here; system calls are trapped with {only}"),
                [first, others @ ..] => {
                    let others: Vec<_> = others.iter().map(ToString::to_string).collect();
                    format!(
                        "guests can run here; system calls are trapped with {first} ({} would work, too)",
                        others.join(" and ")
                    )
                }
            }
        } else {
            "guests can run on this /dev/kvm, but their system calls cannot be trapped; use the lab: cargo lab -- COMMAND"
                .to_owned()
        };
        Self { usable, tests, mechanisms, advice }
    }

    /// The test that stands in the way of `--monitor`, whatever the [mechanism](Self::mechanism): system calls must
    /// trap, and EFER must be hidden from the guest.
    #[must_use]
    pub fn obstacle_to_monitoring(&self) -> Option<&TestResult> {
        let needed = [SYSCALL_TRAP, MSR_FILTER, SYNC_REGS];
        self.tests.iter().find(|test| !test.passed && needed.iter().any(|needed| needed.name == test.name))
    }

    /// The mechanism to use when `choice` is asked for. Where both work, `auto` is left to Sky, which sees the guest.
    ///
    /// # Errors
    /// The test that says that it does not work here.
    pub fn mechanism(&self, choice: MechanismChoice) -> Result<MechanismChoice, &TestResult> {
        let works = |mechanism| self.mechanisms.contains(&mechanism);
        let (mechanism, test) = match choice {
            MechanismChoice::Auto => match self.mechanisms.as_slice() {
                [Mechanism::Port] => return Ok(MechanismChoice::Port),
                [Mechanism::Debug] => return Ok(MechanismChoice::Debug),
                [] => (Mechanism::Port, PORT),
                _ => return Ok(choice),
            },
            MechanismChoice::Port => (Mechanism::Port, PORT),
            MechanismChoice::Debug => (Mechanism::Debug, DEBUG),
        };
        match self.tests.iter().find(|result| result.name == test.name) {
            Some(result) if !works(mechanism) => Err(result),
            _ => Ok(choice),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.tests.iter().map(|test| test.name.len()).max().unwrap_or(0);
        for test in &self.tests {
            let result = if test.passed { "ok" } else { "FAILED" };
            writeln!(f, "{:width$}  {result:6}  {}", test.name, test.detail)?;
        }
        write!(f, "\n{}", self.advice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(failing: &[&str]) -> Report {
        let names = [LONG_MODE, INTERRUPTS, SYSCALL, SYSCALL_TRAP, PORT, DEBUG, MSR_FILTER, SYNC_REGS];
        Report::new(
            names
                .iter()
                .map(|test| TestResult {
                    name: test.name,
                    passed: !failing.contains(&test.name),
                    detail: "because".to_owned(),
                })
                .collect(),
        )
    }

    #[test]
    fn everything_works() {
        let report = report(&[]);
        assert!(report.usable);
        assert_eq!(report.mechanisms, [Mechanism::Port, Mechanism::Debug]);
        assert_eq!(report.obstacle_to_monitoring(), None);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["mechanisms"], serde_json::json!(["port", "debug"]));
        assert_eq!(json["tests"][0]["passed"], true);
    }

    #[test]
    fn an_emulator_without_debug_registers_still_has_ports() {
        let report = report(&[DEBUG.name]);
        assert!(report.usable);
        assert_eq!(report.mechanisms, [Mechanism::Port]);
        assert!(report.to_string().contains("debug registers          FAILED"));
    }

    #[test]
    fn no_syscall_means_no_guests_and_a_way_out() {
        let report = report(&[SYSCALL.name]);
        assert!(!report.usable);
        assert!(report.mechanisms.is_empty());
        assert!(report.advice.contains("SYSCALL and SYSRET: because"));
        assert!(report.advice.contains("cargo lab -- COMMAND"));
    }

    #[test]
    fn guests_without_traps_are_not_enough() {
        assert!(!report(&[SYSCALL_TRAP.name]).usable);
        assert!(!report(&[PORT.name, DEBUG.name]).usable);
    }

    #[test]
    fn monitoring_needs_more_than_guests_do() {
        for test in [MSR_FILTER, SYNC_REGS] {
            let report = report(&[test.name]);
            assert!(report.usable);
            assert_eq!(report.obstacle_to_monitoring().unwrap().name, test.name);
        }
        for test in [PORT, DEBUG] {
            assert_eq!(report(&[test.name]).obstacle_to_monitoring(), None, "one mechanism is enough");
        }
    }

    #[test]
    fn the_mechanism_is_one_that_works() {
        use MechanismChoice::{Auto, Debug, Port};
        for (failing, choice, expected) in [
            (&[][..], Auto, Ok(Auto)),
            (&[], Port, Ok(Port)),
            (&[], Debug, Ok(Debug)),
            (&[DEBUG.name], Auto, Ok(Port)),
            (&[DEBUG.name], Port, Ok(Port)),
            (&[DEBUG.name], Debug, Err(DEBUG.name)),
            (&[PORT.name], Auto, Ok(Debug)),
            (&[PORT.name], Port, Err(PORT.name)),
            (&[PORT.name], Debug, Ok(Debug)),
            (&[PORT.name, DEBUG.name], Auto, Err(PORT.name)),
        ] {
            let report = report(failing);
            let result = report.mechanism(choice).map_err(|test| test.name);
            assert_eq!(result, expected, "{choice:?} without {failing:?}");
        }
    }

    #[test]
    fn a_missing_device_is_the_reason_by_itself() {
        let report = Report::new(vec![TestResult::failed(DEVICE, "there is no /dev/kvm".to_owned())]);
        assert!(!report.usable);
        assert!(report.advice.contains("(there is no /dev/kvm)"));
    }
}
