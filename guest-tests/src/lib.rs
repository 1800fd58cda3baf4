//! What runs in guests, the lab they run in, and the tests that need them.
//!
//! See the modules for details.

pub mod cache;
pub mod command;
pub mod disk;
pub mod e2e;
pub mod error;
pub mod guest;
pub mod initramfs;
pub mod lab;
pub mod modules;
pub mod packages;
pub mod paths;
pub mod pattern;
pub mod place;
pub mod programs;
pub mod progress;
pub mod results;
pub mod workload;

pub use e2e::e2e;
pub use error::{Error, Result};
