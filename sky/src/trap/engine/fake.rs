//! A guest made by hand, for tests of the engine: a kernel's structures and text, CPUs that run it, threads.
//!
//! The CPUs stop where the guest's text or their debug registers say so, not where a test says: what is missing in
//! either is found out.

mod cpu;
mod kernel;
mod recorder;
mod signals;

use std::sync::{Arc, Mutex};

use kvm_bindings::kvm_regs;

use super::Sky;
use super::arm::msr;
use super::armed::Armed;
use super::frames::{PtRegs, RF};
use crate::observer::Observer;
use crate::trap::cpu::mock::MockCpu;
use crate::trap::{CSTAR as CSTAR_MSR, CompatEntry, EFER, LSTAR as LSTAR_MSR, SYSENTER_EIP};
use crate::{Config, Report};

pub(super) use cpu::{FakeCpu, Ran};
pub(super) use kernel::*;
pub(super) use recorder::{Event, Recorder};

pub(super) const PORT: u8 = 0xe8;
pub(super) const USER_CODE: u64 = 0x10_0000;
pub(super) const HANDLER: u64 = 0x10_1000;
pub(super) const USER_BUFFER: u64 = 0x11_0000;
pub(super) const USER_FLAGS: u64 = 0x246;
pub(super) const FMASK: u64 = 0x4_7700;
/// The engines and mechanisms that there are.
pub(super) const COMBINATIONS: [(&str, &str); 4] =
    [("sce", "port"), ("sce", "debug"), ("entry", "port"), ("entry", "debug")];
/// Slot of the guest's first task, which was there before the traps.
pub(super) const INIT: usize = 0;
pub(super) const SLOTS: usize = 8;

pub(super) fn user_stack(slot: usize) -> u64 {
    0x20_0000 + (slot as u64 + 1) * 0x1_0000
}

/// A thread of the fake guest.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Task {
    pub(super) leader: usize,
    pub(super) pid: u32,
    pub(super) ctx_id: u64,
    pub(super) alive: bool,
    pub(super) in_call: bool,
    /// Its registers in user mode.
    pub(super) user: kvm_regs,
}

/// How a fake guest is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup<'a> {
    pub(super) combination: (&'a str, &'a str),
    pub(super) cpus: u32,
    pub(super) rules: &'a str,
    pub(super) wants: &'a [u64],
    pub(super) asks: bool,
}

impl Setup<'_> {
    pub(super) fn of(combination: (&'static str, &'static str)) -> Setup<'static> {
        let rules = "[[process]]\nexecutable = 'writer'";
        Setup { combination, cpus: 1, rules, wants: &[], asks: false }
    }
}

pub(super) struct Fake {
    pub(super) kernel: Kernel,
    pub(super) sky: Arc<Sky>,
    pub(super) cpus: Vec<FakeCpu>,
    pub(super) tasks: [Task; SLOTS],
    log: Arc<Mutex<Vec<Event>>>,
    next_ctx: u64,
    next_pid: u32,
}

impl Fake {
    /// A guest that has booted; nothing is set yet.
    pub(super) fn new(setup: Setup<'_>) -> Self {
        let log = Arc::default();
        let recorder = Recorder { wants: setup.wants.to_vec(), asks: setup.asks, log: Arc::clone(&log) };
        Self { log, ..Self::observed(setup, Arc::new(recorder)) }
    }

    /// One that another observer is told of.
    pub(super) fn observed(setup: Setup<'_>, observer: Arc<dyn Observer>) -> Self {
        let kernel = Kernel::new();
        let (engine, mechanism) = setup.combination;
        let trap = format!("{}\n[trap]\nengine = '{engine}'\nmechanism = '{mechanism}'\n", setup.rules);
        let sky = Sky::with_observers(Config::parse(&trap).unwrap(), vec![observer]);
        sky.take_up(kernel.0.clone(), setup.cpus, Box::new(|| {}));
        let cpus = (0..setup.cpus)
            .map(|index| FakeCpu {
                mock: MockCpu::default(),
                vcpu: sky.vcpu(index).unwrap(),
                thread: INIT,
                stops: 0,
            })
            .collect();
        let tasks = [Task::default(); SLOTS];
        let mut fake = Self { kernel, sky, cpus, tasks, log: Arc::default(), next_ctx: 5, next_pid: 1 };
        fake.spawn(INIT, INIT, "init", "init");
        for index in 0..fake.cpus.len() {
            let cpu = &mut fake.cpus[index].mock;
            cpu.sregs.cr3 = directory(INIT);
            cpu.sregs.idt.base = IDT;
            cpu.regs = kvm_regs { rip: BASE + 0x6_0000, rflags: 2, ..Default::default() };
            cpu.msrs.extend([
                (EFER, 0xd01),
                (msr::STAR, 0x0023_0010 << 32),
                (LSTAR_MSR, LSTAR),
                (CSTAR_MSR, CSTAR),
                (SYSENTER_EIP, SYSENTER),
                (msr::FMASK, FMASK),
            ]);
            fake.kernel.word(per_cpu(index) + CURRENT, object(INIT));
            fake.kernel.word(per_cpu(index) + STACK_TOP, stack_top(INIT));
            fake.kernel.word(per_cpu(index) + CONTEXTS, fake.tasks[INIT].ctx_id);
            fake.cpus[index].set_mode(false, per_cpu(index));
        }
        fake
    }

    pub(super) fn armed(setup: Setup<'_>) -> Self {
        let mut fake = Self::new(setup);
        fake.arm();
        let report = fake.sky.report();
        assert_eq!((report.problem, report.armed), (None, true));
        // Nothing here depends on how long it takes.
        fake.state().lock().swept = std::time::Instant::now() + std::time::Duration::from_secs(3600);
        fake
    }

    pub(super) fn arm(&mut self) {
        self.sky.arm();
        self.before_run();
        self.before_run();
    }

    pub(super) fn state(&self) -> Arc<Armed> {
        self.sky.armed().unwrap()
    }

    pub(super) fn report(&self) -> Report {
        self.sky.report()
    }

    pub(super) fn log(&self) -> Vec<Event> {
        self.log.lock().unwrap().clone()
    }

    /// Every virtual CPU leaves the guest, says where it stands, and hears the news, as kicks would make them.
    pub(super) fn before_run(&mut self) {
        (0..self.cpus.len()).for_each(|index| self.comes_by(index));
    }

    /// Only virtual CPU `index` hears the news; the others have left the guest and got no further.
    pub(super) fn comes_by(&mut self, index: usize) {
        for cpu in &mut self.cpus {
            let position = cpu.vcpu.position(&mut cpu.mock).unwrap();
            cpu.vcpu.machine.place(cpu.vcpu.index, position);
            cpu.vcpu.machine.rendezvous.leave(cpu.vcpu.index);
        }
        let FakeCpu { mock, vcpu, .. } = &mut self.cpus[index];
        vcpu.before_run(mock).unwrap();
    }

    /// Asks Sky for something from a thread of its own, while the virtual CPUs come by.
    pub(super) fn ask<T: Send>(&mut self, work: impl FnOnce(&Sky) -> T + Send) -> T {
        let sky = Arc::clone(&self.sky);
        let answer = std::thread::scope(|scope| {
            let asked = scope.spawn(move || work(&sky));
            while !asked.is_finished() {
                self.before_run();
                std::thread::yield_now();
            }
            asked.join().unwrap()
        });
        // Whoever has not heard of it yet does before it runs.
        self.before_run();
        answer
    }

    fn link(&self) {
        let alive = self.tasks.iter().enumerate().filter(|(_, task)| task.alive);
        self.kernel.link(&alive.map(|(slot, task)| (slot, task.leader)).collect::<Vec<_>>());
    }

    /// A new process, in user mode.
    pub(super) fn spawn(&mut self, slot: usize, parent: usize, executable: &str, command: &str) {
        let (ctx_id, pid) = (self.next_ctx, self.next_pid);
        self.next_ctx += 1;
        self.next_pid += 1;
        self.kernel.process(Identity { slot, pid, ctx_id, parent, executable, command });
        self.tasks[slot] =
            Task { leader: slot, pid, ctx_id, alive: true, in_call: false, user: Self::user(slot) };
        self.link();
    }

    /// A new thread of the process in slot `leader`.
    pub(super) fn thread(&mut self, slot: usize, leader: usize) {
        let tid = self.next_pid;
        self.next_pid += 1;
        self.kernel.put(object(slot), &[0; 0x1000]);
        self.kernel.task(slot, leader, self.tasks[leader].pid, tid, INIT);
        self.tasks[slot] = Task { user: Self::user(slot), in_call: false, ..self.tasks[leader] };
        self.link();
    }

    /// Registers that are all different.
    fn user(slot: usize) -> kvm_regs {
        let base = slot as u64 * 0x100;
        let (rbx, rbp, r12, r13, r14, r15) = (base + 1, base + 2, base + 3, base + 4, base + 5, base + 6);
        let (rip, rsp, rflags) = (USER_CODE, user_stack(slot), USER_FLAGS);
        kvm_regs { rbx, rbp, r12, r13, r14, r15, rip, rsp, rflags, ..Default::default() }
    }

    pub(super) fn kill(&mut self, slot: usize) {
        self.tasks[slot].alive = false;
        self.link();
    }

    /// The process in `slot` runs another program from now on.
    pub(super) fn executes(&mut self, cpu: usize, slot: usize, executable: &str) {
        let ctx_id = self.next_ctx;
        self.next_ctx += 1;
        self.kernel.image(slot, ctx_id, executable, executable);
        self.tasks[slot].ctx_id = ctx_id;
        self.load(cpu, slot);
        let saved = stack_top(slot) - PtRegs::SIZE;
        // Another entry point each time.
        self.kernel.word(saved + 0x80, USER_CODE + 0x800 + ctx_id % 16 * 0x80);
        self.kernel.word(saved + 0x98, user_stack(slot) - 0x100);
    }

    /// The kernel loads the address space of a thread, if it is another.
    fn load(&mut self, cpu: usize, slot: usize) {
        let task = self.tasks[slot];
        if self.kernel.get(per_cpu(cpu) + CONTEXTS) == task.ctx_id {
            return;
        }
        self.kernel.word(per_cpu(cpu) + CONTEXTS, task.ctx_id);
        let cr3 = directory(task.leader);
        let fake = &mut self.cpus[cpu];
        fake.set_mode(false, per_cpu(cpu));
        fake.mock.sregs.cr3 = cr3;
        fake.mock.regs = kvm_regs { rdi: cr3 | 1 << 63, rip: SWITCH, rflags: 2, ..Default::default() };
        assert_eq!(fake.run(&self.kernel, PORT), Ran::Switched);
    }

    /// CPU `cpu` goes on with the thread in `slot`, in user mode or inside its call.
    pub(super) fn switch(&mut self, cpu: usize, slot: usize) {
        self.before_run();
        self.load(cpu, slot);
        let fake = &mut self.cpus[cpu];
        fake.thread = slot;
        self.kernel.word(per_cpu(cpu) + CURRENT, object(slot));
        self.kernel.word(per_cpu(cpu) + STACK_TOP, stack_top(slot));
        let task = self.tasks[slot];
        fake.set_mode(!task.in_call, per_cpu(cpu));
        fake.mock.regs = if task.in_call {
            kvm_regs { rip: DISPATCHER + 0x10, rflags: 2, ..Default::default() }
        } else {
            task.user
        };
    }

    /// The thread on `cpu` faults at code that is `text`.
    pub(super) fn fault(&mut self, cpu: usize, text: &[u8]) -> Ran {
        let regs = self.cpus[cpu].mock.regs;
        self.kernel.put(regs.rip, text);
        let frame = [regs.rip, 0x33, regs.rflags | RF, regs.rsp, 0x2b];
        for (at, value) in (0u64..).zip(frame) {
            self.kernel.word(entry_stack(cpu) + at * 8, value);
        }
        let fake = &mut self.cpus[cpu];
        fake.mock.sregs.cs.selector = 0x10;
        fake.mock.regs =
            kvm_regs { rip: GATE, rsp: entry_stack(cpu), rflags: regs.rflags & !0x700 | 2, ..regs };
        fake.run(&self.kernel, PORT)
    }

    /// The thread on `cpu` executes SYSCALL, to the dispatcher.
    pub(super) fn call(&mut self, cpu: usize, number: u64, args: [u64; 6]) -> Ran {
        self.before_run();
        let fake = &mut self.cpus[cpu];
        let [rdi, rsi, rdx, r10, r8, r9] = args;
        let regs = kvm_regs { rax: number, rdi, rsi, rdx, r10, r8, r9, ..self.tasks[fake.thread].user };
        // RF has gone with the instructions before.
        fake.mock.regs = kvm_regs { rflags: regs.rflags & !RF, ..regs };
        self.tasks[fake.thread].in_call = true;
        let ran = if fake.sce() == 0 {
            self.fault(cpu, &[0x0f, 0x05])
        } else {
            self.kernel.put(regs.rip, &[0x0f, 0x05]);
            fake.mock.sregs.cs.selector = 0x10;
            let (lstar, flags) = (fake.mock.msrs[&LSTAR_MSR], regs.rflags & !RF);
            (fake.mock.regs.rcx, fake.mock.regs.r11) = (regs.rip + 2, flags);
            (fake.mock.regs.rip, fake.mock.regs.rflags) = (lstar, flags & !FMASK | 2);
            fake.run(&self.kernel, PORT)
        };
        if ran == Ran::Dispatcher {
            let regs = self.cpus[cpu].mock.regs;
            assert_eq!(regs.rdi, self.saved(cpu), "the dispatcher's first argument");
            assert_eq!((regs.rsi, self.get(cpu, 0x78)), (regs.rax, regs.rax), "its second");
        }
        ran
    }

    /// The thread on `cpu` makes a 32-bit call, to the guest's own entry.
    pub(super) fn compat_call(&mut self, cpu: usize, entry: CompatEntry) -> Ran {
        self.before_run();
        let gate = [6, 4, 2, 0].map(|byte| self.kernel.get(IDT + 0x800 + byte) & 0xffff);
        let fake = &mut self.cpus[cpu];
        let msr = |index| fake.mock.msrs[&index];
        let rip = match entry {
            CompatEntry::Int80 => gate[3] | gate[0] << 16 | self.kernel.get(IDT + 0x808) << 32,
            CompatEntry::Sysenter => msr(SYSENTER_EIP),
            CompatEntry::Syscall => msr(CSTAR_MSR),
        };
        let user = self.tasks[fake.thread].user;
        let rsp = if entry == CompatEntry::Syscall { user.rsp } else { entry_stack(cpu) };
        fake.mock.sregs.cs.selector = 0x10;
        fake.mock.regs = kvm_regs { rip, rsp, rflags: 0x246, ..user };
        let ran = fake.run(&self.kernel, PORT);
        assert_eq!((fake.mock.regs.rsp, fake.mock.msrs[&msr::GS_BASE]), (rsp, 0), "as it came");
        fake.mock.regs = user;
        fake.set_mode(true, per_cpu(cpu));
        ran
    }

    /// Where the registers of the thread on `cpu` are saved.
    pub(super) fn saved(&self, cpu: usize) -> u64 {
        stack_top(self.cpus[cpu].thread) - PtRegs::SIZE
    }

    pub(super) fn get(&self, cpu: usize, offset: u64) -> u64 {
        self.kernel.get(self.saved(cpu) + offset)
    }

    /// The dispatcher returns: the call of the thread on `cpu` gave `result`.
    pub(super) fn finish(&mut self, cpu: usize, result: i64) -> Ran {
        self.kernel.word(self.saved(cpu) + 0x50, result.cast_unsigned());
        self.leave(cpu)
    }

    /// The dispatcher returns with the saved registers as they are.
    pub(super) fn leave(&mut self, cpu: usize) -> Ran {
        self.before_run();
        let saved = self.saved(cpu);
        let [r11, cx, ip, flags] = [0x30, 0x58, 0x80, 0x90].map(|offset| self.kernel.get(saved + offset));
        // do_syscall_64() of Linux 6.12.
        let sysret = cx == ip && r11 == flags && flags & (RF | 1 << 8) == 0;
        let fake = &mut self.cpus[cpu];
        fake.set_mode(false, per_cpu(cpu));
        let rip = self.kernel.get(saved - 8);
        fake.mock.regs =
            kvm_regs { rax: u64::from(sysret), rip, rsp: saved, rflags: 2, ..Default::default() };
        let ran = fake.run(&self.kernel, PORT);
        if ran == Ran::User {
            let thread = fake.thread;
            self.tasks[thread].user = fake.mock.regs;
            self.tasks[thread].in_call = false;
        }
        ran
    }

    /// Whether virtual CPU `cpu` watches calls, as its registers say; they must say one thing or the other.
    pub(super) fn watches(&self, cpu: usize) -> bool {
        let armed = self.state();
        let (sites, mock) = (&armed.sites, &self.cpus[cpu].mock);
        let detour = armed.mechanism.ways().followed.0 - 2;
        let switches: Vec<u64> = sites.switches.iter().map(|site| site.at.0).collect();
        let debug = armed.mechanism_name() == "debug";
        let (sce, registers, lstar) = (armed.engine_name() == "sce", mock.breaks(), mock.msrs[&LSTAR_MSR]);
        let expected = |calls: bool| {
            let mut breaks = switches.clone();
            breaks.extend(Some(GATE).filter(|_| sce));
            breaks.extend(Some(sites.returned.at.0).filter(|_| calls));
            breaks.extend(Some(LSTAR).filter(|_| calls && !sce));
            breaks.retain(|_| debug);
            let entry = if calls && !sce && !debug { detour } else { LSTAR };
            (u64::from(!(sce && calls)), breaks, entry)
        };
        let real = (mock.msrs[&EFER] & 1, registers, lstar);
        if real == expected(true) {
            return true;
        }
        assert_eq!(real, expected(false));
        false
    }
}
