//! Ending a machine: the first reason counts, everybody hears of it.

use std::io;
use std::sync::OnceLock;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::exit::ExitReason;

/// Shared by the main thread and all vCPU threads.
#[derive(Debug)]
pub struct Control {
    reason: OnceLock<ExitReason>,
    event: EventFd,
}

impl Control {
    /// For a machine that runs.
    ///
    /// # Errors
    /// No more eventfds.
    pub fn new() -> io::Result<Self> {
        Ok(Self { reason: OnceLock::new(), event: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)? })
    }

    /// Ends the machine. Only the first reason is kept.
    pub fn end(&self, reason: ExitReason) {
        if self.reason.set(reason).is_ok() {
            // It cannot be full: this is the only write.
            let _ = self.event.write(1);
        }
    }

    /// Whether the machine shall run no longer. Cheap enough for every exit of a vCPU.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.reason.get().is_some()
    }

    /// Why the machine shall run no longer.
    #[must_use]
    pub fn reason(&self) -> Option<&ExitReason> {
        self.reason.get()
    }

    /// Readable when the machine shall run no longer.
    #[must_use]
    pub fn event(&self) -> &EventFd {
        &self.event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_counts() {
        let control = Control::new().unwrap();
        assert!(!control.is_ending() && control.event().read().is_err());
        control.end(ExitReason::PowerOff);
        control.end(ExitReason::Reset);
        assert_eq!(control.reason(), Some(&ExitReason::PowerOff));
        assert_eq!(control.event().read().unwrap(), 1);
    }
}
