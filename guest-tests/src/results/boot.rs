//! How long a guest takes to its init, and what a trapped system call costs.

use super::{Benchmark, Figures, Metric, Part, Setting};
use crate::error::{Error, Result};
use crate::guest::{GuestRun, INIT_MARKER, Scratch};
use crate::packages::{Flavour, Kernel};

pub(super) const BOOT: Benchmark = Benchmark {
    name: "boot",
    about: "time to a guest's init, and the cost of trapped and of other system calls",
    metrics: &[
        Metric { key: "init_seconds", unit: "s", reference: None, goal: None },
        Metric { key: "exits_per_trapped_call", unit: "", reference: None, goal: None },
        Metric { key: "exits_per_unmonitored_call", unit: "", reference: None, goal: None },
        Metric { key: "instructions_per_trapped_call", unit: "", reference: None, goal: None },
    ],
    parts: &[Part { name: "init", setting: Setting::Kvm, measure: init }],
};

/// The best of several: other work on the host can only make it slower.
const RUNS: usize = 3;

fn init() -> Result<Figures> {
    let kernel = Kernel::get(Flavour::Cloud61)?;
    let scratch = Scratch::new()?;
    let initramfs = scratch.initramfs(&kernel, "")?;
    let mut best = f64::INFINITY;
    for _ in 0..RUNS {
        let finished = GuestRun::new(&kernel.vmlinux()?, &initramfs).run()?.ok()?;
        let after = finished.init_after.ok_or_else(|| Error::Guest {
            problem: format!("did not print {INIT_MARKER}"),
            output: finished.serial.clone(),
        })?;
        best = best.min(after.as_secs_f64());
    }
    Ok(Figures::from([("init_seconds".into(), best)]))
}
