//! Stopping a guest at its system calls, on stock KVM.
//!
//! ```text
//!   guest process          guest kernel                        Sky
//!   SYSCALL, SCE=0 ─#UD─▶ IDT gate 6 ──stop──▶ [engine] looks at RAX.., goes on at the entry path
//!                          entry path ─▶ do_syscall_64
//!                          behind the call ──stop──▶ [engine] looks at the result
//!   ◀────────────IRET──────┘
//!                          switch_mm writes CR3 ──stop──▶ [engine] sets EFER.SCE for the process that comes
//! ```
//!
//! [`sites`] finds the places in the running kernel, a [`Mechanism`] stops the guest there, and [`engine`] is what
//! happens at each stop. There are two mechanisms, [`PortTraps`] and [`DebugTraps`], and two [`Engine`]s; they differ in
//! cost and in what the guest could see, not in what comes out.

mod compat;
mod cpu;
mod debug;
mod detour;
pub mod engine;
mod hidden;
mod mechanism;
mod port;
pub(crate) mod rendezvous;
pub mod sites;

use serde::{Deserialize, Serialize};

pub use compat::{Compat, CompatEntry};
pub use cpu::{Cpu, KvmCpu};
pub use debug::DebugTraps;
pub use detour::Detour;
pub use hidden::{CSTAR, EFER, Hidden, LSTAR, SYSENTER_EIP, hide};
pub use mechanism::{Mechanism, Plan, Site, Skip, StopKind, Watch, Ways};
pub use port::PortTraps;
pub use rendezvous::Kick;

/// How the calls of a monitored process come to a stop.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// `EFER.SCE` is clear, so SYSCALL faults: the paper's way. Three exits for a call whose return is stopped.
    #[default]
    Sce,
    /// SYSCALL works and leads to a stop: two exits. LSTAR, or a debug register, tells it from other processes' calls.
    Entry,
}

impl Engine {
    /// Its name in configuration files and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sce => "sce",
            Self::Entry => "entry",
        }
    }
}
