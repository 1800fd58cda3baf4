//! What can be wrong with a kernel or an initial RAM disk, in the words that the user reads.

use std::io;
use std::path::{Path, PathBuf};

use linux_loader::loader;

use crate::config::format_size;

/// Result of loading.
pub type Result<T> = std::result::Result<T, BootError>;

/// Something cannot be booted.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file cannot be opened or read.
    #[error("cannot read {what} {}: {source}", path.display())]
    Read {
        /// Kernel or initial RAM disk.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is something else.
    #[error("{} is not a Linux kernel: neither a bzImage nor an ELF vmlinux for x86-64", path.display())]
    NotAKernel {
        /// The file.
        path: PathBuf,
    },
    /// The file ends too early.
    #[error("kernel {} is truncated: {have} of {need} bytes are there", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes that its headers speak of.
        need: u64,
        /// Bytes that it has.
        have: u64,
    },
    /// A kernel that has no 64-bit entry.
    #[error("kernel {} cannot be entered in 64-bit mode", path.display())]
    Not64Bit {
        /// The file.
        path: PathBuf,
    },
    /// The guest has too little memory for it.
    #[error(
        "{what} does not fit: it needs memory up to {}, the guest has {} below its 32-bit device area",
        format_size(need.checked_next_multiple_of(1 << 20).unwrap_or(*need)), format_size(*have)
    )]
    DoesNotFit {
        /// Kernel or initial RAM disk.
        what: &'static str,
        /// The address that memory would have to reach.
        need: u64,
        /// The address that it reaches.
        have: u64,
    },
    /// A command line longer than the kernel takes.
    #[error("the kernel's command line has {length} bytes; this kernel takes {most}")]
    CmdlineTooLong {
        /// Bytes that it has.
        length: usize,
        /// Bytes that it may have.
        most: u64,
    },
    /// The loader found something that the checks before it did not.
    #[error("cannot load kernel {}: {source}", path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// Why.
        source: loader::Error,
    },
    /// A structure could not be written where it belongs.
    #[error("cannot write {what} to guest memory: {reason}")]
    Memory {
        /// The structure.
        what: &'static str,
        /// Why.
        reason: String,
    },
}

impl BootError {
    pub(super) fn memory<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Memory { what, reason: error.to_string() }
    }

    pub(super) fn read(what: &'static str, path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::Read { what, path: path.to_owned(), source }
    }
}
