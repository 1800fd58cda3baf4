//! How long a guest takes to its init, and what a trapped system call costs.

use super::guests::{Guests, number, rounded};
use super::{Benchmark, Figures, Goal, Metric, Part, Reference, Setting};
use crate::error::{Error, Result};
use crate::guest::{GuestRun, INIT_MARKER, Scratch};
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
    charts: &[],
    parts: &[
        Part { name: "init", setting: Setting::Kvm, prepare: || Ok(()), measure: init },
        Part { name: "calls", setting: Setting::InstructionCount, prepare: || Ok(()), measure: calls },
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
    let bench = Guests::new()?;
    let mut figures = Figures::new();
    let calls = f64::from(TRAPPED);
    for (returns, kind) in [("all", "trapped"), ("observed", "passed")] {
        let (looped, exits) = bench.exits(&traps(returns), &format!("getpid-loop {TRAPPED}"))?;
        let ticks = number(&looped, "GETPID_TICKS_PER_CALL")?;
        let (_, idle) =
            bench.exits(&traps(returns), &format!("getpid-loop 0; bystander spin {:.0}", ticks * calls))?;
        figures.insert(format!("instructions_per_{kind}_call"), ticks);
        figures.insert(format!("exits_per_{kind}_call"), rounded((exits - idle) / calls));
    }
    // The sleeper has made its last call when the other begins, and is killed with the guest.
    let asleep = "getpid-loop 1 1000 & sleep 1;";
    let (looped, exits) =
        bench.exits(&traps("observed"), &format!("{asleep} bystander getpid {UNTRAPPED}"))?;
    let calls = f64::from(UNTRAPPED);
    let ticks = number(&looped, "BYSTANDER_TICKS")?;
    let (_, idle) = bench.exits(&traps("observed"), &format!("{asleep} bystander spin {ticks:.0}"))?;
    figures.insert("instructions_per_unmonitored_call".into(), (ticks / calls).round());
    figures.insert("exits_per_unmonitored_call".into(), rounded((exits - idle) / calls));
    Ok(figures)
}

fn traps(returns: &str) -> String {
    format!("returns = '{returns}'")
}
