//! What runs in guests, the lab they run in, and the tests that need them.
//!
//! See the modules for details.

pub mod cache;
pub mod command;
pub mod error;
pub mod initramfs;
pub mod lab;
pub mod modules;
pub mod packages;
pub mod paths;
pub mod place;
pub mod programs;
pub mod progress;

pub use error::{Error, Result};
