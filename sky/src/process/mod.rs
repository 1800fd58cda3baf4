//! Whose system calls these are: rules for processes, address spaces, and calls that have not returned yet.

mod calls;
mod rules;
mod spaces;

pub use calls::{Outstanding, Pending};
pub(crate) use rules::{Facts, Rule};
pub use rules::{Parent, ProcessRule};
pub use spaces::{Monitored, Space, Spaces};
