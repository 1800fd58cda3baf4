//! What can go wrong while a guest is watched.

use crate::guest::Gva;

/// A failure of Sky. None of them harms the guest: it runs on, watched less or not at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A guest page is absent, or a page table points outside guest memory.
    #[error("guest address {:#x} is not mapped", .0.0)]
    NotMapped(Gva),
    /// A guest string has no end within the limit.
    #[error("the string at guest address {:#x} is too long", .0.0)]
    TooLong(Gva),
    /// The guest's type information is absent or malformed.
    #[error("guest BTF: {0}")]
    Btf(String),
    /// A place in the guest kernel where it must be stopped was not found.
    #[error("trap site not found: {site}: {reason}")]
    Site {
        /// Which site.
        site: &'static str,
        /// Why it was not found, or not accepted.
        reason: String,
    },
    /// A structure in guest memory does not look as a Linux kernel keeps it.
    #[error("guest kernel: {0}")]
    Kernel(&'static str),
    /// KVM refused an operation on the virtual CPU.
    #[error("KVM: {operation}: {source}")]
    Kvm {
        /// What was asked for.
        operation: &'static str,
        /// Its answer.
        source: kvm_ioctls::Error,
    },
    /// No virtual machine was attached.
    #[error("no virtual machine is attached")]
    NotAttached,
    /// No traps are set: the guest has not booted yet, or it cannot be watched.
    #[error("no traps are set in the guest")]
    NotArmed,
    /// No virtual CPU came by in time, or none ever stood at a good place.
    #[error("the guest did not come to a stop in time")]
    Busy,
    /// The monitoring configuration is wrong.
    #[error("{0}")]
    Config(String),
}

/// Result of everything here.
pub type Result<T> = std::result::Result<T, Error>;
