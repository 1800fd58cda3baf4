//! Sky: lets a KVM hypervisor know what its guests' disk I/O means, without touching the guest.
//!
//! A virtual machine monitor built on rust-vmm embeds it with a handful of calls:
//!
//! ```text
//!   Config::load(FILE)             which processes
//!   Sky::new(config)               one per virtual machine
//!   sky.classifier()               for the disks: what does this block mean?
//!   sky.hide(&vm)                  before the guest runs
//!   sky.vcpu(memory)               the virtual CPU's part, lives on its thread
//!     vcpu.arm_if_asked(..)        after each exit; Sky::arm asks, when the disk driver is ready
//!     vcpu.port_exit(..)           on KVM_EXIT_IO of Sky's port
//!     vcpu.rdmsr(..), wrmsr(..)    on KVM_EXIT_X86_RDMSR, WRMSR
//!   sky.report()                   what was seen
//! ```
//!
//! From the bottom up: [`guest`] reads a stopped guest, [`trap`] stops it at its system calls, [`process`] knows
//! whose calls they are, [`insight`] turns them into the meaning of disk blocks. The idea is that of *Improving
//! Virtualized Storage Performance with Sky* (Arulraj, Arpaci-Dusseau, Arpaci-Dusseau; VEE '17).

pub mod config;
mod error;
pub mod guest;
pub mod insight;
pub mod process;
mod report;
mod sky;
pub mod syscall;
pub mod trap;

pub use config::Config;
pub use error::{Error, Result};
pub use report::{CallCount, Report, Stops};
pub use sky::Sky;
