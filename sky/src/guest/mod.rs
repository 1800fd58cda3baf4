//! Reading a stopped guest: addresses, page tables, and what a Linux kernel keeps where.
//!
//! Nothing here changes the guest, and nothing here trusts it: every pointer that is followed came out of guest
//! memory, so each step is bounded and each failure is an [`Error`](crate::Error), never a panic.

pub mod btf;
mod kernel;
mod linux;
mod paging;

pub use kernel::KernelImage;
pub(crate) use linux::PageOwners;
pub use linux::{CachedBlock, Fate, Linux, OpenFile, Process, Submissions, Thread};
pub use paging::{Gpa, Gva, Mapping, View};
