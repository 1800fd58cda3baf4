//! Any order of events on two virtual CPUs, against a model that knows nothing of traps.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::syscall::Outcome;

const READ: u64 = 0;
const FORK: u64 = 57;
const EXECVE: u64 = 59;
const EXIT: u64 = 60;
/// What the recorder wants to know of; the tracker wants to know of writes, too.
const WANTED: [u64; 5] = [READ, WRITE, FORK, EXECVE, EXIT_GROUP];
/// What the tracker wants besides: whatever reads, writes or changes files.
const TRACKED: [u64; 38] = [
    2, 9, 11, 17, 18, 19, 20, 25, 26, 40, 74, 75, 76, 77, 82, 85, 86, 87, 162, 209, 257, 263, 264, 265, 275,
    277, 285, 295, 296, 306, 316, 322, 326, 327, 328, 425, 426, 437,
];
/// Slots of the threads: two of one process, and a child of theirs.
const THREADS: [usize; 3] = [1, 2, 3];
const CHILD: usize = 3;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A virtual CPU goes on with another thread, or with one that ran on the other CPU before.
    Switch(usize, usize),
    Enter(usize, u64),
    Return(usize, i64),
    /// Inside execve: the address space is another from here on, that of a writer or not.
    Executes(usize, bool),
    /// A handler runs first. The call is made again if there is no result.
    Signal(usize, Option<i64>),
    Handled(usize),
    Ud2(usize),
    /// Somebody looks for what was killed.
    Sweep(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let call = prop_oneof![
        6 => prop_oneof![Just(READ), Just(WRITE), Just(GETPID), 70..600u64],
        3 => prop_oneof![Just(FORK), Just(EXECVE)],
        1 => prop_oneof![Just(EXIT), Just(EXIT_GROUP)],
    ];
    let result = prop_oneof![Just(0i64), 1..5000i64, -133..0i64];
    prop_oneof![
        4 => (0..2usize, 0..4usize).prop_map(|(cpu, slot)| Step::Switch(cpu, slot)),
        6 => (0..2usize, call).prop_map(|(cpu, number)| Step::Enter(cpu, number)),
        5 => (0..2usize, result.clone()).prop_map(|(cpu, result)| Step::Return(cpu, result)),
        2 => (0..2usize, any::<bool>()).prop_map(|(cpu, writer)| Step::Executes(cpu, writer)),
        2 => (0..2usize, proptest::option::of(result)).prop_map(|(cpu, result)| Step::Signal(cpu, result)),
        2 => (0..2usize).prop_map(Step::Handled),
        1 => (0..2usize).prop_map(Step::Ud2),
        1 => (0..2usize).prop_map(Step::Sweep),
    ]
}

/// What should be known, and said.
#[derive(Default)]
struct Model {
    events: Vec<Event>,
    /// By address space: the process, if it is monitored.
    known: BTreeMap<u64, Option<u32>>,
    /// By thread: id, address space, whether the recorder knows of it.
    pending: BTreeMap<usize, (u64, u64, bool)>,
    next_id: u64,
    loaded: [u64; 2],
    watches: [bool; 2],
}

impl Model {
    fn abandon(&mut self, gone: impl Fn(usize, u64) -> bool) {
        let slots: Vec<usize> =
            self.pending.iter().filter(|(slot, call)| gone(**slot, call.1)).map(|(&slot, _)| slot).collect();
        for slot in slots {
            if let Some((id, _, true)) = self.pending.remove(&slot) {
                self.events.push(Event::Abandoned(id));
            }
        }
    }

    fn load(&mut self, cpu: usize, ctx_id: u64) {
        if self.loaded[cpu] != ctx_id {
            self.loaded[cpu] = ctx_id;
            self.watches[cpu] = !matches!(self.known.get(&ctx_id), Some(None));
        }
    }

    fn enter(&mut self, cpu: usize, slot: usize, task: &Task, tid: u32, writer: bool, number: u64) {
        if !self.watches[cpu] {
            return;
        }
        let (pid, ctx_id) = (task.pid, task.ctx_id);
        if !self.known.contains_key(&ctx_id) {
            let before: Vec<u64> = self
                .known
                .iter()
                .filter(|(_, other)| **other == Some(pid))
                .map(|(&ctx_id, _)| ctx_id)
                .collect();
            for &old in &before {
                self.abandon(|_, of| of == old);
                self.known.insert(old, None);
            }
            let ends = before.iter().filter(|_| !writer).map(|_| Event::Ends(pid));
            self.events.extend(ends);
            self.events.extend(writer.then_some(Event::Begins(pid)));
            self.known.insert(ctx_id, writer.then_some(pid));
        }
        if self.known[&ctx_id].is_none() {
            self.watches[cpu] = false;
            return;
        }
        if !WANTED.contains(&number) {
            // The tracker's.
            if TRACKED.contains(&number) {
                self.next_id += 1;
                let id = self.next_id;
                self.abandon(|other, _| other == slot);
                self.pending.insert(slot, (id, ctx_id, false));
            }
            return;
        }
        self.next_id += 1;
        let id = self.next_id;
        self.events.push(Event::Entered { id, pid, tid, number });
        if number != EXIT_GROUP {
            self.abandon(|other, _| other == slot);
            self.pending.insert(slot, (id, ctx_id, true));
        }
    }

    /// What is no longer alive is found to be gone; `alive` are threads and their processes.
    fn swept(&mut self, alive: &[(usize, u32)]) {
        self.abandon(|slot, _| !alive.iter().any(|&(other, _)| other == slot));
        for process in self.known.values_mut() {
            if let Some(pid) = process.take_if(|pid| !alive.iter().any(|&(_, other)| other == *pid)) {
                self.events.push(Event::Ends(pid));
            }
        }
    }

    fn returned(&mut self, slot: usize, outcome: Outcome) {
        if let Some((id, _, true)) = self.pending.remove(&slot) {
            self.events.push(Event::Returned { id, outcome });
        }
    }
}

/// In what order several calls are abandoned at once says nothing.
fn sorted(events: &[Event]) -> Vec<Event> {
    let mut sorted = events.to_vec();
    for run in sorted.chunk_by_mut(|a, b| matches!((a, b), (Event::Abandoned(_), Event::Abandoned(_)))) {
        run.sort_unstable_by_key(|event| if let Event::Abandoned(id) = event { *id } else { 0 });
    }
    sorted
}

/// The guest and its model, and what neither of them needs to know.
struct World {
    fake: Fake,
    model: Model,
    /// Number of the call that each thread is in, whether that is an execve with its new address space, and how many
    /// handlers run.
    calls: [u64; SLOTS],
    executed: [bool; SLOTS],
    handlers: [u32; SLOTS],
    writers: [bool; SLOTS],
}

impl World {
    fn new(combination: (&'static str, &'static str)) -> Self {
        let mut fake = Fake::armed(Setup { cpus: 2, wants: &WANTED, ..Setup::of(combination) });
        fake.spawn(1, INIT, "writer", "writer");
        fake.thread(2, 1);
        let init = fake.tasks[INIT].ctx_id;
        let model = Model { loaded: [init; 2], known: BTreeMap::from([(init, None)]), ..Model::default() };
        Self {
            fake,
            model,
            calls: [0; SLOTS],
            executed: [false; SLOTS],
            handlers: [0; SLOTS],
            writers: [true; SLOTS],
        }
    }

    fn switch(&mut self, cpu: usize, slot: usize) {
        self.model.load(cpu, self.fake.tasks[slot].ctx_id);
        self.fake.switch(cpu, slot);
    }

    /// A thread is no more; a CPU that ran it idles.
    fn dies(&mut self, slot: usize) {
        self.fake.kill(slot);
        self.executed[slot] = false;
        self.handlers[slot] = 0;
        for cpu in 0..2 {
            if self.fake.cpus[cpu].thread == slot {
                self.switch(cpu, INIT);
            }
        }
    }

    fn siblings(&self, slot: usize) -> Vec<usize> {
        let leader = self.fake.tasks[slot].leader;
        let of = |&other: &usize| {
            other != slot && self.fake.tasks[other].alive && self.fake.tasks[other].leader == leader
        };
        THREADS.into_iter().filter(of).collect()
    }

    fn enter(&mut self, cpu: usize, number: u64) {
        let slot = self.fake.cpus[cpu].thread;
        let task = self.fake.tasks[slot];
        let tid = u32::try_from(self.fake.kernel.get(object(slot) + 0x30) >> 32).unwrap();
        self.model.enter(cpu, slot, &task, tid, self.writers[task.leader], number);
        assert_eq!(self.fake.call(cpu, number, [3, USER_BUFFER, 4096, 0, 0, 0]), Ran::Dispatcher);
        self.calls[slot] = number;
        match number {
            EXIT => self.dies(slot),
            EXIT_GROUP => {
                let others = self.siblings(slot);
                others.into_iter().chain([slot]).for_each(|slot| self.dies(slot));
                self.sweep(cpu);
            }
            _ => {}
        }
    }

    fn sweep(&mut self, cpu: usize) {
        self.fake.cpus[cpu].vcpu.sweep();
        let tasks = self.fake.tasks.iter().enumerate();
        let alive: Vec<(usize, u32)> =
            tasks.filter(|(_, task)| task.alive).map(|(slot, task)| (slot, task.pid)).collect();
        self.model.swept(&alive);
    }

    fn returns(&mut self, cpu: usize, result: i64) {
        let slot = self.fake.cpus[cpu].thread;
        let leader = self.fake.tasks[slot].leader;
        let result = match self.calls[slot] {
            FORK if !self.fake.tasks[CHILD].alive => {
                let name = if self.writers[leader] { "writer" } else { "sh" };
                self.fake.spawn(CHILD, leader, name, name);
                self.writers[CHILD] = self.writers[leader];
                self.handlers[CHILD] = 0;
                i64::from(self.fake.tasks[CHILD].pid)
            }
            EXECVE if std::mem::take(&mut self.executed[slot]) => 0,
            FORK | EXECVE => -11,
            _ => result,
        };
        self.model.returned(slot, Outcome::Returned(result));
        assert_eq!(self.fake.finish(cpu, result), Ran::User);
        let user = self.fake.tasks[slot].user;
        assert_eq!((user.rax.cast_signed(), user.rbx), (result, slot as u64 * 0x100 + 1));
    }

    fn executes(&mut self, cpu: usize, writer: bool) {
        let slot = self.fake.cpus[cpu].thread;
        self.siblings(slot).into_iter().for_each(|slot| self.dies(slot));
        self.writers[slot] = writer;
        self.fake.executes(cpu, slot, if writer { "writer" } else { "sh" });
        self.model.load(cpu, self.fake.tasks[slot].ctx_id);
        self.handlers[slot] = 0;
        self.executed[slot] = true;
    }

    fn step(&mut self, step: Step) {
        let (Step::Switch(cpu, _)
        | Step::Enter(cpu, _)
        | Step::Return(cpu, _)
        | Step::Executes(cpu, _)
        | Step::Signal(cpu, _)
        | Step::Handled(cpu)
        | Step::Ud2(cpu)
        | Step::Sweep(cpu)) = step;
        let slot = self.fake.cpus[cpu].thread;
        let in_call = self.fake.tasks[slot].in_call;
        let in_user_mode = slot != INIT && !in_call;
        match step {
            Step::Switch(_, to)
                if to == INIT || self.fake.tasks[to].alive && self.fake.cpus[1 - cpu].thread != to =>
            {
                self.switch(cpu, to);
            }
            Step::Enter(_, number) if in_user_mode => self.enter(cpu, number),
            Step::Return(_, result) if in_call => self.returns(cpu, result),
            Step::Sweep(_) => self.sweep(cpu),
            Step::Executes(_, writer)
                if in_call
                    && self.calls[slot] == EXECVE
                    && !self.executed[slot]
                    && self.fake.tasks[slot].leader == slot =>
            {
                self.executes(cpu, writer);
            }
            Step::Signal(_, result) if in_call && ![FORK, EXECVE].contains(&self.calls[slot]) => {
                self.model.returned(slot, result.map_or(Outcome::Restarts, Outcome::Returned));
                assert_eq!(self.fake.signal(cpu, result), Ran::User);
                assert_eq!(self.fake.tasks[slot].user.rip, HANDLER);
                self.handlers[slot] += 1;
            }
            Step::Handled(_) if in_user_mode && self.handlers[slot] > 0 => {
                self.handlers[slot] -= 1;
                let (task, leader) = (self.fake.tasks[slot], self.fake.tasks[slot].leader);
                self.model.enter(cpu, slot, &task, 0, self.writers[leader], 15);
                assert_eq!(self.fake.handled(cpu), Ran::User);
            }
            Step::Ud2(_) if in_user_mode => {
                let mode = self.fake.tasks[slot].user;
                self.fake.cpus[cpu].mock.regs = mode;
                assert_eq!(self.fake.fault(cpu, &[0x0f, 0x0b]), Ran::Fault);
                self.fake.cpus[cpu].set_mode(true, per_cpu(cpu));
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    /// Whatever happens in whatever order, in every combination: each virtual CPU watches the calls of exactly those
    /// that are not bystanders, SYSRET never runs with SCE clear, each followed call ends once, and observers are
    /// told the same.
    #[test]
    fn any_order_of_events_keeps_the_promises(steps in proptest::collection::vec(step(), 1..80)) {
        for combination in COMBINATIONS {
            let mut world = World::new(combination);
            for (at, &step) in steps.iter().enumerate() {
                world.step(step);
                for cpu in 0..2 {
                    let expected = world.model.watches[cpu];
                    prop_assert_eq!(world.fake.watches(cpu), expected, "cpu {} behind step {}", cpu, at);
                }
                let report = world.fake.report();
                prop_assert_eq!(report.problem, None);
                prop_assert_eq!(report.outstanding, world.model.pending.len() as u64);
            }
            let log = world.fake.log();
            prop_assert_eq!(sorted(&log), sorted(&world.model.events), "{:?}", combination);
            for event in &log {
                if let Event::Entered { id, number, .. } = event {
                    let ends = log.iter().filter(|event| match event {
                        Event::Returned { id: other, .. } | Event::Abandoned(other) => other == id,
                        _ => false,
                    });
                    let on_its_way = world.model.pending.values().any(|(other, ..)| other == id);
                    let expected = usize::from(*number != EXIT_GROUP && !on_its_way);
                    prop_assert_eq!(ends.count(), expected, "call {}", id);
                }
            }
        }
    }
}
