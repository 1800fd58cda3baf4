//! Beginning and ending to monitor processes while the guest runs. Every virtual CPU stands still meanwhile.
//!
//! A thread may be inside a call when its process begins to be monitored. It came by SYSCALL and would leave by SYSRET,
//! which must not run while SCE is clear: RF in its saved flags makes Linux choose IRET. Its call is on its way like any
//! other: the address to which the dispatcher returns lies on its kernel stack, and is changed to where returns are
//! stopped. The other way round, a thread whose process is left alone returns to the guest's own path again.
//!
//! A virtual CPU that stands between user mode and its saved registers, or behind Linux's decision between SYSRET and
//! IRET, is on its way for a few dozen instructions: then all of this is tried again a little later.

use std::sync::Arc;

use tracing::info;

use super::Vcpu;
use super::armed::{Armed, GuestFacts, Waiting, saved_registers};
use super::asking::Note;
use super::frames::PtRegs;
use crate::guest::{Gva, Process, Thread, View};
use crate::observer::ProcessEvent;
use crate::process::{Monitored, Pending, Rule};
use crate::sky::{Done, Machine};
use crate::syscall::RawCall;
use crate::trap::Engine;
use crate::{Error, Result};

impl Vcpu {
    /// Attaches to every process that runs and that the rules want.
    pub(crate) fn attach_all(&mut self) -> Done {
        let Some(armed) = self.armed.clone() else { return Done::Yes };
        match self.attach(&armed) {
            Ok(done) => done,
            Err(error) => {
                let _ = self.go_on(&armed, error);
                Done::Yes
            }
        }
    }

    fn attach(&self, armed: &Armed) -> Result<Done> {
        let view = armed.view(self.cr3);
        let processes = armed.linux.processes(&view, armed.first_task)?;
        let mut wanted = Vec::new();
        {
            let mut state = armed.lock();
            // A child may stand in the list before its parent is known to be wanted.
            for _ in 0..2 {
                for process in &processes {
                    if state.spaces.process(process.ctx_id).is_some()
                        || wanted
                            .iter()
                            .any(|(other, ..): &(&Process, u64, bool)| other.ctx_id == process.ctx_id)
                    {
                        continue;
                    }
                    let rule = state.wanted(&mut GuestFacts::new(&armed.linux, view, process));
                    if let Some((rule, children)) = rule {
                        if children {
                            state.families.insert(process.pid, rule);
                        }
                        wanted.push((process, rule, children));
                    }
                }
            }
        }
        if wanted.is_empty() {
            return Ok(Done::Yes);
        }
        if in_transit(armed, &self.machine) {
            return Ok(Done::Later);
        }
        let threads = armed.linux.threads(&view, armed.first_task)?;
        let running = in_user_mode(armed, &self.machine, &view);
        for (process, rule, _) in wanted {
            let theirs = threads.iter().filter(|thread| thread.ctx_id == process.ctx_id);
            let visits =
                theirs.map(|thread| Visit::new(armed, &view, thread, running.contains(&thread.task)));
            let visits = match visits.collect::<Result<Vec<_>>>() {
                Ok(visits) => visits,
                // With one thread unprepared the whole process is left alone.
                Err(error) => {
                    self.go_on(armed, error)?;
                    continue;
                }
            };
            let executable = process.executable.clone();
            {
                let mut state = armed.lock();
                let monitored = Monitored { pid: process.pid, executable: executable.clone(), rule };
                state.spaces.monitor(process.ctx_id, monitored);
                state.counts.monitoring(&executable, process.pid);
                state.counts.attached += 1;
            }
            info!(pid = process.pid, executable, "attached");
            armed.tell(&ProcessEvent::Begins { pid: process.pid, executable });
            for visit in visits {
                visit.attach(armed, &view, process)?;
            }
        }
        Ok(Done::Yes)
    }
}

/// Whether a virtual CPU stands where a thread's registers are neither the user's nor saved.
fn in_transit(armed: &Armed, machine: &Machine) -> bool {
    let in_transit = |rip| armed.sites.in_transit(rip) || armed.mechanism.in_text(rip);
    machine.positions().iter().any(|position| !position.user && in_transit(position.rip))
}

/// The tasks that run in user mode now: what lies on their kernel stacks is old.
fn in_user_mode(armed: &Armed, machine: &Machine, view: &View<'_>) -> Vec<Gva> {
    let positions = machine.positions();
    let areas = positions.iter().filter(|position| position.user).filter_map(|position| position.per_cpu);
    areas.filter_map(|per_cpu| armed.linux.current(view, per_cpu).ok()).collect()
}

/// A thread of a process that is about to be monitored: all that could go wrong has gone well.
struct Visit<'a> {
    thread: &'a Thread,
    stack_top: Gva,
    registers: PtRegs<'a>,
    /// The call that it is in, and where the dispatcher's return address lies.
    call: Option<(RawCall, Gva)>,
}

impl<'a> Visit<'a> {
    fn new(armed: &Armed, view: &View<'a>, thread: &'a Thread, in_user_mode: bool) -> Result<Self> {
        let stack_top = thread.stack.offset(armed.stack_size);
        let (at, slot) = saved_registers(stack_top);
        let registers = PtRegs::at(view, at)?;
        // The slot lies right below the registers, but perhaps on another page.
        let call = if in_user_mode { None } else { registers.call()?.map(|call| (call, slot)) };
        if call.is_some() {
            view.read_u64(slot)?;
        }
        Ok(Self { thread, stack_top, registers, call })
    }

    fn attach(self, armed: &Armed, view: &View<'_>, process: &Process) -> Result<()> {
        if armed.engine == Engine::Sce {
            self.registers.return_by_iret()?;
        }
        let Some((call, slot)) = self.call else { return Ok(()) };
        if !armed.mechanism.redirect(view, slot, true)? || !call.returns() {
            return Ok(());
        }
        let observers = armed.interest.observers(call.number);
        let thread = self.thread;
        let note = Note { pid: process.pid, tid: thread.tid, task: thread.task, observers, asking: None };
        let (resumes_at, rsp) = (self.registers.ip()?, self.registers.sp()?);
        let id = {
            let mut state = armed.lock();
            state.counts.entered(call.number);
            state.next_id()
        };
        let pending = Pending { id, call, ctx_id: process.ctx_id, resumes_at, rsp, note };
        armed.file(self.stack_top, pending);
        Ok(())
    }
}

/// Takes up a rule, and attaches to what runs. Gives the rule's number.
pub(crate) fn add(vcpu: &mut Vcpu, rule: Rule) -> Result<u64> {
    let armed = armed(vcpu)?;
    let mut state = armed.lock();
    let number = state.next_rule;
    state.next_rule += 1;
    state.rules.push((number, rule));
    Ok(number)
}

/// What is to be left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// The rule of this number, and what it alone has chosen.
    Rule(u64),
    /// This process.
    Process(u32),
    /// Everything.
    All,
}

/// Leaves processes alone. Gives how many there were; none as long as a thread of theirs makes a call for us, whose
/// return has to be stopped.
pub(crate) fn remove(vcpu: &mut Vcpu, what: Removal) -> Result<Option<usize>> {
    let armed = armed(vcpu)?;
    let view = armed.view(vcpu.cr3);
    let mut state = armed.lock();
    let spaces: Vec<u64> = state
        .spaces
        .monitored()
        .filter(|(_, process)| match what {
            Removal::Rule(number) => process.rule == number,
            Removal::Process(pid) => process.pid == pid,
            Removal::All => true,
        })
        .map(|(ctx_id, _)| ctx_id)
        .collect();
    let leaves = |pending: &Waiting| spaces.contains(&pending.ctx_id);
    if state.calls.any(|pending| leaves(pending) && pending.note.asking.is_some()) {
        return Ok(None);
    }
    match what {
        Removal::Rule(number) => {
            state.rules.retain(|(other, _)| *other != number);
            state.families.retain(|_, rule| *rule != number);
        }
        Removal::Process(pid) => {
            state.families.remove(&pid);
        }
        Removal::All => {
            state.rules.clear();
            state.families.clear();
        }
    }
    let left: Vec<_> = spaces.iter().filter_map(|&ctx_id| state.forget_space(ctx_id)).collect();
    spaces.iter().for_each(|&ctx_id| state.spaces.ignore(ctx_id));
    let gone: Vec<_> = left.iter().flat_map(|(_, calls)| calls).collect();
    state.counts.detached += gone.len() as u64;
    drop(state);
    for (stack_top, _) in &gone {
        // The thread of a call that is gone for good may have taken its stack with it.
        let _ = armed.mechanism.redirect(&view, saved_registers(*stack_top).1, false);
    }
    armed.abandon(gone.iter().map(|(_, call)| call));
    left.iter().for_each(|&(pid, _)| armed.tell(&ProcessEvent::Ends { pid }));
    Ok(Some(left.len()))
}

/// Leaves everything alone and takes the traps out of the guest, except where one may be on its way to them. Nothing
/// is done as long as [`remove`] cannot, or a virtual CPU has stopped at one of them and not gone on.
pub(crate) fn detach(vcpu: &mut Vcpu) -> Result<Option<()>> {
    let Some(armed) = vcpu.armed.clone() else { return Ok(Some(())) };
    if vcpu.machine.positions().iter().any(|position| armed.mechanism.overwritten(position.rip)) {
        return Ok(None);
    }
    if remove(vcpu, Removal::All)?.is_none() {
        return Ok(None);
    }
    armed.lock().closing = true;
    armed.mechanism.remove(&armed.view(vcpu.cr3)).map(Some)
}

/// Takes the last of the traps out of the guest. Nothing is done as long as a virtual CPU or a thread may still come to them.
pub(crate) fn clear(vcpu: &mut Vcpu) -> Result<Option<()>> {
    let Some(armed) = vcpu.armed.clone() else { return Ok(Some(())) };
    let view = armed.view(vcpu.cr3);
    let machine = Arc::clone(&vcpu.machine);
    let on_its_way = machine.positions().iter().any(|position| {
        position.exception
            || !position.user
                && (armed.mechanism.contains(position.rip) || armed.sites.in_transit(position.rip))
    });
    if on_its_way || armed.lock().outstanding() > 0 {
        return Ok(None);
    }
    for thread in armed.linux.threads(&view, armed.first_task)?.iter().filter(|thread| thread.ctx_id != 0) {
        let slot = saved_registers(thread.stack.offset(armed.stack_size)).1;
        armed.mechanism.redirect(&view, slot, false)?;
    }
    armed.mechanism.clear(&view)?;
    machine.set_armed(None);
    Ok(Some(()))
}

fn armed(vcpu: &Vcpu) -> Result<Arc<Armed>> {
    vcpu.armed.clone().ok_or(Error::NotArmed)
}
