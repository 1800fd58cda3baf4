//! A minimal virtual machine monitor on KVM, and the example of how to embed Sky.
//!
//! ```text
//!   cli, config ──▶ machine ──▶ one thread per vCPU ──▶ bus ──▶ console, sky_devices
//!                   │  │  │          │
//!            boot ──┘  │  └── acpi   └── vcpu::hook: the seam for what is embedded
//!               check ─┘  (can this /dev/kvm run guests at all?)
//! ```
//!
//! [`machine::Machine`] is where to begin reading; [`vcpu::hook`] is where to begin embedding.

pub mod acpi;
pub mod block_log;
pub mod boot;
pub mod bus;
pub mod check;
pub mod cli;
pub mod config;
pub mod console;
pub mod control;
pub mod error;
pub mod exit;
pub mod machine;
pub mod monitor;
pub mod periodic;
pub mod stats;
pub mod vcpu;
