//! Every 64-bit Linux system call by its name, with its arguments for people and for programs.
//!
//! ```text
//!   RawCall            number and registers, as the trap finds them
//!     signature()      name and typed arguments: the table, Linux 6.12
//!     hint()           what the program says about the data
//!   decode(..)         at entry: strings, buffers and structures for the kernel are read from the guest
//!   Decoded            written as strace does, or as JSON
//!     returned(..)     at return: what the kernel stored is read, too
//! ```
//!
//! Numbers and names come from the `syscalls` crate, types from the table here. Nothing here needs KVM: memory is read
//! through a [`View`](crate::guest::View). All of it is the guest's and can lie. Each length is bounded by [`Limits`];
//! what cannot be read is shown as absent.

mod decode;
mod decoded;
mod errno;
pub mod flags;
mod hint;
mod layout;
mod memory;
mod outcome;
mod signature;
mod sockaddr;
mod table;
#[cfg(test)]
mod tests;
mod value;

pub use decode::{Limits, Moment, decode};
pub use decoded::{Decoded, Line};
pub use errno::errno_name;
pub use hint::{HINT_MAGIC, Hint};
pub use outcome::Outcome;
pub use signature::{Argument, Kind, Layout, ResultKind, Signature};
pub use value::Value;

/// A system call as the registers hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawCall {
    /// RAX. The kernel looks at its low half only (`do_syscall_64` takes an `int`).
    pub number: u64,
    /// RDI, RSI, RDX, R10, R8, R9.
    pub args: [u64; 6],
}

impl RawCall {
    /// The number that the kernel looks at.
    fn id(&self) -> u64 {
        self.number & 0xffff_ffff
    }

    /// Its name in the system-call table; `None` for a number that is not in it.
    #[must_use]
    pub fn name(&self) -> Option<&'static str> {
        syscalls::Sysno::new(usize::try_from(self.id()).ok()?).map(|number| number.name())
    }

    /// What it takes. Newer calls than the table may have a [`name`](Self::name) but no signature.
    #[must_use]
    pub fn signature(&self) -> Option<&'static Signature> {
        table::find(self.id())
    }

    /// The hint that it carries.
    #[must_use]
    pub fn hint(&self) -> Option<Hint> {
        hint::find(self.id(), &self.args)
    }

    /// Whether it comes back to its caller, if all goes well: not `exit` and `exit_group`.
    #[must_use]
    pub fn returns(&self) -> bool {
        !matches!(self.id(), 60 | 231)
    }
}
