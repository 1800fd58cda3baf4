//! What is known of a guest whose traps are set: what never changes, and what all its virtual CPUs share.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use vm_memory::GuestMemoryMmap;

use super::asking::{Note, Suspended};
use super::counts::Counts;
use crate::guest::{Gva, Linux, Process, View};
use crate::observer::{CallId, CallSet, Observer, ProcessEvent};
use crate::process::{Facts, Outstanding, Pending, Rule, Space, Spaces};
use crate::trap::engine::frames::PtRegs;
use crate::trap::sites::Sites;
use crate::trap::{Engine, Mechanism};

/// What the CPU does at SYSCALL, from its registers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) lstar: u64,
    pub(super) cstar: u64,
    pub(super) fmask: u64,
    pub(super) user_cs64: u64,
    pub(super) user_cs32: u64,
}

/// A guest whose traps are set.
pub(crate) struct Armed {
    parts: Parts,
    pub(super) interest: Interest,
    state: Mutex<State>,
}

/// What is found out when traps are set, and never changes.
pub(crate) struct Parts {
    pub(super) memory: GuestMemoryMmap,
    pub(super) engine: Engine,
    pub(super) sites: Sites,
    pub(super) linux: Linux,
    pub(super) entry: Entry,
    /// Bytes of a thread's kernel stack.
    pub(super) stack_size: u64,
    pub(super) five_level: bool,
    /// Whether page-table isolation gives user mode a page directory of its own.
    pub(super) isolated: bool,
    /// The guest's own `iretq`, for a way back to user mode from the first instruction of an exception handler.
    pub(super) iretq: Gva,
    /// The guest's first task, number 0, which never ends: where walks over all tasks begin.
    pub(super) first_task: Gva,
    pub(super) mechanism: Box<dyn Mechanism>,
    pub(super) observers: Vec<Arc<dyn Observer>>,
}

impl Deref for Armed {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}

impl std::fmt::Debug for Armed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Armed")
            .field("engine", &self.engine)
            .field("mechanism", &self.mechanism)
            .field("sites", &self.sites)
            .finish_non_exhaustive()
    }
}

impl Armed {
    pub(super) fn new(parts: Parts, every_return: bool, state: State) -> Self {
        let interest = Interest::new(&parts.observers, every_return);
        Self { parts, interest, state: Mutex::new(state) }
    }

    pub(crate) fn mechanism_name(&self) -> &'static str {
        self.mechanism.name()
    }

    pub(crate) fn engine_name(&self) -> &'static str {
        self.engine.name()
    }

    pub(super) fn view(&self, cr3: u64) -> View<'_> {
        View::new(&self.memory, cr3, self.five_level)
    }

    /// Changes are complete before anything can panic, so a poisoned lock is usable.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the observers of calls that will not come back. Not to be called while the state is locked.
    pub(super) fn abandon<'a>(&self, calls: impl IntoIterator<Item = &'a Waiting>) {
        for call in calls {
            for observer in self.chosen(call.note.observers) {
                observer.abandoned(call.id);
            }
        }
    }

    /// A call will not come back, or nobody will know it if it does.
    pub(super) fn lose(&self, call: &Waiting) {
        self.lock().counts.unreturned += 1;
        self.abandon([call]);
    }

    /// Files a call under its thread. The one whose place it takes is lost.
    pub(super) fn file(&self, stack_top: Gva, pending: Waiting) {
        let replaced = self.lock().calls.enter(stack_top, pending);
        replaced.iter().for_each(|old| self.lose(old));
    }

    pub(super) fn tell(&self, event: &ProcessEvent) {
        for observer in &self.observers {
            observer.process(event);
        }
    }

    /// The observers whose bit is set.
    pub(super) fn chosen(&self, bits: u32) -> impl Iterator<Item = &Arc<dyn Observer>> {
        self.observers
            .iter()
            .enumerate()
            .filter(move |(at, _)| bits >> at & 1 == 1)
            .map(|(_, observer)| observer)
    }

    /// Forgets the calls of threads, and the processes, that are no more. What was killed says nothing. `cr3` is a
    /// page directory that is loaded.
    pub(crate) fn sweep(&self, cr3: u64) {
        let view = self.view(cr3);
        // What comes after this may be of a thread that the walk misses.
        let (before, spaces) = {
            let mut state = self.lock();
            state.ending = false;
            state.swept = Instant::now();
            let spaces = state.spaces.monitored().map(|(ctx_id, process)| (ctx_id, process.pid));
            (state.next_call, spaces.collect::<Vec<_>>())
        };
        // A list that changes while it is walked may end in an error: then nothing is forgotten this time.
        let Ok(threads) = self.linux.threads(&view, self.first_task) else { return };
        let alive: BTreeMap<Gva, u64> =
            threads.iter().map(|thread| (thread.stack.offset(self.stack_size), thread.ctx_id)).collect();
        let mut state = self.lock();
        let mut gone = state.calls.drain(|stack_top, pending| {
            pending.id.0 <= before && alive.get(&stack_top).is_none_or(|&ctx_id| ctx_id == 0)
        });
        let living = threads.iter().filter(|thread| thread.ctx_id != 0);
        let (in_use, processes): (BTreeSet<u64>, BTreeSet<u32>) =
            living.map(|thread| (thread.ctx_id, thread.pid)).unzip();
        let mut pids = Vec::new();
        // A process that lives without its address space is inside execve, or has just come back from it: its call is
        // still to return, its children are still wanted, and its next call tells what it has become.
        let ended = |(ctx_id, pid): &(u64, u32)| !in_use.contains(ctx_id) && !processes.contains(pid);
        for (ctx_id, _) in spaces.into_iter().filter(ended) {
            if let Some((pid, calls)) = state.forget_space(ctx_id) {
                pids.push(pid);
                gone.extend(calls);
            }
        }
        state.counts.unreturned += gone.len() as u64;
        drop(state);
        self.abandon(gone.iter().map(|(_, call)| call));
        pids.into_iter().for_each(|pid| self.tell(&ProcessEvent::Ends { pid }));
    }
}

/// What virtual CPUs share.
#[derive(Debug)]
pub(crate) struct State {
    pub(super) rules: Vec<(u64, Rule)>,
    pub(super) next_rule: u64,
    pub(super) spaces: Spaces,
    /// Processes whose children are monitored, too, and the rule that says so.
    pub(super) families: BTreeMap<u32, u64>,
    pub(super) calls: Outstanding<Note>,
    pub(super) suspended: Vec<Suspended>,
    pub(super) next_call: u64,
    pub(super) swept: Instant,
    /// A process has begun to end since.
    pub(super) ending: bool,
    /// Nothing is to be watched any more.
    pub(super) closing: bool,
    pub(crate) counts: Counts,
}

impl State {
    pub(super) fn next_id(&mut self) -> CallId {
        self.next_call += 1;
        CallId(self.next_call)
    }

    /// Which rule wants a process, and whether its children are wanted, too.
    pub(super) fn wanted(&self, facts: &mut dyn Facts) -> Option<(u64, bool)> {
        let inherited = self.families.get(&facts.pid()).copied();
        let inherited = inherited.or_else(|| self.families.get(&facts.parent_pid()?).copied());
        if let Some(rule) = inherited {
            return Some((rule, true));
        }
        let mut found = None;
        for (number, rule) in &self.rules {
            if rule.holds(facts) {
                if rule.source.children {
                    return Some((*number, true));
                }
                found.get_or_insert((*number, false));
            }
        }
        found
    }

    /// An address space is monitored no longer; if it is still in use its next call will tell by whom. Gives its
    /// process, and its calls that have not returned, each with the top of its thread's stack.
    pub(super) fn forget_space(&mut self, ctx_id: u64) -> Option<(u32, Vec<(Gva, Waiting)>)> {
        let pid = self.spaces.process(ctx_id).map(|process| process.pid)?;
        self.spaces.forget(ctx_id);
        self.families.remove(&pid);
        let mut calls = self.calls.drain_space(ctx_id);
        calls.extend(self.suspended.extract_if(.., |(_, call)| call.ctx_id == ctx_id));
        Some((pid, calls))
    }

    /// Process `child` has been made by the one that has address space `ctx_id`.
    pub(super) fn adopt(&mut self, ctx_id: u64, child: u32) {
        let parent = self.spaces.process(ctx_id).map(|process| process.pid);
        if let Some(rule) = parent.and_then(|pid| self.families.get(&pid)).copied() {
            self.families.insert(child, rule);
        }
    }

    pub(super) fn space(&self, ctx_id: u64) -> Space {
        self.spaces.get(ctx_id)
    }

    /// How many calls have not returned.
    pub(crate) fn outstanding(&self) -> usize {
        self.calls.len() + self.suspended.len()
    }

    pub(crate) fn spaces(&self) -> &Spaces {
        &self.spaces
    }

    pub(crate) fn rules(&self) -> &[(u64, Rule)] {
        &self.rules
    }
}

/// Which calls matter to whom, for the hot path.
#[derive(Debug)]
pub(super) struct Interest {
    /// For each number, a bit for each observer that wants it.
    observers: Box<[u32; CallSet::SIZE]>,
    /// The same for all numbers beyond.
    others: u32,
    pub(super) every_return: bool,
}

impl Interest {
    fn new(observers: &[Arc<dyn Observer>], every_return: bool) -> Self {
        let mut bits = Box::new([0u32; CallSet::SIZE]);
        let mut others = 0;
        for (at, observer) in observers.iter().enumerate() {
            let wants = observer.wants();
            for (number, bits) in (0u64..).zip(bits.iter_mut()) {
                *bits |= u32::from(wants.contains(number)) << at;
            }
            others |= u32::from(wants.contains(u64::MAX)) << at;
        }
        Self { observers: bits, others, every_return }
    }

    pub(super) fn observers(&self, number: u64) -> u32 {
        let numbered = usize::try_from(number).ok().and_then(|number| self.observers.get(number));
        numbered.copied().unwrap_or(self.others)
    }
}

/// What the guest's kernel says of a process, looked up when it is asked for.
pub(super) struct GuestFacts<'a> {
    linux: &'a Linux,
    view: View<'a>,
    process: &'a Process,
    path: Option<Option<String>>,
    command: Option<Option<String>>,
    parent: Option<Option<Process>>,
}

impl<'a> GuestFacts<'a> {
    pub(super) fn new(linux: &'a Linux, view: View<'a>, process: &'a Process) -> Self {
        Self { linux, view, process, path: None, command: None, parent: None }
    }

    fn parent(&mut self) -> Option<&Process> {
        let (linux, view, task) = (self.linux, &self.view, self.process.task);
        self.parent
            .get_or_insert_with(|| {
                linux.parent(view, task).and_then(|parent| linux.process(view, parent)).ok().flatten()
            })
            .as_ref()
    }
}

impl Facts for GuestFacts<'_> {
    fn pid(&self) -> u32 {
        self.process.pid
    }

    fn executable(&self) -> &str {
        &self.process.executable
    }

    fn path(&mut self) -> Option<&str> {
        let (linux, view, task) = (self.linux, &self.view, self.process.task);
        self.path.get_or_insert_with(|| linux.executable_path(view, task).ok()).as_deref()
    }

    fn command(&mut self) -> Option<&str> {
        let (linux, view, task) = (self.linux, &self.view, self.process.task);
        self.command.get_or_insert_with(|| linux.command_line(view, task).ok()).as_deref()
    }

    fn parent_pid(&mut self) -> Option<u32> {
        self.parent().map(|parent| parent.pid)
    }

    fn parent_executable(&mut self) -> Option<&str> {
        self.parent().map(|parent| parent.executable.as_str())
    }
}

/// Where the saved registers of a thread lie that is inside the kernel, and the return address of the dispatcher.
pub(super) fn saved_registers(stack_top: Gva) -> (Gva, Gva) {
    let registers = Gva(stack_top.0.wrapping_sub(PtRegs::SIZE));
    (registers, Gva(registers.0.wrapping_sub(8)))
}

pub(super) type Waiting = Pending<Note>;
