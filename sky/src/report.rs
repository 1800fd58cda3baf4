//! What Sky saw, as numbers: for people, scripts and tests.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::insight::{
    Assume, BlockCounts, ClassCount, ClassLifetimes, FileSummary, TrackerCounts, UniqueCounts,
};
use crate::trap::CompatEntry;
use crate::trap::engine::InsightCounts;

/// Stops of the guest, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stops {
    /// At the handler for invalid opcodes, for a system call.
    pub calls: u64,
    /// At the handler for invalid opcodes, for an opcode that is invalid.
    pub invalid_opcodes: u64,
    /// Behind the system-call dispatcher, insight-calls among them.
    pub returns: u64,
    /// At a write of CR3.
    pub switches: u64,
    /// For 32-bit calls.
    pub compat: u64,
    /// For debug exceptions of the guest's own, which were given back.
    pub debug_exceptions: u64,
}

/// One system call of the monitored processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CallCount {
    /// Times it was entered.
    pub entered: u64,
    /// Times its return was seen.
    pub returned: u64,
}

/// 32-bit calls of the monitored processes, by the way they came. With debug registers only those by SYSCALL are
/// seen, and only by the engine `sce`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CompatCalls {
    /// By `int 0x80`, which 64-bit code can use, too.
    pub int80: u64,
    /// By SYSENTER.
    pub sysenter: u64,
    /// By SYSCALL in 32-bit code.
    pub syscall: u64,
}

impl CompatCalls {
    pub(crate) fn add(&mut self, entry: CompatEntry) {
        match entry {
            CompatEntry::Int80 => self.int80 += 1,
            CompatEntry::Sysenter => self.sysenter += 1,
            CompatEntry::Syscall => self.syscall += 1,
        }
    }
}

/// Everything that was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether traps were set.
    pub armed: bool,
    /// Why not, or what went wrong later.
    pub problem: Option<String>,
    /// The mechanism in use: `port` or `debug`.
    pub mechanism: String,
    /// The engine in use: `sce` or `entry`.
    pub engine: String,
    /// Monitored processes: executable and process id.
    pub processes: Vec<(String, u32)>,
    /// Processes that ran already when monitoring them began.
    pub attached: u64,
    /// System calls by name.
    pub calls: BTreeMap<String, CallCount>,
    /// Calls that ended some other way than by a return that was seen, execve and exit among them.
    pub unreturned: u64,
    /// Calls that have not returned yet.
    pub outstanding: u64,
    /// Calls on their way when their process was left alone.
    pub detached_calls: u64,
    /// 32-bit calls, which are not decoded.
    pub compat_calls: CompatCalls,
    /// Calls whose instruction was gone when it was looked at, and that the guest made again.
    pub refetched: u64,
    /// Insight-calls.
    pub insight: InsightCounts,
    /// Calls of processes that were new and turned out to be of no interest: one each.
    pub identified: u64,
    /// Stops of the guest.
    pub stops: Stops,
    /// Files that monitored processes wrote, or read from a disk.
    pub files: Vec<FileSummary>,
    /// What a block is taken for that no monitored process has written.
    pub assume: Assume,
    /// What became of the disk blocks.
    pub blocks: BlockCounts,
    /// How many disk blocks each class of the policy got.
    pub classes: Vec<ClassCount>,
    /// How long blocks lived that have come to an end.
    pub lifetimes: Vec<ClassLifetimes>,
    /// What could not be followed.
    pub untracked: TrackerCounts,
}

impl Report {
    /// Exits of the virtual CPU for each trapped call, those of new processes included: those that came to Sky and, with
    /// the engine `sce`, one for #UD, which KVM handles by itself. `cargo results traps` has KVM's own count.
    #[must_use]
    pub fn exits_per_call(&self) -> Option<f64> {
        let stops = self.stops;
        #[expect(clippy::cast_precision_loss, reason = "a ratio of counters for people")]
        let ratio = |exits: u64| exits as f64 / stops.calls as f64;
        let unseen = if self.engine == "sce" { stops.calls } else { 0 };
        (stops.calls > 0).then(|| ratio(stops.calls + unseen + stops.returns))
    }
}

/// What a report comes to in one line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Processes that are monitored, or were.
    pub processes: usize,
    /// System calls that they entered.
    pub calls: u64,
    /// Disk blocks written that belong to a file.
    pub data: u64,
    /// Disk blocks written that are the file system's.
    pub metadata: u64,
    /// Disk blocks written of which nothing is known.
    pub unknown: u64,
    /// Disk blocks read that a process has named.
    pub named: u64,
}

impl From<&Report> for Summary {
    fn from(report: &Report) -> Self {
        let BlockCounts { data, metadata, unknown, named, .. } = report.blocks;
        let calls = report.calls.values().map(|call| call.entered).sum();
        Self { processes: report.processes.len(), calls, data, metadata, unknown, named }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processes, calls, data, metadata, unknown, named } = self;
        write!(
            f,
            "{processes} processes, {calls} calls; blocks written: {data} data, {metadata} metadata, {unknown} unknown; \
             read: {named} named"
        )
    }
}

/// What else is known of a file's blocks.
fn known(file: &FileSummary) -> String {
    let signs = [
        ("read", file.named),
        ("copied", file.copied),
        ("encrypted", file.encrypted),
        ("hinted", file.hinted),
    ];
    let signs = signs.iter().filter(|(_, blocks)| *blocks > 0);
    signs.map(|(sign, blocks)| format!("{blocks} {sign}")).collect::<Vec<_>>().join(", ")
}

/// Tables for people.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(problem) = &self.problem {
            writeln!(f, "sky: {problem}")?;
        }
        if !self.armed {
            return writeln!(f, "sky: no traps were set, the guest ran unmonitored");
        }
        let names: Vec<String> =
            self.processes.iter().map(|(name, pid)| format!("{name} (pid {pid})")).collect();
        writeln!(
            f,
            "sky: monitored {}",
            if names.is_empty() { "no process".into() } else { names.join(", ") }
        )?;
        if self.attached > 0 {
            writeln!(f, "sky: {} of them ran already when monitoring them began", self.attached)?;
        }
        writeln!(f, "\n{:<16} {:>10} {:>10}", "system call", "entered", "returned")?;
        for (name, count) in &self.calls {
            writeln!(f, "{name:<16} {:>10} {:>10}", count.entered, count.returned)?;
        }
        writeln!(
            f,
            "\n{:<40} {:>10} {:>10} {:>8} {:>8} {:>7}  known",
            "file", "bytes", "size", "blocks", "on disk", "class"
        )?;
        for file in &self.files {
            let class = if file.matched + file.named > 0 { "data" } else { "unknown" };
            let line = format!(
                "{:<40} {:>10} {:>10} {:>8} {:>8} {class:>7}  {}",
                file.path,
                file.bytes,
                file.size,
                file.blocks,
                file.matched + file.named,
                known(file)
            );
            writeln!(f, "{}", line.trim_end())?;
        }
        let blocks = self.blocks;
        writeln!(
            f,
            "\ndisk blocks written: {} matched to a file ({} of them copies), {} metadata, {} unknown; {} of the files' blocks \
             not seen at the disk",
            blocks.data, blocks.copied, blocks.metadata, blocks.unknown, blocks.pending
        )?;
        let UniqueCounts { program, extension, entropy } = blocks.unique;
        if program + extension + entropy > 0 {
            writeln!(
                f,
                "like no other block: {program} by the program that wrote them, {extension} by their file's extension, \
                 {entropy} by what they look like"
            )?;
        }
        writeln!(f, "disk blocks read: {} named by the processes that read them", blocks.named)?;
        writeln!(f, "{:>7}  {:<40} {:>8}", "class", "rule", "blocks")?;
        for class in self.classes.iter().filter(|class| class.blocks > 0) {
            writeln!(f, "{:>7}  {:<40} {:>8}", class.id, class.name, class.blocks)?;
        }
        let stops = self.stops;
        write!(
            f,
            "stops of the guest: {} system calls, {} returns, {} process switches, {} invalid opcodes",
            stops.calls, stops.returns, stops.switches, stops.invalid_opcodes
        )?;
        match self.exits_per_call() {
            Some(ratio) => writeln!(f, "\nexits per trapped call: {ratio:.2}")?,
            None => writeln!(f)?,
        }
        let insight = self.insight;
        if insight != InsightCounts::default() {
            writeln!(
                f,
                "insight-calls: {} made, {} of them again after a signal; {} given up, {} refused",
                insight.made, insight.retried, insight.given_up, insight.refused
            )?;
        }
        let CompatCalls { int80, sysenter, syscall } = self.compat_calls;
        if int80 + sysenter + syscall > 0 {
            writeln!(
                f,
                "32-bit calls, not decoded: {int80} by int 0x80, {sysenter} by SYSENTER, {syscall} by SYSCALL"
            )?;
        }
        Ok(())
    }
}
