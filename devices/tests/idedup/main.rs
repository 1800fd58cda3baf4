//! iDedup against plain memory: with equal blocks, colliding fingerprints, threads and hints, and images of any bytes.
//! What is left after a power failure is tried in `tests/crash`.
//!
//! `SKY_NIGHTLY=1` tries a hundred times as many.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod any_bytes;
mod collect;
mod disk;
mod hints;
#[path = "../any_bytes/memory.rs"]
mod memory;
mod model;
mod opening;
mod space;
mod together;
