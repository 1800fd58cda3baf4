//! Insight-calls: system calls that a stopped thread makes for us, in its own context, and that leave no trace.
//!
//! ```text
//!   thread enters openat ─▶ [observer asks] ─▶ fstat ─▶ getcwd ─▶ openat ─▶ [asks again] ─▶ fstat ─▶ thread goes on
//! ```
//!
//! An observer's [`Inquiry`](crate::observer::Inquiry) awaits [`Thread::call`]; each answer comes when the guest's
//! kernel has given it. Further calls are made from behind the first, without going back to user mode in between. The
//! thread's registers are put back, and so are the bytes below its red zone that results were written to.
//!
//! Only calls that change nothing can be made. Where somebody in the guest would notice (a tracer, a seccomp filter,
//! an audit rule) none is made. A signal that arrives meanwhile finds the thread as if no call had been made for us:
//! the frame that the kernel built for the handler is corrected, and the call is tried again a few times.

mod calls;
mod frame;
mod scratch;
mod thread;

pub use calls::{
    Fcntl, Fd, Fstat, Getcwd, Getpid, Gettid, InsightCall, Lseek, Newfstatat, Pread64, Readlinkat, Stat,
};
pub(crate) use frame::Frames;
pub(crate) use scratch::Scratch;
pub(crate) use thread::Request;
pub use thread::{Refused, Thread};
