//! Why a command did not do what it was asked to.

use std::io;

use sky_devices::block::{Error, ErrorKind};
use thiserror::Error as ThisError;

pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// The exit status of a command that went its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome(pub(crate) u8);

impl Outcome {
    pub(crate) const DONE: Self = Self(0);
}

#[derive(Debug, ThisError)]
pub(crate) enum Failure {
    /// The command line makes no sense, though clap could not know.
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Image(#[from] Error),
    #[error("cannot {0}: {1}")]
    System(String, #[source] io::Error),
    #[error("{0}")]
    Refused(String),
}

impl Failure {
    /// The status to end with, if it is not simply the one for failures.
    pub(crate) fn status(&self) -> Option<u8> {
        match self {
            Self::Usage(_) => Some(2),
            Self::Image(error) if error.kind() == ErrorKind::Interrupted => Some(130),
            _ => None,
        }
    }

    /// What the user can do about it, where there is something.
    pub(crate) fn advice(&self) -> Option<&'static str> {
        let Self::Image(error) = self else { return None };
        match error.kind() {
            ErrorKind::Exists => Some("--force puts the new image in its place"),
            ErrorKind::Locked => Some("stop the machine or program that uses it first"),
            ErrorKind::NotThisFormat => Some("-f names the format that an image has"),
            _ => None,
        }
    }
}
