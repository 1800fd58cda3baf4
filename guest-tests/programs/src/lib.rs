//! What runs in guests and as the lab's init, and what these programs share with the tests that run them.
//!
//! They are linked statically, so this package needs little: whatever it needs is built once more for them.

pub mod forms;
pub mod operations;
pub mod pattern;
pub mod protocol;
pub mod torture;
pub mod workload;
