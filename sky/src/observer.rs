//! Who wants to know of system calls, and what they are told.
//!
//! An [`Observer`] names the calls that it wants, by number, and is told of each when it is entered and when it has
//! returned. Calls that nobody wants cost less: their return is not stopped. While an observer is being told, the
//! thread that makes the call stands still and its memory can be read.
//!
//! An observer that needs to know more than memory tells answers with an [`Inquiry`]: a future in which it may let
//! the thread make [insight-calls](crate::call) before it goes on.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use crate::call::Thread;
use crate::guest::{Gva, Linux, View};
use crate::syscall::{Outcome, RawCall};

/// System calls by number.
#[derive(Clone, PartialEq, Eq)]
pub struct CallSet {
    numbered: Box<[bool; Self::SIZE]>,
    /// All numbers beyond.
    others: bool,
}

impl CallSet {
    /// Numbers from here on are not told apart: Linux has no such calls.
    pub const SIZE: usize = 512;

    /// Every number there is.
    #[must_use]
    pub fn all() -> Self {
        Self { numbered: Box::new([true; Self::SIZE]), others: true }
    }

    /// No call.
    #[must_use]
    pub fn none() -> Self {
        Self { numbered: Box::new([false; Self::SIZE]), others: false }
    }

    /// Whether a call is in it.
    #[must_use]
    pub fn contains(&self, number: u64) -> bool {
        let numbered = usize::try_from(number).ok().and_then(|number| self.numbered.get(number));
        numbered.copied().unwrap_or(self.others)
    }
}

/// Numbers from [`CallSet::SIZE`] on are left out.
impl FromIterator<u64> for CallSet {
    fn from_iter<I: IntoIterator<Item = u64>>(numbers: I) -> Self {
        let mut set = Self::none();
        for number in numbers {
            if let Some(place) = usize::try_from(number).ok().and_then(|number| set.numbered.get_mut(number))
            {
                *place = true;
            }
        }
        set
    }
}

impl fmt::Debug for CallSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wanted = self.numbered.iter().enumerate().filter(|(_, wanted)| **wanted);
        f.debug_set()
            .entries(wanted.map(|(number, _)| number))
            .entries(self.others.then_some("others"))
            .finish()
    }
}

/// A system call on its way; no two of one virtual machine have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// A system call of a monitored thread that stands still.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// Which one.
    pub id: CallId,
    /// Process id in the initial namespace.
    pub pid: u32,
    /// Thread id in the initial namespace.
    pub tid: u32,
    /// Virtual CPU it is on now.
    pub vcpu: u32,
    /// Number and arguments, as they were when the call was entered.
    pub raw: RawCall,
    /// The thread's `task_struct`.
    pub task: Gva,
    /// Its memory, the kernel's included.
    pub view: View<'a>,
    /// What the kernel keeps where.
    pub linux: &'a Linux,
    pub(crate) thread: &'a dyn Fn() -> Thread,
}

impl Call<'_> {
    /// A handle for an [`Inquiry`].
    #[must_use]
    pub fn thread(&self) -> Thread {
        (self.thread)()
    }
}

impl fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("id", &self.id)
            .field("pid", &self.pid)
            .field("tid", &self.tid)
            .field("vcpu", &self.vcpu)
            .field("raw", &self.raw)
            .finish_non_exhaustive()
    }
}

/// What an observer wants to find out before the thread goes on.
pub type Inquiry = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Something that happened to a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessEvent {
    /// It is monitored from now on; also told when a monitored process has executed another program.
    Begins {
        /// Process id in the initial namespace.
        pid: u32,
        /// File name of its executable.
        executable: String,
    },
    /// It has ended, or is no longer monitored.
    Ends {
        /// Process id in the initial namespace.
        pid: u32,
    },
}

/// Somebody who wants to know of system calls. Methods are called on the threads of virtual CPUs, of several at the
/// same time, while the guest's thread stands still: they must be quick and must not wait for the guest.
pub trait Observer: Send + Sync {
    /// The calls that it wants.
    fn wants(&self) -> CallSet;

    /// A call is about to be made.
    fn entered(&self, call: &Call<'_>) -> Option<Inquiry> {
        let _ = call;
        None
    }

    /// A call has come back, on whatever virtual CPU. Calls that [never return](RawCall::returns) do not.
    fn returned(&self, call: &Call<'_>, outcome: Outcome) -> Option<Inquiry> {
        let _ = (call, outcome);
        None
    }

    /// A call that was entered will not come back: its thread ended inside.
    fn abandoned(&self, id: CallId) {
        let _ = id;
    }

    /// A process begins or ends to be monitored.
    fn process(&self, event: &ProcessEvent) {
        let _ = event;
    }
}
