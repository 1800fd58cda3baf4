//! The program sky-img against QEMU's qemu-img and the kernel.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod bench;
mod compare;
mod convert;
mod errors;
mod harness;
mod layers;
mod map;
mod qcow2;
mod raw;
mod selfie;
