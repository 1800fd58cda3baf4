//! How a system call ended.

use std::fmt;

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::errno::{errno_name, message};
use super::signature::ResultKind;
use super::value::write_mode;

/// The largest error number a system call can return (`MAX_ERRNO`, `include/linux/err.h`).
const MAX_ERRNO: i64 = 4095;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It returned: a value, or `-errno` if it lies in -4095..=-1.
    Returned(i64),
    /// The kernel will make the call again, after a signal perhaps: `-ERESTART*`, which user space never sees.
    Restarts,
    /// Nobody saw it.
    Unknown,
}

impl Outcome {
    /// From RAX where the kernel's dispatcher has just returned, before signals are handled.
    #[must_use]
    pub fn from_register(rax: u64) -> Self {
        match rax.cast_signed() {
            // ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK: include/linux/errno.h.
            -514..=-512 | -516 => Self::Restarts,
            value => Self::Returned(value),
        }
    }

    /// What a call that succeeded returned.
    #[must_use]
    pub fn value(self) -> Option<i64> {
        match self {
            Self::Returned(value) if !(-MAX_ERRNO..0).contains(&value) => Some(value),
            _ => None,
        }
    }

    /// The error of a call that failed, as a positive number.
    #[must_use]
    pub fn errno(self) -> Option<i64> {
        match self {
            Self::Returned(value) if (-MAX_ERRNO..0).contains(&value) => Some(-value),
            _ => None,
        }
    }

    /// Writes ` = 3`, ` = -1 ENOENT (No such file or directory)`, ` = ?`.
    pub(super) fn write(self, f: &mut fmt::Formatter<'_>, kind: ResultKind) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str(" = ?"),
            Self::Restarts => f.write_str(" = ? (to be restarted)"),
            Self::Returned(value) => match (self.errno(), kind) {
                (Some(errno), _) => match errno_name(errno) {
                    Some(name) => write!(f, " = -1 {name} ({})", message(errno)),
                    None => write!(f, " = -1 (errno {errno})"),
                },
                (None, ResultKind::Number) => write!(f, " = {value}"),
                (None, ResultKind::Address) => write!(f, " = {value:#x}"),
                (None, ResultKind::Mode) => {
                    f.write_str(" = ")?;
                    // The kernel's masks have 9 bits (`umask`, kernel/sys.c).
                    write_mode(f, u32::try_from(value & 0o777).unwrap_or(0))
                }
            },
        }
    }
}

/// `{"value":3}`, `{"value":-2,"errno":"ENOENT"}`, `"restarts"` or `"unknown"`.
impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::Unknown => serializer.serialize_str("unknown"),
            Self::Restarts => serializer.serialize_str("restarts"),
            Self::Returned(value) => {
                let mut map = serializer.serialize_map(None)?;
                map.serialize_entry("value", &value)?;
                if let Some(name) = self.errno().and_then(errno_name) {
                    map.serialize_entry("errno", name)?;
                }
                map.end()
            }
        }
    }
}
