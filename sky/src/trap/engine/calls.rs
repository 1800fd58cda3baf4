//! A system call of a monitored process: how it is stopped at its entry and at its return, and who is told.

use std::cell::OnceCell;
use std::collections::VecDeque;

use kvm_bindings::kvm_regs;

use super::Vcpu;
use super::armed::{Armed, Waiting};
use super::asking::{Asking, InsightCounts, MAX_SUSPENDED, Next, Note, SYSCALL_LENGTH, Suspended, Then};
use super::frames::{InterruptFrame, PtRegs, RF};
use crate::call::{Frames, Thread};
use crate::guest::{Gva, View};
use crate::observer::{Call, CallId, Inquiry};
use crate::process::{Pending, Space};
use crate::syscall::{Outcome, RawCall};
use crate::trap::engine::arm::msr;
use crate::trap::{CompatEntry, Cpu, Engine, Site, Watch};
use crate::{Error, Result};

const SYSCALL: [u8; 2] = [0x0f, 0x05];
const RT_SIGRETURN: u64 = 15;
const CLONE: u64 = 56;
const FORK: u64 = 57;
const VFORK: u64 = 58;
const EXECVE: u64 = 59;
const EXIT_GROUP: u64 = 231;
const EXECVEAT: u64 = 322;
const CLONE3: u64 = 435;

/// Calls after which the thread's registers are no longer those of the call.
fn replaces_registers(number: u64) -> bool {
    matches!(number, RT_SIGRETURN | EXECVE | EXECVEAT)
}

fn makes_children(number: u64) -> bool {
    matches!(number, CLONE | FORK | VFORK | CLONE3)
}

impl Vcpu {
    /// An opcode was invalid: SYSCALL with SCE clear, or one that is invalid indeed.
    pub(super) fn invalid_opcode(
        &mut self,
        armed: &Armed,
        cpu: &mut dyn Cpu,
        site: &Site,
        regs: &mut kvm_regs,
    ) -> Result<()> {
        let view = armed.view(self.cr3);
        let frame = self.entry_stack.locate(&view, regs.rsp).and_then(|at| InterruptFrame::read(&view, at));
        let (frame, entry) = match frame {
            Some(frame) if frame.cs == armed.entry.user_cs64 => (frame, armed.entry.lstar),
            Some(frame) if frame.cs == armed.entry.user_cs32 => (frame, armed.entry.cstar),
            _ => return self.genuine(armed, &view, site, regs),
        };
        match view.read_pair(Gva(frame.rip)) {
            Ok(SYSCALL) => {}
            Ok(_) => return self.genuine(armed, &view, site, regs),
            // Another thread has unmapped the page since: back to the instruction, and the guest brings it in again.
            Err(_) => {
                armed.lock().counts.refetched += 1;
                regs.rip = armed.iretq.0;
                return Ok(());
            }
        }
        // What SYSCALL does (APM vol. 3), but for RF.
        regs.rcx = frame.rip.wrapping_add(SYSCALL_LENGTH);
        regs.r11 = frame.rflags | RF;
        regs.rflags = (frame.rflags & !(armed.entry.fmask | RF)) | 2;
        regs.rsp = frame.rsp;
        if entry != armed.entry.lstar {
            regs.rip = entry;
            return self.compat(armed, cpu, CompatEntry::Syscall);
        }
        self.called(armed, &view, cpu, regs)
    }

    /// A 32-bit call, which passes through: it has a number of its own, and is only counted.
    pub(super) fn compat(&mut self, armed: &Armed, cpu: &mut dyn Cpu, entry: CompatEntry) -> Result<()> {
        armed.lock().counts.stops.compat += 1;
        let space = self.whose(armed, &armed.view(self.cr3), cpu)?;
        if space == Space::Monitored {
            armed.lock().counts.compat.add(entry);
        }
        Ok(())
    }

    /// Whose call a stop is about: looks at the process if it is new here, and leaves it alone if nobody wants it.
    fn whose(&mut self, armed: &Armed, view: &View<'_>, cpu: &mut dyn Cpu) -> Result<Space> {
        if self.per_cpu.is_none() {
            // Before `swapgs` the kernel's GS is put aside.
            self.per_cpu = Some(Gva(cpu.msr(msr::KERNEL_GS_BASE)?)).filter(|base| base.is_kernel());
        }
        if self.space == Space::New {
            // Another thread of it may have been here.
            self.space = armed.lock().space(self.ctx_id);
        }
        if self.space == Space::New {
            let identified = self.identify(armed, view);
            // Unwatched, every call of it goes well.
            self.space = *identified.as_ref().unwrap_or(&Space::Bystander);
            if self.space == Space::Bystander {
                self.leave_alone(armed, cpu)?;
            }
            return identified;
        }
        if self.space == Space::Bystander && self.watch == Watch::Calls {
            self.leave_alone(armed, cpu)?;
        }
        Ok(self.space)
    }

    fn genuine(&self, armed: &Armed, view: &View<'_>, site: &Site, regs: &mut kvm_regs) -> Result<()> {
        armed.lock().counts.stops.invalid_opcodes += 1;
        armed.mechanism.resume(view, site, regs)
    }

    /// A thread is about to enter a system call; the registers are as SYSCALL leaves them. Decides where it goes on.
    pub(super) fn entered(&mut self, armed: &Armed, cpu: &mut dyn Cpu, regs: &mut kvm_regs) -> Result<()> {
        self.called(armed, &armed.view(self.cr3), cpu, regs)
    }

    fn called(
        &mut self,
        armed: &Armed,
        view: &View<'_>,
        cpu: &mut dyn Cpu,
        regs: &mut kvm_regs,
    ) -> Result<()> {
        let ways = armed.mechanism.ways();
        // Whatever goes wrong from here on, the call is made.
        regs.rip = ways.passed.0;
        if self.space != Space::Monitored {
            let space = self.whose(armed, view, cpu);
            if !matches!(space, Ok(Space::Monitored)) {
                armed.lock().counts.stops.calls += 1;
                return space.map(drop);
            }
        }
        let call = RawCall {
            // The kernel takes an int.
            number: regs.rax & 0xffff_ffff,
            args: [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9],
        };
        let mut state = armed.lock();
        state.counts.stops.calls += 1;
        state.counts.entered(call.number);
        let interested = armed.interest.observers(call.number);
        let family = makes_children(call.number) && !state.families.is_empty();
        let follow = call.returns() && (interested != 0 || family || armed.interest.every_return);
        if call.number == EXIT_GROUP {
            // Its other threads may make, and end, calls until they are stopped: the sweep will find it gone.
            state.ending = true;
        }
        if !follow && interested == 0 && state.suspended.is_empty() {
            return Ok(());
        }
        let stack_top = view
            .load(self.stack_top_at(armed, view)?)
            .map(Gva)
            .ok_or(Error::Kernel("the per-CPU area is gone"))?;
        let place = |(thread, pending): &Suspended| {
            *thread == stack_top
                && (pending.resumes_at, pending.rsp, pending.call) == (regs.rcx, regs.rsp, call)
        };
        if let Some(at) = state.suspended.iter().position(place) {
            let (_, pending) = state.suspended.swap_remove(at);
            drop(state);
            return self.ask(armed, view, stack_top, pending, regs);
        }
        let (id, ctx_id) = (state.next_id(), self.ctx_id);
        let (resumes_at, rsp) = (regs.rcx, regs.rsp);
        if interested == 0 {
            let pending = Pending { id, call, ctx_id, resumes_at, rsp, note: Note::default() };
            let replaced = if follow { state.calls.enter(stack_top, pending) } else { None };
            drop(state);
            replaced.iter().for_each(|old| armed.lose(old));
            if follow {
                regs.rip = ways.followed.0;
            }
            return Ok(());
        }
        drop(state);

        let per_cpu = self.per_cpu.ok_or(Error::Kernel("the per-CPU area is not known yet"))?;
        let task = armed.linux.current(view, per_cpu)?;
        let (pid, tid) = (armed.linux.pid(view, task)?, armed.linux.tid(view, task)?);
        let mut note = Note { pid, tid, task, observers: interested, asking: None };
        let told = self.tell(armed, view, id, &call, &note, None);
        if let Some((thread, inquiries)) = told {
            let observed = armed.linux.is_observed(view, note.task).unwrap_or(true);
            note.asking = Some(Box::new(Asking::new(thread, inquiries, Then::Call, observed)));
        }
        let pending = Pending { id, call, ctx_id, resumes_at, rsp, note };
        if pending.note.asking.is_some() {
            self.ask(armed, view, stack_top, pending, regs)?;
        } else if follow {
            regs.rip = ways.followed.0;
            armed.file(stack_top, pending);
        }
        Ok(())
    }

    /// Tells the observers of a call at its entry, or at its return with its outcome. Gives their inquiries.
    fn tell(
        &self,
        armed: &Armed,
        view: &View<'_>,
        id: CallId,
        raw: &RawCall,
        note: &Note,
        outcome: Option<Outcome>,
    ) -> Option<(Thread, VecDeque<Inquiry>)> {
        let thread = OnceCell::new();
        let handle = || thread.get_or_init(|| Thread::new(note.pid, note.tid)).clone();
        let call = Call {
            id,
            pid: note.pid,
            tid: note.tid,
            vcpu: self.index,
            raw: *raw,
            task: note.task,
            view: *view,
            linux: &armed.linux,
            thread: &handle,
        };
        let inquiries: VecDeque<Inquiry> = armed
            .chosen(note.observers)
            .filter_map(|observer| match outcome {
                None => observer.entered(&call),
                Some(outcome) => observer.returned(&call, outcome),
            })
            .collect();
        if inquiries.is_empty() { None } else { Some((handle(), inquiries)) }
    }

    /// At its entry a thread makes calls for us, then its own.
    fn ask(
        &self,
        armed: &Armed,
        view: &View<'_>,
        stack_top: Gva,
        mut pending: Waiting,
        regs: &mut kvm_regs,
    ) -> Result<()> {
        let ways = armed.mechanism.ways();
        let asking = pending.note.asking.as_mut();
        if let Some(call) = asking.and_then(|asking| first(armed, view, pending.rsp, asking)) {
            regs.rax = call.number;
            [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9] = call.args;
        } else {
            pending.note.asking = None;
            if !pending.call.returns() {
                return Ok(());
            }
        }
        regs.rip = ways.followed.0;
        armed.file(stack_top, pending);
        Ok(())
    }

    /// A thread has come back from the system-call dispatcher; RSP points at its saved registers. Decides where it
    /// goes on.
    pub(super) fn returned(&mut self, armed: &Armed, cpu: &mut dyn Cpu, regs: &mut kvm_regs) -> Result<()> {
        if self.per_cpu.is_none() {
            self.per_cpu = Some(Gva(cpu.msr(msr::GS_BASE)?)).filter(|base| base.is_kernel());
        }
        let at = Gva(regs.rsp);
        regs.rip = match armed.engine {
            Engine::Sce => armed.sites.iret_path.0,
            Engine::Entry => armed.sites.returned.at.0,
        };
        let view = armed.view(self.cr3);
        let registers = PtRegs::at(&view, at)?;
        let stack_top = at.offset(PtRegs::SIZE);
        let pending = {
            let mut state = armed.lock();
            state.counts.stops.returns += 1;
            let pending = state.calls.take(stack_top);
            if let Some(own) = pending.as_ref().filter(|pending| pending.note.asking.is_none()) {
                state.counts.returned(own.call.number);
            }
            pending
        };
        if let Some(mut pending) = pending {
            let own = pending.call;
            let next = match pending.note.asking.take() {
                Some(asking) => self
                    .answered(armed, &view, &registers, &mut pending, asking)
                    .inspect_err(|_| armed.lose(&pending)),
                None => self
                    .own(armed, &view, &registers, &mut pending)
                    .inspect_err(|_| armed.abandon([&pending])),
            };
            let next = next?;
            let call = match next {
                Next::Dispatch(call) => Some(call),
                Next::Own => Some(own),
                Next::Suspend | Next::Leave => None,
            };
            match next {
                Next::Dispatch(_) => armed.file(stack_top, pending),
                Next::Own if own.returns() => armed.file(stack_top, pending),
                Next::Suspend => suspend(armed, stack_top, pending),
                Next::Own | Next::Leave => {}
            }
            if let Some(call) = call {
                regs.rip = armed.mechanism.ways().again.0;
                regs.rdi = at.0;
                regs.rsi = call.number;
                return Ok(());
            }
        }
        if armed.engine == Engine::Sce { registers.clear_rf() } else { Ok(()) }
    }

    /// A call for us has come back.
    fn answered(
        &self,
        armed: &Armed,
        view: &View<'_>,
        registers: &PtRegs<'_>,
        pending: &mut Waiting,
        mut asking: Box<Asking>,
    ) -> Result<Next> {
        let back = Frames { resumes_at: pending.resumes_at, rsp: pending.rsp };
        let mut counts = InsightCounts::default();
        let next = asking.returned(view, registers, &pending.call, back, &mut counts);
        armed.lock().counts.insight += counts;
        let next = next?;
        if matches!(next, Next::Dispatch(_) | Next::Suspend) {
            pending.note.asking = Some(asking);
        }
        Ok(next)
    }

    /// A call of the thread's own has come back.
    fn own(
        &self,
        armed: &Armed,
        view: &View<'_>,
        registers: &PtRegs<'_>,
        pending: &mut Waiting,
    ) -> Result<Next> {
        let outcome = outcome(view, registers, pending)?;
        let call = pending.call;
        if makes_children(call.number)
            && let Outcome::Returned(child) = outcome
            && let Some(child) = u32::try_from(child).ok().filter(|&child| child > 0)
        {
            // Before its first call a child has its parent, unless that ends first.
            armed.lock().adopt(pending.ctx_id, child);
        }
        if pending.note.observers == 0 {
            return Ok(Next::Leave);
        }
        let told = self.tell(armed, view, pending.id, &call, &pending.note, Some(outcome));
        let Some((thread, inquiries)) = told else { return Ok(Next::Leave) };
        let observed = armed.linux.is_observed(view, pending.note.task).unwrap_or(true);
        let result = match outcome {
            Outcome::Returned(result) if !replaces_registers(call.number) => Some(result),
            _ => None,
        };
        let mut asking =
            Box::new(Asking::new(thread, inquiries, Then::Leave(result.unwrap_or_default()), observed));
        let interrupted = registers.ip()? != pending.resumes_at;
        if result.is_none() || interrupted {
            asking.close();
            return Ok(Next::Leave);
        }
        let Some(next) = first(armed, view, pending.rsp, &mut asking) else { return Ok(Next::Leave) };
        registers.before(&next)?;
        pending.note.asking = Some(asking);
        Ok(Next::Dispatch(next))
    }
}

/// The first call that is to be made for inquiries. They are somebody else's code: the state is not locked meanwhile.
fn first(armed: &Armed, view: &View<'_>, rsp: u64, asking: &mut Asking) -> Option<RawCall> {
    let mut counts = InsightCounts::default();
    let call = asking.next(view, rsp, &mut counts);
    armed.lock().counts.insight += counts;
    call
}

/// Remembers a call that its thread will make when it comes back from its signal handlers, if it does.
fn suspend(armed: &Armed, stack_top: Gva, pending: Waiting) {
    let mut state = armed.lock();
    let oldest = (state.suspended.len() >= MAX_SUSPENDED).then(|| state.suspended.remove(0));
    state.suspended.push((stack_top, pending));
    drop(state);
    oldest.iter().for_each(|(_, call)| armed.lose(call));
}

/// What became of a call whose thread is on its way to user mode.
fn outcome(view: &View<'_>, registers: &PtRegs<'_>, pending: &Waiting) -> Result<Outcome> {
    let (ip, ax) = (registers.ip()?, registers.ax()?);
    let replaced = matches!(pending.call.number, EXECVE | EXECVEAT) && ax == 0;
    if ip == pending.resumes_at || pending.call.number == RT_SIGRETURN || replaced {
        return Ok(Outcome::Returned(ax));
    }
    let sp = registers.sp()?;
    if sp == pending.rsp && ip == pending.resumes_at.wrapping_sub(SYSCALL_LENGTH) {
        return Ok(Outcome::Restarts);
    }
    // A handler runs first; what the call gave is in its frame.
    let frames = Frames { resumes_at: pending.resumes_at, rsp: pending.rsp };
    Ok(match frames.find(view, sp) {
        Ok(frame) if frame.restarts(pending.resumes_at) => Outcome::Restarts,
        Ok(frame) => Outcome::Returned(frame.result()),
        Err(_) => Outcome::Unknown,
    })
}
