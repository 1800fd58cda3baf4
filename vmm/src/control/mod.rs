//! Changing what is monitored while the guest runs: a socket of `sky-vmm run --control PATH`, and who speaks to it.
//!
//! ```text
//!   sky-vmm monitor --control PATH add ..       [client]                   [server]  one thread per client
//!                   {"command":"add",..}\n ─────────────▶ unix socket ─────────▶ [protocol] ──▶ Controls: Sky
//!                   {"ok":{"rule":1}}\n    ◀──────────────────────────────────
//! ```
//!
//! Requests and replies are JSON, a line each, as many as the client likes. Requests are carried out one after the
//! other, whoever they come from. They wait for the guest; the guest's end does not wait for them.

use std::thread::sleep;
use std::time::{Duration, Instant};

use sky::process::ProcessRule;
use sky::{Listing, Removal, Report, Sky};

mod client;
mod protocol;
mod server;
mod table;
#[cfg(test)]
mod tests;

pub use client::{ClientError, ask, run};
pub use protocol::{MAX_LINE, Request, answer};
pub use server::ControlSocket;

/// How long traps may take to be set. Looking through a guest's kernel takes milliseconds, and a second when emulated.
const ARM_PATIENCE: Duration = Duration::from_secs(5);
const ARM_AGAIN: Duration = Duration::from_millis(10);

/// What can be asked for. [`Sky`] is the one that there is; tests have another.
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
}

impl Controls for Sky {
    fn add(&self, rule: &ProcessRule) -> sky::Result<u64> {
        self.add(rule)
    }

    fn remove(&self, what: Removal) -> sky::Result<usize> {
        self.remove(what)
    }

    fn list(&self) -> sky::Result<Listing> {
        self.list()
    }

    fn report(&self) -> Report {
        self.report()
    }

    fn detach(&self) -> sky::Result<()> {
        self.detach()
    }

    fn arm(&self) -> sky::Result<()> {
        self.arm();
        // Nobody says when it is done, or that it failed. With several virtual CPUs the list may overtake it.
        let started = Instant::now();
        loop {
            match self.list() {
                Err(sky::Error::NotArmed) if started.elapsed() < ARM_PATIENCE => sleep(ARM_AGAIN),
                result => return result.map(drop),
            }
        }
    }
}
