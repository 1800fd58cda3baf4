//! One virtual CPU: how it starts, how it runs, how it is stopped.

pub mod kick;
pub mod msr;
