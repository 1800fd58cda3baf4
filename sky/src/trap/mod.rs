//! Stopping a guest at its system calls, on stock KVM.
//!
//! ```text
//!   guest process          guest kernel                        Sky
//!   SYSCALL, SCE=0 ─#UD─▶ IDT gate 6 ──stop──▶ [sce] looks at RAX.., goes on at LSTAR
//!                          LSTAR path ─▶ do_syscall_64
//!                          behind the call ──stop──▶ [sce] looks at the result, goes on at the IRET path
//!   ◀────────────IRET──────┘
//!                          switch_mm writes CR3 ──stop──▶ [sce] sets EFER.SCE for the process that comes
//! ```
//!
//! [`sites`] finds the three places in the running kernel, a [`Mechanism`] stops the guest there, [`sce`] is what
//! happens at each stop. `SYSRET` must never run while SCE is clear, so calls that were trapped leave by IRET: the
//! flags that the guest kernel saves carry RF, and Linux itself takes the IRET path for those.

mod cpu;
mod efer;
mod mechanism;
mod port;
pub mod sce;
pub mod sites;

pub use cpu::{Cpu, KvmCpu};
pub use efer::{EFER, Efer, hide};
pub use mechanism::{Mechanism, Site, Skip, StopKind};
pub use port::PortTraps;
