//! How a run can end, and what the process tells its parent about it.

use std::fmt;

/// The configuration or the host is at fault: nothing ran, or a disk could not be flushed.
pub const STATUS_ERROR: u8 = 1;
/// This `/dev/kvm` cannot run guests.
pub const STATUS_UNUSABLE: u8 = 5;

/// The table of exit statuses for the help text.
pub const STATUS_TABLE: &str = "\
Exit status:
  0    the guest powered off or rebooted (a reboot ends the run, it does not start again)
  1    a mistake in the configuration, or an error of the host
  2    a mistake on the command line
  3    the guest triple-faulted
  4    KVM could not go on with the guest (internal error)
  5    this /dev/kvm cannot run guests
  129  ended by SIGHUP
  130  ended by SIGINT, or by Ctrl-A x on the console
  131  ended by SIGQUIT
  143  ended by SIGTERM";

/// The same for `sky-vmm monitor`.
pub const MONITOR_STATUS_TABLE: &str = "\
Exit status:
  0    it was done
  1    it was not: nobody listens, or the request was refused
  2    a mistake on the command line";

/// Why a guest runs no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// The guest switched itself off.
    PowerOff,
    /// The guest wanted to reboot.
    Reset,
    /// A fault while delivering a fault while delivering a fault.
    TripleFault {
        /// The vCPU that did it.
        vcpu: u32,
    },
    /// KVM, or what is embedded in the VMM, cannot go on.
    Internal {
        /// What happened and where.
        message: String,
    },
    /// The user or the host ended the run.
    Signal(i32),
}

impl ExitReason {
    /// One word for programs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::PowerOff => "poweroff",
            Self::Reset => "reset",
            Self::TripleFault { .. } => "triple-fault",
            Self::Internal { .. } => "internal-error",
            Self::Signal(_) => "signal",
        }
    }

    /// The status that the process ends with.
    #[must_use]
    pub fn status(&self) -> u8 {
        match self {
            Self::PowerOff | Self::Reset => 0,
            Self::TripleFault { .. } => 3,
            Self::Internal { .. } => 4,
            Self::Signal(number) => u8::try_from(128 + number).unwrap_or(u8::MAX),
        }
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => f.write_str("the guest powered off"),
            Self::Reset => f.write_str("the guest rebooted, which ends the run"),
            Self::TripleFault { vcpu } => {
                write!(f, "the guest triple-faulted on vCPU {vcpu}: it could not even handle its own fault")
            }
            Self::Internal { message } => f.write_str(message),
            Self::Signal(number) => write!(f, "ended by signal {number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_is_in_the_table() {
        let reasons = [
            ExitReason::PowerOff,
            ExitReason::Reset,
            ExitReason::TripleFault { vcpu: 0 },
            ExitReason::Internal { message: String::new() },
            ExitReason::Signal(libc::SIGHUP),
            ExitReason::Signal(libc::SIGINT),
            ExitReason::Signal(libc::SIGQUIT),
            ExitReason::Signal(libc::SIGTERM),
        ];
        let statuses = reasons.iter().map(ExitReason::status).chain([STATUS_ERROR, STATUS_UNUSABLE]);
        for status in statuses {
            assert!(STATUS_TABLE.contains(&format!("\n  {status} ")), "{status}");
        }
    }
}
