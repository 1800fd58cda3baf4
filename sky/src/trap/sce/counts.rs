//! What the engine counts, and how it becomes a report.

use crate::Error;
use crate::guest::Syscall;
use crate::report::{CallCount, Report, Stops};

/// Numbers of system calls that are counted one by one.
const NUMBERED: usize = 512;
/// Processes that a report lists.
const LISTED: usize = 1024;

/// Counters that the hot path increments.
#[derive(Debug)]
pub(super) struct Counts {
    pub(super) stops: Stops,
    pub(super) unreturned: u64,
    pub(super) identified: u64,
    /// By number; the last is for all others.
    calls: Vec<CallCount>,
    report: Report,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            stops: Stops::default(),
            unreturned: 0,
            identified: 0,
            calls: vec![CallCount::default(); NUMBERED + 1],
            report: Report::default(),
        }
    }
}

impl Counts {
    pub(super) fn armed(&mut self, mechanism: &str, too_early: u64) {
        self.report.armed = true;
        self.report.mechanism = mechanism.to_owned();
        self.report.too_early = too_early;
    }

    pub(super) fn entered(&mut self, call: &Syscall) {
        self.call(call).entered += 1;
    }

    pub(super) fn returned(&mut self, call: &Syscall) {
        self.call(call).returned += 1;
    }

    pub(super) fn monitoring(&mut self, executable: String, pid: u32) {
        if self.report.processes.len() < LISTED {
            self.report.processes.push((executable, pid));
        }
    }

    /// Notes what went wrong. Returns whether it is the first time.
    pub(super) fn problem(&mut self, error: &Error) -> bool {
        let first = self.report.problem.is_none();
        self.report.problem.get_or_insert_with(|| error.to_string());
        first
    }

    pub(super) fn report(&self) -> Report {
        let numbered = self.calls.iter().enumerate().filter(|(_, count)| count.entered > 0);
        Report {
            calls: numbered.map(|(number, count)| (name(number), *count)).collect(),
            stops: self.stops,
            unreturned: self.unreturned,
            identified: self.identified,
            ..self.report.clone()
        }
    }

    fn call(&mut self, call: &Syscall) -> &mut CallCount {
        let number = usize::try_from(call.number()).unwrap_or(NUMBERED).min(NUMBERED);
        &mut self.calls[number]
    }
}

fn name(number: usize) -> String {
    match syscalls::Sysno::new(number) {
        _ if number == NUMBERED => "(other)".to_owned(),
        Some(call) => call.name().to_owned(),
        None => format!("#{number}"),
    }
}
