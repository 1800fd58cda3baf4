//! Guests whose exits and instructions are counted.

use serde_json::Value;

use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::guest::{Finished, GuestRun, Scratch};
use crate::packages::{Flavour, Kernel};
use crate::programs;

/// To the second decimal: beyond it lies a clock interrupt more or less. Without the sign of a nothing from below.
pub(super) fn rounded(ratio: f64) -> f64 {
    let rounded = (ratio * 100.0).round() / 100.0;
    if rounded == 0.0 { 0.0 } else { rounded }
}

/// A kernel and a disk for all of them.
pub(super) struct Guests {
    scratch: Scratch,
    kernel: Kernel,
    disk: Disk,
}

impl Guests {
    pub(super) fn new() -> Result<Guests> {
        let scratch = Scratch::new()?;
        let disk = Disk::blank(scratch.path("disk.img"), 16)?;
        Ok(Guests { scratch, kernel: Kernel::get(Flavour::Cloud61)?, disk })
    }

    /// Runs a script in a guest where `getpid-loop` is monitored, with these settings under `[trap]`; gives what it
    /// printed and all exits that KVM counted.
    pub(super) fn exits(&self, traps: &str, script: &str) -> Result<(Finished, f64)> {
        let finished = self.watched(traps, script, &[])?;
        Ok((finished, kvm_exits(&self.stats()?)?))
    }

    /// The same; `more` are variables of its environment, for the probe, which then takes the place of `sky-vmm`.
    pub(super) fn watched(&self, traps: &str, script: &str, more: &[(&str, &str)]) -> Result<Finished> {
        let monitor = self.scratch.path("monitor.toml");
        let config = format!("[[process]]\nexecutable = 'getpid-loop'\n[trap]\n{traps}\n");
        std::fs::write(&monitor, config).map_err(Error::file("write", &monitor))?;
        let mut run = self.run(script)?.monitor(&monitor);
        if !more.is_empty() {
            run = run.vmm(programs::insight_probe()?);
        }
        for (name, value) in more {
            run = run.env(name, value);
        }
        run.run()?.ok()
    }

    /// Runs a script in a guest that nobody watches.
    pub(super) fn alone(&self, script: &str) -> Result<Finished> {
        self.run(script)?.run()?.ok()
    }

    fn run(&self, script: &str) -> Result<GuestRun> {
        let initramfs = self.scratch.initramfs(&self.kernel, script)?;
        let run = GuestRun::new(&self.kernel.vmlinux()?, &initramfs).disk(&self.disk);
        Ok(run.option("--stats", self.scratch.path("stats.json")))
    }

    /// The counters of the last run.
    pub(super) fn stats(&self) -> Result<Value> {
        let path = self.scratch.path("stats.json");
        let bytes = std::fs::read(&path).map_err(Error::file("read", &path))?;
        let format = |problem: String| Error::Format { path: path.clone(), problem };
        let stats: Value = serde_json::from_slice(&bytes).map_err(|error| format(error.to_string()))?;
        if stats["monitor"]["armed"] != Value::Bool(true) {
            return Err(format(format!("no traps were set: {}", stats["monitor"]["problem"])));
        }
        Ok(stats)
    }
}

fn kvm_exits(stats: &Value) -> Result<f64> {
    let exits = stats["kvm_exits"].as_f64();
    exits.ok_or_else(|| Error::Missing("KVM does not count exits here".into()))
}

pub(super) fn number(finished: &Finished, key: &str) -> Result<f64> {
    let text = finished.marker(key)?;
    text.parse()
        .map_err(|_| Error::Guest { problem: format!("{key}={text}"), output: finished.serial.clone() })
}
