//! What happens at each stop: the two engines, on one virtual CPU.
//!
//! ```text
//!   CR3 written ─▶ whose address space? monitored or new: watch its calls; anybody else's: do not
//!   sce:    #UD ─▶ a SYSCALL? do what the CPU would have done; otherwise the fault is the guest's own
//!   entry:  LSTAR leads to a stop of ours while a monitored process runs
//!   both:       ─▶ [entered] ─▶ the guest's dispatcher ─▶ [returned] ─▶ user mode
//! ```
//!
//! **SYSRET must not run while SCE is clear**: the kernel has loaded the user's stack pointer by then, so the fault's
//! frame would land on the user's stack. With the engine `sce`, SYSCALL is therefore emulated with `RF` set in R11.
//! Linux looks at the saved flags before SYSRET and returns by IRET if RF or TF is set (`arch/x86/entry`,
//! `do_syscall_64`), which makes every trapped call safe whether its return is stopped or not. Where it is stopped, RF
//! is taken out again; elsewhere it is gone after one instruction. With `entry`, SCE is never touched.

use std::sync::Arc;

use kvm_bindings::kvm_debug_exit_arch;
use tracing::warn;
use vm_memory::{Bytes, GuestAddress};

use crate::guest::{Gpa, Gva};
use crate::process::Space;
use crate::sky::{Machine, Sky};
use crate::trap::hidden::Hidden;
use crate::trap::mechanism::Watch;
use crate::trap::{CSTAR, Compat, Cpu, Engine, LSTAR, SYSENTER_EIP, Site, StopKind};
use crate::{Error, Result};

mod arm;
mod armed;
mod asking;
mod attach;
mod calls;
mod counts;
mod frames;
mod spaces;

pub(crate) use armed::Armed;
pub use asking::InsightCounts;
pub use attach::Removal;
pub(crate) use attach::{add, clear, detach, remove};
use frames::{EntryStack, RF};
pub(crate) use spaces::Position;

/// Numbers of address spaces whose place in the per-CPU area is remembered: Linux has six, or one without PCID.
const SLOTS: usize = 8;

/// Sky on one virtual CPU: two hooks around `KVM_RUN`, and one for MSR exits. Lives on the virtual CPU's thread.
#[derive(Debug)]
pub struct Vcpu {
    index: u32,
    sky: Arc<Sky>,
    machine: Arc<Machine>,
    /// News that were heard.
    heard: u64,
    armed: Option<Arc<Armed>>,
    hidden: Hidden,
    watch: Watch,
    /// CR3 and number of the address space that is loaded. Both are the kernel's: under page-table isolation this is
    /// the kernel's page directory, also while the user's is in use.
    cr3: u64,
    ctx_id: u64,
    /// What is known of it.
    space: Space,
    /// Where this CPU's per-CPU area begins, and what lies in it. The kernel's own variables never move.
    per_cpu: Option<Gva>,
    stack_top: Option<Gpa>,
    ctx_ids: [Option<Gpa>; SLOTS],
    flag: Option<Gpa>,
    entry_stack: EntryStack,
}

impl Vcpu {
    pub(crate) fn new(sky: Arc<Sky>, machine: Arc<Machine>, index: u32) -> Self {
        Self {
            index,
            sky,
            machine,
            heard: 0,
            armed: None,
            hidden: Hidden::default(),
            watch: Watch::Off,
            cr3: 0,
            ctx_id: spaces::NOBODY,
            space: Space::Bystander,
            per_cpu: None,
            stack_top: None,
            ctx_ids: [None; SLOTS],
            flag: None,
            entry_stack: EntryStack::default(),
        }
    }

    /// Called before every `KVM_RUN`, also after one that a kick ended. Waits here while another virtual CPU changes
    /// what all share.
    ///
    /// # Errors
    /// [`Error::Kvm`]: the virtual CPU cannot go on.
    pub fn before_run(&mut self, cpu: &mut dyn Cpu) -> Result<()> {
        loop {
            if self.machine.news() != self.heard || self.machine.is_due() {
                self.listen(&Arc::clone(&self.machine), cpu)?;
            }
            if self.machine.rendezvous.pass(self.index) {
                return Ok(());
            }
            self.machine.place(self.index, self.position(cpu)?);
            self.machine.rendezvous.wait(self.index);
        }
    }

    /// Handles the guest's write to I/O port `port`. Returns whether it was one of Sky's stops.
    ///
    /// # Errors
    /// [`Error::Kvm`]: the virtual CPU cannot go on.
    pub fn port_exit(&mut self, cpu: &mut dyn Cpu, port: u16) -> Result<bool> {
        if port != self.sky.port() {
            return Ok(false);
        }
        // Taken and put back: cheaper than to share it once more.
        let Some(armed) = self.armed.take() else { return Ok(false) };
        let done = match armed.mechanism.site(cpu.regs().rip) {
            Some(site) => self.stop(&armed, cpu, &site).map(|()| true),
            None => Ok(false),
        };
        self.armed = Some(armed);
        done
    }

    /// Handles a debug exit. Returns false if nobody but a debugger of the embedder's can have caused it.
    ///
    /// # Errors
    /// [`Error::Kvm`]: the virtual CPU cannot go on.
    pub fn debug_exit(&mut self, cpu: &mut dyn Cpu, stop: &kvm_debug_exit_arch) -> Result<bool> {
        const BREAKPOINTS: u64 = 0xf;
        let Some(armed) = self.armed.take() else { return Ok(false) };
        let site = if stop.dr6 & BREAKPOINTS == 0 { None } else { armed.mechanism.site(cpu.regs().rip) };
        let done = match site {
            Some(site) => self.stop(&armed, cpu, &site),
            // A single step, an `int1`: the guest's own.
            None => {
                armed.lock().counts.stops.debug_exceptions += 1;
                armed.mechanism.give_back(cpu, self.watch, stop.dr6)
            }
        };
        self.armed = Some(armed);
        done.map(|()| true)
    }

    /// What the guest's `rdmsr` of `index` is to see; `None` for an MSR that is not Sky's.
    ///
    /// # Errors
    /// [`Error::Kvm`]: the guest gets a general-protection fault.
    pub fn rdmsr(&mut self, cpu: &mut dyn Cpu, index: u32) -> Option<Result<u64>> {
        self.hidden.read(cpu, index)
    }

    /// Carries out the guest's `wrmsr`; `None` for an MSR that is not Sky's.
    ///
    /// # Errors
    /// [`Error::Kvm`]: the guest gets a general-protection fault.
    pub fn wrmsr(&mut self, cpu: &mut dyn Cpu, index: u32, value: u64) -> Option<Result<()>> {
        self.hidden.write(cpu, index, value)
    }

    /// A stop at one of our sites. The guest always goes on; what went wrong is told.
    fn stop(&mut self, armed: &Armed, cpu: &mut dyn Cpu, site: &Site) -> Result<()> {
        let mut regs = *cpu.regs();
        let done = match site.kind {
            StopKind::InvalidOpcode => self.invalid_opcode(armed, cpu, site, &mut regs),
            StopKind::Entered => self.entered(armed, cpu, &mut regs),
            StopKind::Returned => self.returned(armed, cpu, &mut regs),
            StopKind::SwitchedSpace => self.switched(armed, cpu, regs.rdi),
            StopKind::Compat(entry) => self.compat(armed, cpu, entry),
        };
        if regs.rip != site.at.0 {
            cpu.set_regs(&regs);
        } else if !armed.mechanism.passes_nops() {
            // Only a debug register stands there: the instruction itself is to run.
            regs.rflags |= RF;
            cpu.set_regs(&regs);
        }
        done.or_else(|error| self.go_on(armed, error))
    }

    /// The guest goes on whatever went wrong, unless that is its virtual CPU. The first problem is told; a guest that
    /// makes more of them does not fill the log.
    #[cold]
    fn go_on(&self, armed: &Armed, error: Error) -> Result<()> {
        match error {
            Error::Kvm { .. } => Err(error),
            _ => {
                if armed.lock().counts.problem(&error) {
                    warn!(%error, "sky");
                }
                Ok(())
            }
        }
    }

    /// Whether this virtual CPU stops at the calls of the process that runs now.
    fn set_watch(&mut self, armed: &Armed, cpu: &mut dyn Cpu, watch: Watch) -> Result<()> {
        if self.watch == watch {
            return Ok(());
        }
        let calls = watch == Watch::Calls;
        match armed.engine {
            Engine::Sce => self.hidden.set_trapping(cpu, calls)?,
            Engine::Entry => {
                self.hidden.redirect(cpu, LSTAR, armed.mechanism.lstar().filter(|_| calls))?;
            }
        }
        if let Some(compat) = armed.mechanism.compat() {
            let on = watch != Watch::Off;
            self.hidden.redirect(cpu, SYSENTER_EIP, compat.sysenter().filter(|_| on))?;
            self.hidden.redirect(cpu, CSTAR, compat.syscall().filter(|_| on))?;
            self.set_flag(armed, compat, calls);
        }
        armed.mechanism.watch(cpu, watch)?;
        self.watch = watch;
        Ok(())
    }

    /// Tells the stubs at the 32-bit entries of this CPU whether to stop.
    fn set_flag(&mut self, armed: &Armed, compat: &Compat, stops: bool) {
        if self.flag.is_none()
            && let Some(per_cpu) = self.per_cpu
        {
            self.flag = armed.view(self.cr3).translate(per_cpu.offset(compat.flag())).ok().map(|at| at.gpa);
        }
        if let Some(gpa) = self.flag {
            // Where it cannot be written, nobody stops.
            let _ = armed.memory.write_obj(u32::from(stops), GuestAddress(gpa.0));
        }
    }

    /// Forgets what was killed.
    pub(crate) fn sweep(&self) {
        if let Some(armed) = &self.armed {
            armed.sweep(self.cr3);
        }
    }

    /// A problem that keeps Sky from the guest altogether.
    fn problem(&self, error: &Error) {
        warn!(%error, "sky");
        self.machine.problem(error);
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        self.machine.rendezvous.leave(self.index);
        self.sweep();
    }
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
