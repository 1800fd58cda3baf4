//! What the engine counts, and how it becomes a report.

use super::asking::InsightCounts;
use crate::Error;
use crate::report::{CallCount, CompatCalls, Report, Stops};

/// Numbers of system calls that are counted one by one.
const NUMBERED: usize = 512;
/// Processes that a report lists.
const LISTED: usize = 1024;

/// Counters that the hot path increments.
#[derive(Debug)]
pub(crate) struct Counts {
    pub(super) stops: Stops,
    pub(super) unreturned: u64,
    pub(super) identified: u64,
    /// Processes that ran already when monitoring them began.
    pub(super) attached: u64,
    /// Calls on their way when their process was left alone.
    pub(super) detached: u64,
    pub(super) compat: CompatCalls,
    /// Calls whose instruction was gone when it was looked at, and that were made again.
    pub(super) refetched: u64,
    pub(super) insight: InsightCounts,
    processes: Vec<(String, u32)>,
    problem: Option<String>,
    /// By number; the last is for all others.
    calls: Vec<CallCount>,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            stops: Stops::default(),
            unreturned: 0,
            identified: 0,
            attached: 0,
            detached: 0,
            compat: CompatCalls::default(),
            refetched: 0,
            insight: InsightCounts::default(),
            processes: Vec::new(),
            problem: None,
            calls: vec![CallCount::default(); NUMBERED + 1],
        }
    }
}

impl Counts {
    pub(super) fn entered(&mut self, number: u64) {
        self.call(number).entered += 1;
    }

    pub(super) fn returned(&mut self, number: u64) {
        self.call(number).returned += 1;
    }

    pub(super) fn monitoring(&mut self, executable: &str, pid: u32) {
        if self.processes.len() < LISTED {
            self.processes.push((executable.to_owned(), pid));
        }
    }

    /// Notes what went wrong. Returns whether it is the first time.
    pub(super) fn problem(&mut self, error: &Error) -> bool {
        let first = self.problem.is_none();
        self.problem.get_or_insert_with(|| error.to_string());
        first
    }

    /// Into a report whose other fields are left alone.
    pub(crate) fn fill(&self, report: &mut Report) {
        let numbered = self.calls.iter().enumerate().filter(|(_, count)| count.entered > 0);
        report.calls = numbered.map(|(number, count)| (name(number), *count)).collect();
        report.stops = self.stops;
        report.unreturned = self.unreturned;
        report.identified = self.identified;
        report.attached = self.attached;
        report.detached_calls = self.detached;
        report.compat_calls = self.compat;
        report.refetched = self.refetched;
        report.insight = self.insight;
        report.processes.clone_from(&self.processes);
        report.problem.clone_from(&self.problem);
    }

    fn call(&mut self, number: u64) -> &mut CallCount {
        let number = usize::try_from(number).unwrap_or(NUMBERED).min(NUMBERED);
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
