//! Failures on order.

use std::io;

/// Which operations a fault meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultOn {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Syncs.
    Sync,
    /// Holes.
    Punch,
    /// Growth.
    Grow,
    /// Whatever changes the disk: writes, syncs, holes and growth.
    AnyChange,
}

/// What a fault answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// No space is left (`ENOSPC`).
    NoSpace,
    /// The medium failed (`EIO`).
    Io,
}

/// A failure to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fault {
    /// What fails.
    pub on: FaultOn,
    /// How many of these succeed before.
    pub after: u64,
    /// What the failing one answers.
    pub kind: FaultKind,
    /// All further ones fail too.
    pub lasting: bool,
    /// A failing write leaves every second of its atomic parts written.
    pub partial: bool,
}

/// A [`Fault`] and how far off it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct ArmedFault {
    fault: Fault,
    /// Operations that still succeed; nothing when the fault is spent.
    remaining: Option<u64>,
}

impl ArmedFault {
    pub(super) fn new(fault: Fault) -> Self {
        Self { fault, remaining: Some(fault.after) }
    }

    /// Tells the fault of an operation. Answers the failure if it is this one's turn.
    pub(super) fn meet(&mut self, on: FaultOn) -> Option<Fault> {
        if self.fault.on != on && (self.fault.on != FaultOn::AnyChange || on == FaultOn::Read) {
            return None;
        }
        match self.remaining? {
            0 => {
                self.remaining = self.fault.lasting.then_some(0);
                Some(self.fault)
            }
            more => {
                self.remaining = Some(more - 1);
                None
            }
        }
    }
}

impl Fault {
    /// The error that a system call would have answered.
    pub(super) fn error(&self) -> io::Error {
        io::Error::from_raw_os_error(match self.kind {
            FaultKind::NoSpace => libc::ENOSPC,
            FaultKind::Io => libc::EIO,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failures(on: FaultOn, lasting: bool, met: &[FaultOn]) -> Vec<usize> {
        let fault = Fault { on, after: 1, kind: FaultKind::Io, lasting, partial: false };
        let mut armed = ArmedFault::new(fault);
        (0..met.len()).filter(|&index| armed.meet(met[index]).is_some()).collect()
    }

    #[test]
    fn meets_its_own_and_comes_in_time() {
        let met = [FaultOn::Write, FaultOn::Read, FaultOn::Sync, FaultOn::Write, FaultOn::Write];
        assert_eq!(failures(FaultOn::Write, false, &met), [3]);
        assert_eq!(failures(FaultOn::Write, true, &met), [3, 4]);
        assert_eq!(failures(FaultOn::AnyChange, false, &met), [2]);
        assert!(failures(FaultOn::Read, false, &met[2..]).is_empty());
    }
}
