//! What trapped system calls, process switches and insight-calls cost, with both engines.

use super::guests::{Guests, number, rounded};
use super::{Benchmark, Figures, Goal, Metric, Part, Reference, Setting};
use crate::error::{Error, Result};

/// What the first experiment with these mechanisms took, in the same lab.
const EXPERIMENT: &str = "first experiment";

const fn metric(key: &'static str, reference: Option<f64>, goal: Option<f64>) -> Metric {
    let reference = match reference {
        Some(value) => Some(Reference { source: EXPERIMENT, value }),
        None => None,
    };
    let goal = match goal {
        Some(limit) => Some(Goal::AtMost(limit)),
        None => None,
    };
    Metric { key, unit: "", reference, goal }
}

const fn part(name: &'static str, measure: fn() -> Result<Figures>) -> Part {
    Part { name, setting: Setting::InstructionCount, prepare: || Ok(()), measure }
}

pub(super) const TRAPS: Benchmark = Benchmark {
    name: "traps",
    about: "exits and instructions of trapped calls, process switches and insight-calls",
    metrics: &[
        metric("sce.exits_per_call", Some(3.0), Some(3.0)),
        metric("sce.instructions_per_call", Some(15_629.0), Some(12_000.0)),
        metric("entry.exits_per_call", Some(2.0), Some(2.0)),
        metric("entry.instructions_per_call", Some(11_484.0), Some(8_500.0)),
        metric("sce_debug.instructions_per_call", Some(15_629.0), Some(12_000.0)),
        metric("entry_debug.instructions_per_call", Some(11_484.0), Some(8_500.0)),
        metric("switch.instructions", Some(9_000.0), Some(6_000.0)),
        metric("switch_debug.instructions", None, None),
        metric("unmonitored.exits_per_call", None, Some(0.0)),
        metric("unmonitored.overhead_percent", None, Some(1.0)),
        metric("insight.instructions", None, None),
        metric("floor.instructions_per_exit", None, None),
    ],
    charts: &[],
    parts: &[
        part("sce", || calls("sce")),
        part("entry", || calls("entry")),
        part("unmonitored", unmonitored),
        part("switches", switches),
        part("insight", insight),
    ],
};

/// Calls of `getpid` where they are trapped.
const TRAPPED: u32 = 20_000;
/// The same where they are not: they take a fortieth of the time, and a clock interrupt more or less is to be nothing.
const UNTRAPPED: u32 = 400_000;
/// Calls of `sched_yield` while another process does nothing else.
const YIELDS: u32 = 5_000;

fn traps(engine: &str, mechanism: &str, returns: &str) -> String {
    format!("engine = '{engine}'\nmechanism = '{mechanism}'\nreturns = '{returns}'")
}

fn calls(engine: &str) -> Result<Figures> {
    let guests = Guests::new()?;
    let calls = f64::from(TRAPPED);
    let script = format!("getpid-loop {TRAPPED}");
    let (looped, exits) = guests.exits(&traps(engine, "port", "all"), &script)?;
    let ticks = number(&looped, "GETPID_TICKS_PER_CALL")?;
    // A guest that spends the same time without calls: what its boot and its clock take is taken off.
    let idle = format!("getpid-loop 0; bystander spin {:.0}", ticks * calls);
    let (_, idle) = guests.exits(&traps(engine, "port", "all"), &idle)?;
    let (looped, _) = guests.exits(&traps(engine, "debug", "all"), &script)?;
    Ok(Figures::from([
        (format!("{engine}.instructions_per_call"), ticks),
        (format!("{engine}.exits_per_call"), rounded((exits - idle) / calls)),
        (format!("{engine}_debug.instructions_per_call"), number(&looped, "GETPID_TICKS_PER_CALL")?),
    ]))
}

/// Calls of a process that nobody watches while the monitored one sleeps, against a guest without Sky.
fn unmonitored() -> Result<Figures> {
    let guests = Guests::new()?;
    // The sleeper has made its last call when the other begins, and is killed with the guest.
    let asleep = "getpid-loop 1 1000 & sleep 1;";
    let script = format!("{asleep} bystander getpid {UNTRAPPED}");
    let traps = traps("sce", "port", "observed");
    let (looped, exits) = guests.exits(&traps, &script)?;
    let ticks = number(&looped, "BYSTANDER_TICKS")?;
    let (_, idle) = guests.exits(&traps, &format!("{asleep} bystander spin {ticks:.0}"))?;
    let without = number(&guests.alone(&script)?, "BYSTANDER_TICKS")?;
    Ok(Figures::from([
        ("unmonitored.exits_per_call".into(), rounded((exits - idle) / f64::from(UNTRAPPED))),
        ("unmonitored.overhead_percent".into(), rounded((ticks - without) / without * 100.0)),
    ]))
}

/// Two processes that hand the CPU to each other, one of them monitored, against a guest without Sky. What the trapped
/// calls themselves cost, the one that yields, is taken off.
fn switches() -> Result<Figures> {
    let guests = Guests::new()?;
    let mut figures = Figures::new();
    let script = format!("getpid-loop yield {YIELDS} bystander yield");
    let alone = format!("getpid-loop yield {YIELDS}");
    let without = number(&guests.alone(&script)?, "YIELD_TICKS")?;
    let alone_without = number(&guests.alone(&alone)?, "YIELD_TICKS")?;
    for (key, mechanism) in [("switch", "port"), ("switch_debug", "debug")] {
        let traps = traps("sce", mechanism, "observed");
        let with = number(&guests.watched(&traps, &script, &[])?, "YIELD_TICKS")?;
        let stops = guests.stats()?["monitor"]["stops"]["switches"].as_f64();
        // To the other process and back.
        let switches = 2.0 * f64::from(YIELDS);
        if stops.is_none_or(|stops| (stops / switches - 1.0).abs() > 0.05) {
            return Err(Error::Missing(format!("{switches} process switches: they were {stops:?}")));
        }
        let passed = number(&guests.watched(&traps, &alone, &[])?, "YIELD_TICKS")? - alone_without;
        figures.insert(format!("{key}.instructions"), ((with - without - passed) / switches).round());
    }
    Ok(figures)
}

/// A call before which the thread makes one for us, less one that is only followed; and the floor, a write to a port
/// that nobody has.
fn insight() -> Result<Figures> {
    let guests = Guests::new()?;
    let traps = traps("sce", "port", "observed");
    let script = format!("getpid-loop {TRAPPED}");
    let ticks = |asks| {
        let probe = [("SKY_PROBE_CALL", "39"), ("SKY_PROBE_ASKS", asks)];
        number(&guests.watched(&traps, &script, &probe)?, "GETPID_TICKS_PER_CALL")
    };
    let insight = ticks("pid")? - ticks("nothing")?;
    let out = guests.watched(&traps, &format!("getpid-loop out {TRAPPED}"), &[])?;
    Ok(Figures::from([
        ("insight.instructions".into(), insight),
        ("floor.instructions_per_exit".into(), number(&out, "OUT_TICKS")?),
    ]))
}
