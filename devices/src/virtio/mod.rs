//! Virtio devices and the way a guest reaches them, after the Virtual I/O Device specification, version 1.2.
//!
//! ```text
//!   vCPU ──registers──▶ mmio::MmioTransport ──activate──▶ VirtioDevice ──▶ one worker per queue
//!     ▲                        │                                                │
//!     └──────────── irq ── Interrupt ◀──────────────────────────────────────────┘
//! ```
//!
//! The transport owns the registers and builds the queues; a [`VirtioDevice`] owns what happens to requests. They meet
//! at one call, [`VirtioDevice::activate`]. Every number that comes from the guest is checked before it is used.

pub mod blk;
mod device;
mod interrupt;
pub mod mmio;

pub use device::{Activation, ActiveQueue, Memory, VirtioDevice};
pub use interrupt::Interrupt;
