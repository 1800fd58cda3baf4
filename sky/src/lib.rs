//! Sky: lets a KVM hypervisor know what its guests' disk I/O means, without touching the guest.
//!
//! A virtual machine monitor built on rust-vmm embeds it with a handful of calls:
//!
//! ```text
//!   Config::load(FILE)                  which processes, how
//!   Sky::with_observers(config, ..)     one per virtual machine; who wants to know of which calls
//!   sky.attach(&vm, memory, n, kick)    before the guest runs
//!   sky.classifier(disk)                for each disk: what does this block mean?
//!   sky.arm()                           when the guest has booted: its disk driver is ready
//!   sky.vcpu(index)                     the virtual CPU's part, lives on its thread
//!     vcpu.before_run(..)               before every KVM_RUN
//!     vcpu.port_exit(..), debug_exit(..)   on KVM_EXIT_IO of Sky's port, on KVM_EXIT_DEBUG
//!     vcpu.rdmsr(..), wrmsr(..)         on KVM_EXIT_X86_RDMSR, WRMSR
//!   sky.add(..), remove(..), list()     while the guest runs
//!   sky.report()                        what was seen
//! ```
//!
//! `sky/examples/embed.rs` is such a monitor, complete and small; `docs/embedding.md` says what Sky needs of a virtual
//! machine, which threads may call what, and what the guest can see.
//!
//! From the bottom up: [`guest`] reads a stopped guest, [`trap`] stops it at its system calls, [`process`] knows
//! whose calls they are, [`syscall`] what they are, [`observer`] tells whoever wants to know, who may ask more with
//! [`call`]; [`trace`] writes them down, and [`insight`] turns them into the meaning of disk blocks. The idea is that of *Improving Virtualized
//! Storage Performance with Sky* (Arulraj, Arpaci-Dusseau, Arpaci-Dusseau; VEE '17).

pub mod call;
pub mod config;
mod error;
pub mod guest;
pub mod insight;
mod metrics;
pub mod observer;
pub mod process;
mod report;
mod sky;
pub mod syscall;
pub mod trace;
pub mod trap;

pub use config::Config;
pub use error::{Error, Result};
pub use report::{CallCount, Report, Stops, Summary};
pub use sky::{ListedProcess, Listing, Sky};
pub use trap::engine::{Removal, Vcpu};
