//! A way to stop the guest at an address of its kernel.

use std::fmt;

use kvm_bindings::kvm_regs;

use crate::Result;
use crate::guest::{Gva, View};
use crate::trap::sites::Sites;
use crate::trap::{Compat, CompatEntry, Cpu, Engine};

/// What a stop means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StopKind {
    /// The first instructions of the guest's handler for invalid opcodes.
    InvalidOpcode,
    /// The first instruction of a system call, in the state in which SYSCALL leaves the CPU.
    Entered,
    /// Behind the call of the system-call dispatcher; RSP points at the thread's saved registers.
    Returned,
    /// Behind a write of CR3 whose value is in RDI.
    SwitchedSpace,
    /// The first instruction of a 32-bit call of a process that may be monitored.
    Compat(CompatEntry),
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
    /// Length of the instruction in bytes; 0 where it does not matter because it is never overwritten.
    pub length: u8,
    /// What a stop there means.
    pub kind: StopKind,
    /// How to go on.
    pub skip: Skip,
}

/// What runs on a virtual CPU, as far as stops depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Watch {
    /// Nothing is to stop.
    #[default]
    Off,
    /// Process switches, and whatever comes to the handler for invalid opcodes.
    Switches,
    /// Also the system calls of the process that runs now.
    Calls,
}

/// Where a system call goes on that was stopped at its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ways {
    /// For a call whose return is to be stopped.
    pub followed: Gva,
    /// For any other.
    pub passed: Gva,
    /// The call of the dispatcher, for a call that is made from behind another: RDI points at the saved registers,
    /// RSI is the number.
    pub again: Gva,
}

/// A way to stop the guest at the sites of [`Sites`]. Implementers differ in what the guest can see.
pub trait Mechanism: Send + Sync + fmt::Debug {
    /// Its name in configuration files and reports.
    fn name(&self) -> &'static str;

    /// Where stopped calls go on.
    fn ways(&self) -> Ways;

    /// Writes into guest memory what has to be there. Every virtual CPU stands still.
    ///
    /// # Errors
    /// A site is not mapped; then nothing is left behind.
    fn install(&self, view: &View<'_>) -> Result<()>;

    /// Takes out of guest memory what [`install`](Self::install) put there, except what [`Mechanism::clear`] does.
    /// Every virtual CPU stands still, at a place that is not [overwritten](Self::overwritten).
    ///
    /// # Errors
    /// A site is not mapped.
    fn remove(&self, view: &View<'_>) -> Result<()>;

    /// Takes away the last of it, when no virtual CPU can be on its way to a stop any more.
    ///
    /// # Errors
    /// A site is not mapped.
    fn clear(&self, view: &View<'_>) -> Result<()>;

    /// Makes one virtual CPU stop, or no longer stop, as `watch` says.
    ///
    /// # Errors
    /// [`Error::Kvm`](crate::Error::Kvm).
    fn watch(&self, cpu: &mut dyn Cpu, watch: Watch) -> Result<()>;

    /// What LSTAR has to hold while calls are watched, if not what the guest has put there.
    fn lstar(&self) -> Option<Gva>;

    /// The site at which the guest stands, if it is one of ours.
    fn site(&self, rip: u64) -> Option<Site>;

    /// Makes the guest go on behind `site` as though it had not been stopped.
    ///
    /// # Errors
    /// The instruction needs guest memory that is not there.
    fn resume(&self, view: &View<'_>, site: &Site, regs: &mut kvm_regs) -> Result<()>;

    /// Whether the guest goes on by itself behind a site whose instruction does nothing.
    fn passes_nops(&self) -> bool;

    /// Whether a virtual CPU that stands at `rip` needs what [`install`](Self::install) wrote over an instruction of the
    /// guest's: KVM may still have to skip its first part, or what is left of it comes next.
    fn overwritten(&self, rip: u64) -> bool {
        let _ = rip;
        false
    }

    /// Whether a virtual CPU that stands at `rip` is in text of ours.
    fn in_text(&self, rip: u64) -> bool {
        let _ = rip;
        false
    }

    /// Whether a virtual CPU that stands at `rip` is at a stop, or on its way to one through text of ours.
    fn contains(&self, rip: u64) -> bool {
        self.in_text(rip) || self.site(rip).is_some()
    }

    /// The stops at 32-bit entries, if there are any.
    fn compat(&self) -> Option<&Compat> {
        None
    }

    /// Gives the guest a debug exception back that was not about one of our sites.
    ///
    /// # Errors
    /// [`Error::Kvm`](crate::Error::Kvm).
    fn give_back(&self, cpu: &mut dyn Cpu, watch: Watch, dr6: u64) -> Result<()> {
        let _ = watch;
        cpu.give_back_debug([None; 4], dr6)
    }

    /// Moves the return of a call that is on its way to the place where the mechanism stops it, or back. `slot` holds
    /// the address to which the dispatcher returns. Returns whether it held one of the two.
    ///
    /// # Errors
    /// The slot is not mapped.
    fn redirect(&self, view: &View<'_>, slot: Gva, stopped: bool) -> Result<bool>;
}

/// What a mechanism is made for.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The places in the guest.
    pub sites: &'a Sites,
    /// The engine, which decides which of them are used.
    pub engine: Engine,
}
