//! Storage for virtual machines: what a block request is, what it means, and everything that serves one.
//!
//! ```text
//!   guest ──virtio──▶ virtio::blk ──(asks)──▶ io_class::Classifier
//!                         │
//!                         ▼  request + one IoTag per 4 KiB block
//!                  block::BlockDevice            what every layer is: layers::Stack puts them together
//!                         │
//!           icache ──▶ idedup ──▶ image          a fast tier, equal blocks once, raw file or selfie
//! ```
//!
//! This crate knows no KVM: it is built and tested anywhere.

pub mod block;
pub mod icache;
pub mod idedup;
pub mod image;
pub mod io_class;
pub mod layers;
pub mod policy;
pub mod selfie;
pub mod virtio;
