//! Why a machine could not be built or run, in the words that the user reads.

use std::io;

use sky_devices::block;
use sky_devices::virtio::blk::SpecError;

use crate::boot::BootError;
use crate::check::Report;
use crate::config::{ConfigError, format_size};
use crate::exit;

/// Result of building or running a machine.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure of the host or the configuration; what a guest does wrong is an [`ExitReason`](crate::exit::ExitReason).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Kernel or initial RAM disk could not be loaded.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// `/dev/kvm` cannot run guests.
    #[error("{}", .0.advice)]
    Unusable(Box<Report>),
    /// A request to KVM failed.
    #[error("{operation} failed: {source}")]
    Kvm {
        /// The request.
        operation: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Something else of the host failed.
    #[error("{operation}: {source}")]
    Io {
        /// What was being done.
        operation: String,
        /// Why.
        source: io::Error,
    },
    /// The guest's memory could not be mapped.
    #[error("cannot map {} of memory for the guest: {reason}", format_size(*size))]
    Memory {
        /// How much.
        size: u64,
        /// Why.
        reason: String,
    },
    /// A disk could not be opened or closed.
    #[error("disk: {0}")]
    Disk(#[from] block::Error),
    /// A disk cannot be offered as configured.
    #[error("disk {path}: {source}")]
    DiskSpec {
        /// File of the disk.
        path: String,
        /// Why.
        source: SpecError,
    },
    /// The extension that was embedded failed.
    #[error("{0}")]
    Extension(Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// For `map_err` of a KVM request.
    pub(crate) fn kvm(operation: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |error| Self::Kvm { operation, source: io::Error::from_raw_os_error(error.errno()) }
    }

    /// For something that only a mistake in this program can cause.
    pub(crate) fn internal(operation: &str, reason: impl std::fmt::Display) -> Self {
        Self::Io { operation: operation.to_owned(), source: io::Error::other(reason.to_string()) }
    }

    /// For `map_err` of an operation of the host.
    pub(crate) fn io(operation: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation: operation.into(), source }
    }

    /// The status that the process ends with.
    #[must_use]
    pub fn status(&self) -> u8 {
        match self {
            Self::Unusable(_) => exit::STATUS_UNUSABLE,
            _ => exit::STATUS_ERROR,
        }
    }
}
