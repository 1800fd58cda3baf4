//! What is left after a power failure: random workloads on image formats over a simulated disk, and every kind of crash
//! state at every moment of them.
//!
//! Flushed data reads back; a sector whose last write was not flushed holds what it held at the last flush or something
//! written to it since, and never anything else: not another sector's bytes, not zeros in place of the parent's. That
//! has to hold after a crash, after a second one during or after the recovery from the first, and after errors of the
//! medium.
//!
//! - `SKY_NIGHTLY=1` tries some hundred times as many states, with `SKY_SEEDS=0..100` those of these workloads.
//! - `SKY_CRASH=CASE`, with a case as a failure prints it, repeats that case alone: `cargo test --test crash replay`.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]
#![allow(clippy::cast_possible_truncation, reason = "test patterns want the low bits, sizes here are small")]

mod case;
mod content;
mod explore;
mod idedup;
mod life;
mod model;
mod qcow2;
mod raw;
mod selfie;
mod subject;
mod tests;
mod together;
mod toy;
mod workload;
