//! From a running guest to one whose traps are set: everything is looked up first, then the traps are written.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use tracing::info;

use super::Vcpu;
use super::armed::{Armed, Entry, Parts, State};
use super::spaces::per_cpu;
use crate::config::{MechanismChoice, Returns};
use crate::guest::{Gva, KernelImage, Linux, View};
use crate::process::{Outstanding, Spaces};
use crate::sky::{Done, Machine, Sky};
use crate::trap::detour::{isolated, kernels_half};
use crate::trap::mechanism::Plan;
use crate::trap::sites::{Anchors, Sites};
use crate::trap::{CSTAR, Cpu, DebugTraps, Engine, LSTAR, Mechanism, PortTraps, SYSENTER_EIP};
use crate::{Error, Result};

/// Model-specific registers that describe the system-call entry (SDM vol. 4, 2.1).
pub(super) mod msr {
    pub(in crate::trap::engine) const STAR: u32 = 0xc000_0081;
    pub(in crate::trap::engine) const FMASK: u32 = 0xc000_0084;
    pub(in crate::trap::engine) const GS_BASE: u32 = 0xc000_0101;
    pub(in crate::trap::engine) const KERNEL_GS_BASE: u32 = 0xc000_0102;
}

/// CR4.LA57.
const LA57: u64 = 1 << 12;
const IRETQ: [u8; 2] = [0x48, 0xcf];
/// The page of Linux's entry code, which page-table isolation maps for user mode too.
const ENTRY_PAGE: u64 = 2 << 20;

impl Vcpu {
    /// Sets the traps, on a machine that stands still. A guest that cannot be watched runs on without.
    pub(crate) fn arm(&mut self, cpu: &mut dyn Cpu) -> Done {
        if self.machine.armed().is_some() {
            return Done::Yes;
        }
        let machine = Arc::clone(&self.machine);
        match arm(&self.sky, &machine, cpu) {
            Ok(armed) => {
                info!(mechanism = armed.mechanism.name(), engine = ?armed.engine, sites = ?armed.sites, "traps are set");
                machine.set_armed(Some(Arc::new(armed)));
                self.refresh(&machine, cpu);
                machine.post(Box::new(|vcpu, _| vcpu.attach_all()));
            }
            Err(error) => {
                self.problem(&error);
                machine.ask_again();
            }
        }
        Done::Yes
    }

    /// Hears the news: does what is to be done on a machine that stands still, and sees what has changed.
    pub(super) fn listen(&mut self, machine: &Machine, cpu: &mut dyn Cpu) -> Result<()> {
        self.heard = machine.news();
        machine.place(self.index, self.position(cpu)?);
        while machine.has_job() {
            // Held before a job is taken: they are done in the order in which they were asked for.
            let held = machine.rendezvous.hold(self.index);
            let Some(mut job) = machine.next_job() else { break };
            // What was changed since this virtual CPU last looked is true for the job: traps that another one has set
            // are there to be taken out.
            self.refresh(machine, cpu);
            match job(self, cpu) {
                Done::Yes => machine.tell(),
                Done::Later => {
                    machine.postpone(job);
                    break;
                }
            }
            drop(held);
        }
        self.refresh(machine, cpu);
        Ok(())
    }

    /// Takes over what has been changed for all virtual CPUs.
    pub(super) fn refresh(&mut self, machine: &Machine, cpu: &mut dyn Cpu) {
        if let Err(error) = self.try_refresh(machine, cpu) {
            self.problem(&error);
        }
    }

    fn try_refresh(&mut self, machine: &Machine, cpu: &mut dyn Cpu) -> Result<()> {
        let armed = machine.armed();
        let same = match (&self.armed, &armed) {
            (Some(mine), Some(theirs)) => Arc::ptr_eq(mine, theirs),
            (None, None) => true,
            _ => false,
        };
        if !same {
            if let Some(old) = self.armed.take() {
                self.set_watch(&old, cpu, crate::trap::Watch::Off)?;
            }
            self.armed.clone_from(&armed);
            if let Some(armed) = &armed {
                self.learn(armed, cpu)?;
            }
        }
        let Some(armed) = armed else { return Ok(()) };
        if armed.lock().closing {
            return self.set_watch(&armed, cpu, crate::trap::Watch::Off);
        }
        self.space = if self.ctx_id == super::spaces::NOBODY {
            crate::process::Space::Bystander
        } else {
            armed.lock().space(self.ctx_id)
        };
        self.watch_space(&armed, cpu)
    }
}

/// Finds everything in a guest that stands in its kernel, and writes the traps.
fn arm(sky: &Sky, machine: &Machine, cpu: &mut dyn Cpu) -> Result<Armed> {
    let config = sky.config();
    let sregs = cpu.sregs()?;
    let entry = entry(cpu)?;
    let no_area = Error::Kernel("GS does not hold a per-CPU area");
    let per_cpu = per_cpu(cpu, sregs.cs.selector & 3 == 3)?.ok_or(no_area)?;
    let five_level = sregs.cr4 & LA57 != 0;
    let memory = machine.memory.clone();
    let view = kernels_half(View::new(&memory, sregs.cr3, five_level), Gva(entry.lstar));
    let image = KernelImage::around(&view, Gva(entry.lstar))?;
    let anchors = Anchors {
        idt: Gva(sregs.idt.base),
        lstar: Gva(entry.lstar),
        cstar: Gva(entry.cstar),
        sysenter: Gva(cpu.msr(SYSENTER_EIP)?),
    };
    let sites = Sites::find(&view, &image, anchors)?;
    let iretq = iretq(&view, &image, Gva(entry.lstar))?;
    let linux = Linux::new(&image.btf(&view)?)?;
    let current = linux.current(&view, per_cpu)?;
    let stack_top = view.read_u64(per_cpu.offset(sites.stack_top))?;
    let stack_size = stack_top.wrapping_sub(linux.stack(&view, current)?.0);
    if !stack_size.is_power_of_two() || stack_size > 1 << 20 {
        return Err(Error::Kernel("a kernel stack does not end where the per-CPU area says"));
    }
    let first = linux.first_task(&view, current)?;
    let floor = linux.processes(&view, first)?.iter().map(|process| process.ctx_id).max().unwrap_or(0);
    let mechanism = mechanism(config.trap.mechanism, &view, &sites, config.trap.engine, config.trap.port)?;
    let rules = (0u64..).zip(&config.process);
    let rules = rules.map(|(number, rule)| Ok((number, rule.compile()?))).collect::<Result<Vec<_>>>()?;
    let state = State {
        next_rule: rules.len() as u64,
        rules,
        spaces: Spaces::above(floor),
        families: BTreeMap::new(),
        calls: Outstanding::default(),
        suspended: Vec::new(),
        next_call: 0,
        swept: Instant::now(),
        ending: false,
        closing: false,
        counts: super::counts::Counts::default(),
    };
    let isolated = isolated(&view, sites.entered.at);
    let parts = Parts {
        memory: memory.clone(),
        engine: config.trap.engine,
        sites,
        linux,
        entry,
        stack_size,
        five_level,
        isolated,
        iretq,
        first_task: first,
        mechanism,
        observers: sky.observers(),
    };
    // Last of all: what fails before has changed nothing.
    parts.mechanism.install(&view)?;
    Ok(Armed::new(parts, config.trap.returns == Returns::All, state))
}

fn mechanism(
    choice: MechanismChoice,
    view: &View<'_>,
    sites: &Sites,
    engine: Engine,
    port: u8,
) -> Result<Box<dyn Mechanism>> {
    let plan = Plan { sites, engine };
    let ports = || PortTraps::plan(view, &plan, port).map(|traps| Box::new(traps) as Box<dyn Mechanism>);
    let registers = || DebugTraps::plan(&plan).map(|traps| Box::new(traps) as Box<dyn Mechanism>);
    match choice {
        MechanismChoice::Port => ports(),
        MechanismChoice::Debug => registers(),
        MechanismChoice::Auto => ports().or_else(|error| {
            info!(%error, "no port traps in this guest, debug registers then");
            // What keeps ports from it is more to the point than how many registers there are.
            registers().map_err(|_| error)
        }),
    }
}

/// The guest's own `iretq` nearest to its entry code. The CPU runs one wherever its bytes stand.
fn iretq(view: &View<'_>, image: &KernelImage, lstar: Gva) -> Result<Gva> {
    let page = lstar.0 & !(ENTRY_PAGE - 1);
    image
        .find_in_text(view, &IRETQ)?
        .into_iter()
        .filter(|at| at.0 & !(ENTRY_PAGE - 1) == page)
        .min_by_key(|at| at.0.abs_diff(lstar.0))
        .ok_or_else(|| Error::Site { site: "IRET", reason: "there is none near LSTAR".into() })
}

fn entry(cpu: &mut dyn Cpu) -> Result<Entry> {
    // SYSRET's selectors: 32-bit code, stack, 64-bit code, eight bytes apart, with RPL 3.
    let user_cs32 = (cpu.msr(msr::STAR)? >> 48) | 3;
    Ok(Entry {
        lstar: cpu.msr(LSTAR)?,
        cstar: cpu.msr(CSTAR)?,
        fmask: cpu.msr(msr::FMASK)?,
        user_cs64: (user_cs32 + 16) & 0xffff,
        user_cs32,
    })
}
