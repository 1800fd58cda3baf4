//! The virtio path from the guest's side: a small driver sets up a device through its registers and sends requests.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]
#![allow(clippy::cast_possible_truncation, reason = "test patterns want the low bits, sizes here are small")]

mod driver;
mod hostile_chains;
mod hostile_registers;
mod lifecycle;
mod model;
mod oracle;
mod requests;
