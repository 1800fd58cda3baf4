//! Debug registers: KVM stops the guest before it executes one of four addresses, with `KVM_EXIT_DEBUG`.
//!
//! Nothing is written to guest memory, and each virtual CPU stops only where it is told to: returns are stopped on the
//! CPU that runs a monitored process, and nobody else notices. The guest's own debug registers do not work meanwhile;
//! KVM keeps their values for the guest to read. Every #DB of the guest comes to user space: those that are not ours,
//! a single step or an `int1`, are given back.

use kvm_bindings::kvm_regs;

use crate::guest::{Gva, View};
use crate::trap::mechanism::{Plan, Watch, Ways};
use crate::trap::{Cpu, Engine, Mechanism, Site};
use crate::{Error, Result};

/// How many addresses there are.
const REGISTERS: usize = 4;
/// RFLAGS.RF: the next instruction is not stopped at.
const RF: u64 = 1 << 16;

/// The mechanism.
#[derive(Debug)]
pub struct DebugTraps {
    /// Stopped at on every virtual CPU.
    always: Vec<Site>,
    /// Stopped at while a monitored process runs.
    calls: Vec<Site>,
    ways: Ways,
    returned: Gva,
}

impl DebugTraps {
    /// Uses the registers for the sites that the engine of `plan` needs.
    ///
    /// # Errors
    /// [`Error::Site`] when there are more sites than registers.
    pub fn plan(plan: &Plan<'_>) -> Result<Self> {
        let sites = plan.sites;
        let mut always = sites.switches.clone();
        let mut calls = vec![sites.returned];
        match plan.engine {
            Engine::Sce => always.push(sites.invalid_opcode),
            Engine::Entry => calls.push(sites.entered),
        }
        if always.len() + calls.len() > REGISTERS {
            let reason = format!("{} places and {REGISTERS} registers", always.len() + calls.len());
            return Err(Error::Site { site: "debug registers", reason });
        }
        let entry = sites.entered.at;
        let ways = Ways { followed: entry, passed: entry, again: sites.dispatch };
        Ok(Self { always, calls, ways, returned: sites.returned.at })
    }
}

impl DebugTraps {
    fn addresses(&self, watch: Watch) -> [Option<Gva>; REGISTERS] {
        let calls: &[Site] = if watch == Watch::Calls { &self.calls } else { &[] };
        let always: &[Site] = if watch == Watch::Off { &[] } else { &self.always };
        let mut addresses = [None; REGISTERS];
        for (place, site) in addresses.iter_mut().zip(always.iter().chain(calls)) {
            *place = Some(site.at);
        }
        addresses
    }
}

impl Mechanism for DebugTraps {
    fn name(&self) -> &'static str {
        "debug"
    }

    fn ways(&self) -> Ways {
        self.ways
    }

    fn install(&self, _view: &View<'_>) -> Result<()> {
        Ok(())
    }

    fn remove(&self, _view: &View<'_>) -> Result<()> {
        Ok(())
    }

    fn clear(&self, _view: &View<'_>) -> Result<()> {
        Ok(())
    }

    fn watch(&self, cpu: &mut dyn Cpu, watch: Watch) -> Result<()> {
        cpu.break_at(self.addresses(watch))
    }

    fn give_back(&self, cpu: &mut dyn Cpu, watch: Watch, dr6: u64) -> Result<()> {
        cpu.give_back_debug(self.addresses(watch), dr6)
    }

    fn passes_nops(&self) -> bool {
        false
    }

    fn lstar(&self) -> Option<Gva> {
        None
    }

    fn site(&self, rip: u64) -> Option<Site> {
        self.always.iter().chain(&self.calls).find(|site| site.at.0 == rip).copied()
    }

    fn resume(&self, _view: &View<'_>, _site: &Site, regs: &mut kvm_regs) -> Result<()> {
        regs.rflags |= RF;
        Ok(())
    }

    fn redirect(&self, view: &View<'_>, slot: Gva, _stopped: bool) -> Result<bool> {
        Ok(Gva(view.read_u64(slot)?) == self.returned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trap::cpu::mock::MockCpu;
    use crate::trap::sites::Sites;
    use crate::trap::{Skip, StopKind};

    fn sites(switches: usize) -> Sites {
        let site = |at, kind| Site { at: Gva(at), length: 3, kind, skip: Skip::Nop };
        Sites {
            invalid_opcode: site(0x10, StopKind::InvalidOpcode),
            entered: site(0x20, StopKind::Entered),
            returned: site(0x30, StopKind::Returned),
            dispatch: Gva(0x2b),
            iret_path: Gva(0x40),
            stack_top: 0,
            user_rsp: None,
            int80: None,
            sysenter: None,
            compat_syscall: None,
            switches: (0..switches as u64).map(|at| site(0x50 + at, StopKind::SwitchedSpace)).collect(),
            entry_path: vec![],
            transit: vec![],
        }
    }

    #[test]
    fn calls_are_stopped_only_where_a_monitored_process_runs() {
        let sites = sites(2);
        let mut cpu = MockCpu::default();
        for (engine, always, calls) in [
            (Engine::Sce, vec![0x50, 0x51, 0x10], vec![0x50, 0x51, 0x10, 0x30]),
            (Engine::Entry, vec![0x50, 0x51], vec![0x50, 0x51, 0x30, 0x20]),
        ] {
            let traps = DebugTraps::plan(&Plan { sites: &sites, engine }).unwrap();
            for (watch, expected) in [(Watch::Calls, calls), (Watch::Switches, always), (Watch::Off, vec![])]
            {
                traps.watch(&mut cpu, watch).unwrap();
                assert_eq!(cpu.breaks(), expected, "{engine:?} {watch:?}");
            }
        }
    }

    #[test]
    fn there_are_four_registers() {
        let sites = sites(3);
        let error = DebugTraps::plan(&Plan { sites: &sites, engine: Engine::Sce }).unwrap_err();
        assert!(error.to_string().contains("5 places and 4 registers"), "{error}");
    }

    #[test]
    fn the_stopped_instruction_runs_next() {
        let sites = sites(1);
        let traps = DebugTraps::plan(&Plan { sites: &sites, engine: Engine::Sce }).unwrap();
        let memory =
            vm_memory::GuestMemoryMmap::<()>::from_ranges(&[(vm_memory::GuestAddress(0), 4096)]).unwrap();
        let view = View::new(&memory, 0, false);
        let mut regs = kvm_regs { rip: 0x50, rflags: 2, ..Default::default() };
        traps.resume(&view, &sites.switches[0], &mut regs).unwrap();
        assert_eq!((regs.rip, regs.rflags), (0x50, 2 | RF));
        assert_eq!(traps.site(0x51), None);
    }
}
