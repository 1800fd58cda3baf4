//! Whose system calls these are: address spaces, and calls that have not returned yet.

mod calls;
mod spaces;

pub use calls::{Outstanding, Pending};
pub use spaces::{Space, Spaces};
