//! How long a guest takes to its init, and what a trapped system call costs.

use std::path::Path;

use serde_json::Value;

use super::{Benchmark, Figures, Goal, Metric, Part, Reference, Setting};
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::guest::{Finished, GuestRun, INIT_MARKER, Scratch};
use crate::packages::{Flavour, Kernel};

/// What the first experiment with these mechanisms took, in the same lab.
const EXPERIMENT: &str = "first experiment";

pub(super) const BOOT: Benchmark = Benchmark {
    name: "boot",
    about: "time to a guest's init, and the cost of trapped and of other system calls",
    metrics: &[
        Metric { key: "init_seconds", unit: "s", reference: None, goal: None },
        Metric { key: "init_guest_share", unit: "", reference: None, goal: None },
        Metric {
            key: "exits_per_trapped_call",
            unit: "",
            reference: Some(Reference { source: EXPERIMENT, value: 3.0 }),
            goal: Some(Goal::AtMost(3.0)),
        },
        Metric { key: "exits_per_passed_call", unit: "", reference: None, goal: None },
        Metric {
            key: "exits_per_unmonitored_call",
            unit: "",
            reference: None,
            goal: Some(Goal::AtMost(0.0)),
        },
        Metric {
            key: "instructions_per_trapped_call",
            unit: "",
            reference: Some(Reference { source: EXPERIMENT, value: 15_629.0 }),
            goal: Some(Goal::AtMost(13_000.0)),
        },
        Metric { key: "instructions_per_passed_call", unit: "", reference: None, goal: None },
        Metric {
            key: "instructions_per_unmonitored_call",
            unit: "",
            reference: Some(Reference { source: EXPERIMENT, value: 393.0 }),
            goal: None,
        },
    ],
    parts: &[
        Part { name: "init", setting: Setting::Kvm, measure: init },
        Part { name: "calls", setting: Setting::InstructionCount, measure: calls },
    ],
};

/// The best of several: other work on the host can only make it slower.
const RUNS: usize = 3;

fn init() -> Result<Figures> {
    let kernel = Kernel::get(Flavour::Cloud61)?;
    let scratch = Scratch::new()?;
    let initramfs = scratch.initramfs(&kernel, "")?;
    let mut best = (f64::INFINITY, 0.0);
    for _ in 0..RUNS {
        let finished = GuestRun::new(&kernel.vmlinux()?, &initramfs).run()?.ok()?;
        let after = finished.init_after.ok_or_else(|| Error::Guest {
            problem: format!("did not print {INIT_MARKER}"),
            output: finished.serial.clone(),
        })?;
        // The guest's clock starts when its kernel does: the rest is the VMM, and the self-test before it.
        let share = number(&finished, "GUEST_UPTIME")? / after.as_secs_f64();
        if after.as_secs_f64() < best.0 {
            best = (after.as_secs_f64(), share);
        }
    }
    Ok(Figures::from([("init_seconds".into(), best.0), ("init_guest_share".into(), best.1)]))
}

/// Calls of `getpid` where they are trapped.
const TRAPPED: u32 = 20_000;
/// The same where they are not: they take a fortieth of the time, and a clock interrupt more or less is to be nothing.
const UNTRAPPED: u32 = 400_000;

/// Exits and instructions of `getpid`, in a process whose every return is stopped ("trapped"), in one whose calls of
/// no interest are let through ("passed"), and in one that is not monitored while the monitored one sleeps.
///
/// Exits are compared with a guest that spends the same time without calls: what its boot and its clock take is
/// taken off.
fn calls() -> Result<Figures> {
    let bench = Calls::new()?;
    let mut figures = Figures::new();
    let calls = f64::from(TRAPPED);
    for (returns, kind) in [("all", "trapped"), ("decoded", "passed")] {
        let (looped, exits) = bench.run(returns, &format!("getpid-loop {TRAPPED}"))?;
        let ticks = number(&looped, "GETPID_TICKS_PER_CALL")?;
        let (_, idle) = bench.run(returns, &format!("getpid-loop 0; bystander spin {:.0}", ticks * calls))?;
        figures.insert(format!("instructions_per_{kind}_call"), ticks);
        figures.insert(format!("exits_per_{kind}_call"), rounded((exits - idle) / calls));
    }
    // The sleeper has made its last call when the other begins, and is killed with the guest.
    let asleep = "getpid-loop 1 1000 & sleep 1;";
    let (looped, exits) = bench.run("decoded", &format!("{asleep} bystander getpid {UNTRAPPED}"))?;
    let calls = f64::from(UNTRAPPED);
    let ticks = number(&looped, "BYSTANDER_TICKS")?;
    let (_, idle) = bench.run("decoded", &format!("{asleep} bystander spin {ticks:.0}"))?;
    figures.insert("instructions_per_unmonitored_call".into(), (ticks / calls).round());
    figures.insert("exits_per_unmonitored_call".into(), rounded((exits - idle) / calls));
    Ok(figures)
}

/// To the second decimal: beyond it lies a clock interrupt more or less. Without the sign of a nothing from below.
fn rounded(ratio: f64) -> f64 {
    let rounded = (ratio * 100.0).round() / 100.0;
    if rounded == 0.0 { 0.0 } else { rounded }
}

struct Calls {
    scratch: Scratch,
    kernel: Kernel,
    disk: Disk,
}

impl Calls {
    fn new() -> Result<Calls> {
        let scratch = Scratch::new()?;
        let disk = Disk::blank(scratch.path("disk.img"), 16)?;
        Ok(Calls { scratch, kernel: Kernel::get(Flavour::Cloud61)?, disk })
    }

    /// Runs a script in a guest where `getpid-loop` is monitored; gives what it printed and all exits that KVM counted.
    fn run(&self, returns: &str, script: &str) -> Result<(Finished, f64)> {
        let monitor = self.scratch.path("monitor.toml");
        let config = format!("[[process]]\nexecutable = 'getpid-loop'\n[trap]\nreturns = '{returns}'\n");
        std::fs::write(&monitor, config).map_err(Error::file("write", &monitor))?;
        let stats = self.scratch.path("stats.json");
        let initramfs = self.scratch.initramfs(&self.kernel, script)?;
        let finished = GuestRun::new(&self.kernel.vmlinux()?, &initramfs)
            .disk(&self.disk)
            .monitor(&monitor)
            .option("--stats", &stats)
            .run()?
            .ok()?;
        let exits = kvm_exits(&stats)?;
        Ok((finished, exits))
    }
}

fn kvm_exits(path: &Path) -> Result<f64> {
    let format = |problem: String| Error::Format { path: path.to_owned(), problem };
    let bytes = std::fs::read(path).map_err(Error::file("read", path))?;
    let stats: Value = serde_json::from_slice(&bytes).map_err(|error| format(error.to_string()))?;
    if stats["monitor"]["armed"] != Value::Bool(true) {
        return Err(format(format!("no traps were set: {}", stats["monitor"]["problem"])));
    }
    stats["kvm_exits"].as_f64().ok_or_else(|| format("KVM does not count exits here".into()))
}

fn number(finished: &Finished, key: &str) -> Result<f64> {
    let text = finished.marker(key)?;
    text.parse()
        .map_err(|_| Error::Guest { problem: format!("{key}={text}"), output: finished.serial.clone() })
}
