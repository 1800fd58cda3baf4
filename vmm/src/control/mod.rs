//! Changing what is monitored, and looking into disks, while the guest runs: a socket of `sky-vmm run --control PATH`,
//! and who speaks to it.
//!
//! ```text
//!   sky-vmm monitor --control PATH add ..       [client]                   [server]  one thread per client
//!                   {"command":"add",..}\n ─────────────▶ unix socket ─────────▶ [protocol] ──▶ Controls: Running
//!                   {"ok":{"rule":1}}\n    ◀──────────────────────────────────
//! ```
//!
//! Requests and replies are JSON, a line each, as many as the client likes. Requests are carried out one after the
//! other, whoever they come from. They wait for the guest; the guest's end does not wait for them.

use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use sky::process::ProcessRule;
use sky::{Listing, Removal, Report, Sky};

use crate::machine::OpenDisks;

mod client;
mod disk;
mod protocol;
mod server;
mod table;
#[cfg(test)]
mod tests;

pub use client::{ClientError, ask, run};
pub use disk::{CacheAction, DiskLayers};
pub use protocol::{MAX_LINE, Request, answer};
pub use server::ControlSocket;

/// How long traps may take to be set. Looking through a guest's kernel takes milliseconds, and a second when emulated
/// by a host that does nothing else.
const ARM_PATIENCE: Duration = Duration::from_secs(30);
const ARM_AGAIN: Duration = Duration::from_millis(10);

/// What can be asked for. [`Running`] is the one that there is; tests have another.
pub trait Controls: Send + Sync {
    /// Also monitors what the rule names. Gives its number.
    ///
    /// # Errors
    /// As [`Sky::add`].
    fn add(&self, rule: &ProcessRule) -> sky::Result<u64>;

    /// Leaves processes alone. Gives how many.
    ///
    /// # Errors
    /// As [`Sky::remove`].
    fn remove(&self, what: Removal) -> sky::Result<usize>;

    /// What is monitored now.
    ///
    /// # Errors
    /// As [`Sky::list`].
    fn list(&self) -> sky::Result<Listing>;

    /// What was seen so far.
    fn report(&self) -> Report;

    /// Takes every trap out of the guest.
    ///
    /// # Errors
    /// As [`Sky::detach`].
    fn detach(&self) -> sky::Result<()>;

    /// Sets the traps, with the rules of the configuration.
    ///
    /// # Errors
    /// [`sky::Error::NotArmed`]: they could not be set, the report may say why. [`sky::Error::Busy`].
    fn arm(&self) -> sky::Result<()>;

    /// The disks, in the machine's order, and what their layers have done.
    fn disks(&self) -> Vec<DiskLayers>;

    /// Does something with the cache of the disk of that number.
    ///
    /// # Errors
    /// There is no such disk, it has no cache, or the cache could not do it, in words.
    fn cache(&self, disk: usize, action: &CacheAction) -> Result<Value, String>;
}

/// A machine that runs.
#[derive(Debug)]
pub struct Running {
    /// What is monitored.
    pub sky: Arc<Sky>,
    /// Its disks.
    pub disks: OpenDisks,
}

impl Controls for Running {
    fn add(&self, rule: &ProcessRule) -> sky::Result<u64> {
        self.sky.add(rule)
    }

    fn remove(&self, what: Removal) -> sky::Result<usize> {
        self.sky.remove(what)
    }

    fn list(&self) -> sky::Result<Listing> {
        self.sky.list()
    }

    fn report(&self) -> Report {
        self.sky.report()
    }

    fn detach(&self) -> sky::Result<()> {
        self.sky.detach()
    }

    fn disks(&self) -> Vec<DiskLayers> {
        self.disks.with(|disks| {
            disks.iter().map(|(path, disk)| DiskLayers { path: path.clone(), layers: disk.stats() }).collect()
        })
    }

    fn cache(&self, disk: usize, action: &CacheAction) -> Result<Value, String> {
        self.disks.with(|disks| {
            let Some((path, disk)) = disks.get(disk) else { return Err(format!("there is no disk {disk}")) };
            disk.cache().map_or_else(|| Err(format!("{path} has no cache")), |cache| action.carry_out(cache))
        })
    }

    fn arm(&self) -> sky::Result<()> {
        self.sky.arm();
        // Nobody says when it is done, or that it failed. With several virtual CPUs the list may overtake it.
        let started = Instant::now();
        loop {
            match self.sky.list() {
                Err(sky::Error::NotArmed) if started.elapsed() < ARM_PATIENCE => sleep(ARM_AGAIN),
                result => return result.map(drop),
            }
        }
    }
}
