//! The engine of the paper: SYSCALL faults while a monitored process runs, because `EFER.SCE` is clear.
//!
//! ```text
//!   CR3 written ─▶ whose address space? monitored or new: clear SCE; anybody else's: set it
//!   #UD         ─▶ a SYSCALL? do what the CPU would have done and go on at LSTAR; otherwise it is the guest's
//!   returned    ─▶ note the result, go on at the guest's IRET path
//! ```
//!
//! **SYSRET must not run while SCE is clear**: the kernel has loaded the user's stack pointer by then, so the fault's
//! frame would land on the user's stack. SYSCALL is therefore emulated with `RF` set in R11. Linux looks at the saved
//! flags before SYSRET and returns by IRET if RF or TF is set (`arch/x86/entry`, `do_syscall_64`), which makes every
//! trapped call safe whether its return is stopped or not. So the trap behind the dispatcher, which every thread of
//! the guest would run into, is only in place while a monitored process runs *and* one of its calls is worth
//! following. Where the return is stopped, RF is taken out again; elsewhere it is gone after one instruction.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tracing::{info, warn};
use vm_memory::GuestMemoryMmap;

use crate::report::Report;
use crate::sky::Sky;
use crate::trap::{Cpu, EFER, Efer, StopKind};
use crate::{Error, Result};

mod arm;
mod armed;
mod counts;
mod frames;

use armed::Armed;
use counts::Counts;

/// The engine on one virtual CPU.
#[derive(Debug)]
pub struct Sce {
    sky: Arc<Sky>,
    memory: GuestMemoryMmap,
    port: u8,
    armed: Option<Armed>,
    efer_before: Efer,
    counts: Counts,
}

impl Sce {
    pub(crate) fn new(sky: Arc<Sky>, memory: GuestMemoryMmap) -> Self {
        let port = sky.config().trap.port;
        Self { sky, memory, port, armed: None, efer_before: Efer::default(), counts: Counts::default() }
    }

    /// Sets the traps if [`Sky::arm`] asked for it. Called after every exit; costs one load when nobody asked.
    ///
    /// A guest that cannot be watched runs on without traps, and the report says why.
    pub fn arm_if_asked(&mut self, cpu: &mut dyn Cpu) {
        if !self.sky.asked().load(Ordering::Relaxed) || !self.sky.asked().swap(false, Ordering::Acquire) {
            return;
        }
        if self.armed.is_some() {
            return;
        }
        match arm::arm(&self.sky, &self.memory, cpu) {
            Ok((armed, too_early)) => {
                info!(mechanism = armed.mechanism.name(), sites = ?armed.sites, "traps are set");
                self.counts.armed(armed.mechanism.name(), too_early);
                self.armed = Some(armed);
            }
            Err(error) => self.problem(&error),
        }
        self.publish();
    }

    /// Handles a write to I/O port `port`. Returns whether it was one of Sky's stops.
    ///
    /// # Errors
    /// [`Error::Kvm`]: the virtual CPU cannot go on.
    pub fn port_exit(&mut self, cpu: &mut dyn Cpu, port: u16) -> Result<bool> {
        if port != u16::from(self.port) {
            return Ok(false);
        }
        let Some(armed) = self.armed.as_mut() else { return Ok(false) };
        let mut regs = cpu.regs()?;
        let Some(site) = armed.mechanism.site(regs.rip) else { return Ok(false) };
        let memory = &self.memory;
        match site.kind {
            StopKind::SwitchedSpace => {
                self.counts.stops.switches += 1;
                if let Err(error) = armed.switched(memory, cpu, &regs, site.at) {
                    self.problem(&error);
                }
            }
            StopKind::InvalidOpcode => {
                let done = if armed.emulate_syscall(memory, &mut regs) {
                    self.counts.stops.calls += 1;
                    armed.entered(memory, &self.sky, cpu, &regs, &mut self.counts)
                } else {
                    self.counts.stops.invalid_opcodes += 1;
                    let view = armed.view(memory);
                    armed.mechanism.resume(&view, &site, &mut regs)?;
                    Ok(false)
                };
                cpu.set_regs(&regs)?;
                match done {
                    Ok(true) => self.publish(),
                    Ok(false) => {}
                    Err(error) => self.problem(&error),
                }
            }
            StopKind::Returned => {
                self.counts.stops.returns += 1;
                let done = armed.returned(memory, &regs, &mut self.counts);
                regs.rip = armed.sites.iret_path.0;
                cpu.set_regs(&regs)?;
                if let Err(error) = done {
                    self.problem(&error);
                }
            }
        }
        Ok(true)
    }

    /// What the guest's `rdmsr` of `index` is to see; `None` for an MSR that is not Sky's.
    ///
    /// # Errors
    /// [`Error::Kvm`]: the guest gets a general-protection fault.
    pub fn rdmsr(&mut self, cpu: &mut dyn Cpu, index: u32) -> Option<Result<u64>> {
        (index == EFER).then(|| self.efer().read(cpu))
    }

    /// Carries out the guest's `wrmsr`; `None` for an MSR that is not Sky's.
    ///
    /// # Errors
    /// [`Error::Kvm`]: the guest gets a general-protection fault.
    pub fn wrmsr(&mut self, cpu: &mut dyn Cpu, index: u32, value: u64) -> Option<Result<()>> {
        (index == EFER).then(|| self.efer().write(cpu, value))
    }

    fn efer(&mut self) -> &mut Efer {
        match &mut self.armed {
            Some(armed) => &mut armed.efer,
            None => &mut self.efer_before,
        }
    }

    /// The first problem is told; a guest that makes more of them does not fill the log.
    fn problem(&mut self, error: &Error) {
        if self.counts.problem(error) {
            warn!(%error, "sky");
            self.publish();
        }
    }

    fn publish(&self) {
        let untracked = self.armed.as_ref().map(|armed| armed.tracker.counts()).unwrap_or_default();
        self.sky.publish(Report { untracked, ..self.counts.report() });
    }
}

impl Drop for Sce {
    fn drop(&mut self) {
        self.publish();
    }
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
