//! Guests, the lab that they run in, and the tests and benchmarks that need them; what runs in guests is in
//! `guest-programs`.
//!
//! ```text
//!   e2e, results, demo           what is tested, measured, shown
//!     ├─ guest, disk, pattern    a guest: its initramfs, its disk, what it writes there
//!     ├─ place ── lab            where it runs: here, or on an emulated machine with KVM
//!     │           bochs          another, with an Intel processor, for single commands
//!     └─ packages, programs      what all this is made of: Debian's kernels, our own programs
//! ```
//!
//! Nothing needs to be installed by hand: see [`packages`]. Everything that is fetched or made lies below the target
//! directory.

pub mod bochs;
pub mod cache;
pub mod command;
pub mod disk;
pub mod e2e;
pub mod error;
pub mod guest;
pub mod initramfs;
pub mod lab;
pub mod modules;
pub mod packages;
pub mod paths;
pub mod place;
pub mod programs;
pub mod progress;
pub mod results;
pub mod strace;

pub use guest_programs::{forms, operations, pattern, torture, workload};

pub use e2e::e2e;
pub use error::{Error, Result};
