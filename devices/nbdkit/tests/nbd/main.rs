//! The plugin in nbdkit, used by other people's clients and by one of our own that says exactly what it wants.
//!
//! nbdkit, fio, libnbd's programs and qemu-utils are installed if they are missing.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]
#![allow(clippy::cast_possible_truncation, reason = "sizes here are small")]

mod client;
mod clients;
mod crash;
mod protocol;
mod server;
mod tools;
