//! A way to stop the guest at an address of its kernel.

use std::fmt;

use kvm_bindings::kvm_regs;

use crate::Result;
use crate::guest::{Gva, View};

/// What a stop means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StopKind {
    /// The first instructions of the guest's handler for invalid opcodes.
    InvalidOpcode,
    /// Behind the call of the system-call dispatcher; RSP points at the thread's saved registers.
    Returned,
    /// Behind a write of CR3 whose value is in RDI.
    SwitchedSpace,
}

/// How the guest goes on behind a site as though it had not been stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// The instruction does nothing.
    Nop,
    /// `clac`: clears RFLAGS.AC.
    Clac,
    /// `push` of this value.
    Push(u64),
    /// Whoever handles the stop always sends the guest elsewhere.
    Never,
}

/// A place to stop at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// Address of the instruction.
    pub at: Gva,
    /// Length of the instruction in bytes, 2 or more.
    pub length: u8,
    /// What a stop there means.
    pub kind: StopKind,
    /// How to go on.
    pub skip: Skip,
}

/// A way to stop the guest at [`Site`]s. Implementers differ in what the guest can see and in how many sites there
/// may be.
pub trait Mechanism: Send + fmt::Debug {
    /// Its name in configuration files and reports.
    fn name(&self) -> &'static str;

    /// Begins to stop at `site`; does nothing if it already does.
    ///
    /// # Errors
    /// The site is not mapped, or cannot be written.
    fn arm(&mut self, view: &View<'_>, site: &Site) -> Result<()>;

    /// No longer stops at the site at `at`; does nothing if it did not. The site stays known: a stop may be pending.
    ///
    /// # Errors
    /// The site cannot be written.
    fn disarm(&mut self, view: &View<'_>, at: Gva) -> Result<()>;

    /// The site at which the guest stands, if it is one of ours.
    fn site(&self, rip: u64) -> Option<Site>;

    /// Makes the guest go on behind `site` as though it had not been stopped.
    ///
    /// # Errors
    /// The instruction needs guest memory that is not there.
    fn resume(&self, view: &View<'_>, site: &Site, regs: &mut kvm_regs) -> Result<()>;
}
