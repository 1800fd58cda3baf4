//! Beginning and ending to watch processes that run.

use super::*;
use crate::observer::CallId;
use crate::process::ProcessRule;
use crate::syscall::Outcome;
use crate::trap::engine::frames::PtRegs;
use crate::{Removal, Sky};

const READ: u64 = 0;
const ARGS: [u64; 6] = [3, 4, 5, 6, 7, 8];

/// A guest in which nobody is wanted, and a process that has run since before the traps.
fn running(combination: (&'static str, &'static str)) -> Fake {
    let rules = "[[process]]\nexecutable = 'nobody'";
    let mut fake = Fake::new(Setup { cpus: 2, rules, wants: &[READ, EXIT_GROUP], ..Setup::of(combination) });
    fake.spawn(WRITER, INIT, "writer", "writer");
    fake
}

fn add(sky: &Sky) -> u64 {
    sky.add(&ProcessRule::executable("writer")).unwrap()
}

fn slot(slot: usize) -> u64 {
    stack_top(slot) - PtRegs::SIZE - 8
}

#[test]
fn a_thread_inside_a_call_returns_to_a_stop() {
    for combination in COMBINATIONS {
        let mut fake = running(combination);
        fake.switch(0, WRITER);
        assert_eq!(fake.call(0, READ, ARGS), Ran::Dispatcher);
        fake.cpus[0].mock.regs.rip = DISPATCHER + 0x10;
        // Blocked in it, when the traps are set and later when it is wanted.
        fake.switch(0, INIT);
        fake.arm();
        let armed = fake.state();
        let own = fake.kernel.get(slot(WRITER));
        assert_eq!(own, armed.sites.returned.at.0);
        let number = fake.ask(add);
        assert_eq!(number, 1, "behind the rule that was there");
        let (pid, ctx_id) = (fake.tasks[WRITER].pid, fake.tasks[WRITER].ctx_id);
        assert_eq!(fake.log(), [Event::Begins(pid)]);
        {
            let mut state = armed.lock();
            assert_eq!(state.outstanding(), 1);
            let filed = state.calls.drain(|_, _| true);
            let (stack, pending) = &filed[0];
            assert_eq!((stack.0, pending.ctx_id, pending.id), (stack_top(WRITER), ctx_id, CallId(1)));
            assert_eq!((pending.call.number, pending.call.args), (READ, ARGS));
            assert_eq!((pending.resumes_at, pending.rsp), (USER_CODE + 2, user_stack(WRITER)));
            for (stack, pending) in filed {
                state.calls.enter(stack, pending);
            }
        }
        let (sce, port) = (combination.0 == "sce", combination.1 == "port");
        assert_eq!(fake.kernel.get(slot(WRITER)) != own, port);
        assert_eq!(fake.kernel.get(stack_top(WRITER) - PtRegs::SIZE + 0x90) & RF != 0, sce);
        assert_eq!(fake.report().attached, 1);
        // On another virtual CPU.
        fake.switch(1, WRITER);
        assert!(fake.watches(1) && !fake.watches(0));
        assert_eq!(fake.finish(1, 17), Ran::User);
        assert_eq!(fake.log()[1..], [Event::Returned { id: 1, outcome: Outcome::Returned(17) }]);
        let user = fake.tasks[WRITER].user;
        assert_eq!((user.rax, user.rip, user.rflags), (17, USER_CODE + 2, USER_FLAGS));
        assert_eq!(fake.call(1, READ, ARGS), Ran::Dispatcher);
        assert_eq!((fake.finish(1, 1), fake.log().len()), (Ran::User, 4));
    }
}

#[test]
fn a_thread_in_user_mode_is_in_no_call() {
    for combination in COMBINATIONS {
        let mut fake = running(combination);
        fake.switch(0, WRITER);
        // An old call is still to be seen on its kernel stack.
        fake.call(0, READ, ARGS);
        fake.finish(0, 1);
        fake.arm();
        fake.switch(0, WRITER);
        fake.ask(add);
        assert_eq!((fake.report().outstanding, fake.report().attached), (0, 1));
        assert!(fake.watches(0), "at once");
        assert_eq!(fake.call(0, READ, ARGS), Ran::Dispatcher);
        assert_eq!((fake.finish(0, 1), fake.report().calls["read"].returned), (Ran::User, 1));
    }
}

#[test]
fn a_process_with_a_thread_that_cannot_be_prepared_is_left_alone() {
    for combination in COMBINATIONS {
        let mut fake = running(combination);
        fake.thread(OTHER, WRITER);
        fake.switch(0, WRITER);
        assert_eq!(fake.call(0, READ, ARGS), Ran::Dispatcher);
        fake.cpus[0].mock.regs.rip = DISPATCHER + 0x10;
        // The second thread's kernel stack is nowhere.
        fake.kernel.word(object(OTHER) + 0x58, 0xffff_c900_0000_0000);
        fake.arm();
        fake.ask(add);
        let (report, saved) = (fake.report(), stack_top(WRITER) - PtRegs::SIZE);
        assert!(report.problem.is_some_and(|problem| problem.contains("not mapped")));
        assert_eq!((report.attached, fake.log(), fake.watches(0)), (0, vec![], false));
        assert_eq!(fake.kernel.get(saved + 0x90) & RF, 0, "nor is anything of it changed");
        assert_eq!(fake.kernel.get(slot(WRITER)), fake.state().sites.returned.at.0);
    }
}

#[test]
fn a_virtual_cpu_in_transit_is_waited_for() {
    for combination in COMBINATIONS {
        let mut fake = running(combination);
        fake.switch(0, WRITER);
        fake.arm();
        fake.cpus[1].mock.regs.rip = LSTAR + 8;
        let sky = std::sync::Arc::clone(&fake.sky);
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| add(&sky));
            let started = std::time::Instant::now();
            while started.elapsed() < std::time::Duration::from_millis(30) {
                fake.before_run();
            }
            assert!(!asked.is_finished(), "a thread stands between user mode and its saved registers");
            assert_eq!(fake.log(), []);
            fake.cpus[1].mock.regs.rip = DISPATCHER + 0x10;
            while !asked.is_finished() {
                fake.before_run();
            }
        });
        assert_eq!(fake.log(), [Event::Begins(fake.tasks[WRITER].pid)]);
    }
}

#[test]
fn what_is_left_alone_is_as_it_was() {
    for combination in COMBINATIONS {
        let mut fake = running(combination);
        let text = fake.kernel.bytes(BASE, 0x20_0000);
        fake.arm();
        fake.ask(add);
        fake.switch(0, WRITER);
        assert_eq!(fake.call(0, READ, ARGS), Ran::Dispatcher);
        assert_eq!(fake.kernel.bytes(BASE, 0x20_0000) != text, combination.1 == "port");
        let pid = fake.tasks[WRITER].pid;
        assert_eq!(fake.ask(|sky| sky.remove(Removal::Process(pid))).unwrap(), 1);
        assert_eq!(fake.log()[2..], [Event::Abandoned(1), Event::Ends(pid)]);
        let own = fake.state().sites.returned.at.0;
        assert_eq!(fake.kernel.get(slot(WRITER)), own, "back to the guest's own path");
        assert_eq!((fake.report().detached_calls, fake.watches(0)), (1, false));
        fake.cpus[0].mock.regs.rip = DISPATCHER + 0x10;
        fake.ask(Sky::detach).unwrap();
        assert_eq!(fake.kernel.bytes(BASE, 0x20_0000), text, "byte for byte");
        assert_eq!((fake.cpus[0].sce(), fake.cpus[0].mock.breaks()), (1, vec![]));
        assert_eq!(fake.cpus[0].mock.msrs[&crate::trap::LSTAR], LSTAR);
        let stops = fake.cpus[0].stops;
        assert_eq!((fake.finish(0, 9), fake.tasks[WRITER].user.rax), (Ran::User, 9));
        assert_eq!(fake.call(0, READ, ARGS), Ran::Dispatcher);
        assert_eq!((fake.finish(0, 9), fake.cpus[0].stops), (Ran::User, stops));
        // And once more.
        fake.arm();
        assert!(fake.ask(|sky| sky.list()).is_ok());
    }
}

/// A virtual CPU stands in front of the handler for invalid opcodes; at the stop of a switch, from which KVM lets it
/// go on two bytes further; and at these two bytes.
#[test]
fn traps_stay_while_a_virtual_cpu_needs_them() {
    for (stands, removed) in [(GATE, true), (SWITCH, false), (SWITCH + 2, false)] {
        let mut fake = running(("sce", "port"));
        let text = fake.kernel.bytes(BASE, 0x20_0000);
        fake.arm();
        fake.ask(add);
        fake.cpus[1].mock.regs.rip = stands;
        let sky = std::sync::Arc::clone(&fake.sky);
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| sky.detach());
            let started = std::time::Instant::now();
            while started.elapsed() < std::time::Duration::from_millis(60) {
                fake.before_run();
            }
            assert!(!asked.is_finished());
            assert_eq!(fake.kernel.bytes(GATE, 2), [0xe6, PORT]);
            assert_eq!(fake.kernel.bytes(SWITCH, 3) == [0x0f, 0x1f, 0x00], removed, "{stands:#x}");
            fake.cpus[1].mock.regs.rip = DISPATCHER + 0x10;
            while !asked.is_finished() {
                fake.before_run();
            }
            asked.join().unwrap().unwrap();
        });
        assert_eq!(fake.kernel.bytes(BASE, 0x20_0000), text);
    }
}

/// The machine stands still for one that was the last to leave the guest, and has seen nothing of what others did.
#[test]
fn traps_are_taken_out_by_a_virtual_cpu_that_has_not_heard_of_them() {
    for engine in ["sce", "entry"] {
        let mut fake = running((engine, "port"));
        let text = fake.kernel.bytes(BASE, 0x20_0000);
        for (sets, takes_out) in [(0, 1), (1, 0)] {
            fake.sky.arm();
            fake.comes_by(sets);
            assert_eq!(fake.kernel.bytes(SWITCH, 2), [0xe6, PORT]);
            let sky = std::sync::Arc::clone(&fake.sky);
            std::thread::scope(|scope| {
                let asked = scope.spawn(|| sky.detach());
                while !asked.is_finished() {
                    if fake.cpus[takes_out].vcpu.machine.has_job() {
                        fake.comes_by(takes_out);
                    }
                }
                asked.join().unwrap().unwrap();
            });
            assert_eq!(fake.kernel.bytes(BASE, 0x20_0000), text, "{engine}, set by {sets}");
        }
    }
}

/// Which of four processes a rule chooses: init, a shell, its child, and that one's child.
fn chosen(rule: &str) -> Vec<u32> {
    let rules = format!("[[process]]\n{rule}");
    let mut fake = Fake::new(Setup { rules: &rules, ..Setup::of(("sce", "port")) });
    fake.spawn(1, INIT, "sh", "sh -c all");
    fake.spawn(2, 1, "python3", "python3 train.py --fast");
    fake.spawn(3, 2, "cp", "cp a b");
    fake.arm();
    let mut pids: Vec<u32> = fake.report().processes.into_iter().map(|(_, pid)| pid).collect();
    pids.sort_unstable();
    // The same rule chooses the same when they begin later.
    let mut fake = Fake::armed(Setup { rules: &rules, ..Setup::of(("entry", "debug")) });
    for (slot, parent, name, command) in
        [(1, INIT, "sh", "sh -c all"), (2, 1, "python3", "python3 train.py --fast"), (3, 2, "cp", "cp a b")]
    {
        fake.spawn(slot, parent, name, command);
        fake.switch(0, slot);
        fake.call(0, GETPID, [0; 6]);
        fake.finish(0, 1);
    }
    let later: Vec<u32> = fake.report().processes.into_iter().map(|(_, pid)| pid).collect();
    assert_eq!(later, pids.iter().copied().filter(|&pid| pid != 1).collect::<Vec<_>>(), "{rule}");
    pids
}

#[test]
fn rules_choose_what_they_name() {
    for (rule, pids) in [
        ("executable = 'python*'", &[3][..]),
        ("executable = '/python3'", &[3]),
        ("executable = '/usr/*'", &[]),
        ("command = '*train.py *'", &[3]),
        ("pid = 2", &[2]),
        ("parent = 2", &[3]),
        ("parent = 'python3'", &[4]),
        ("executable = 'sh'\nchildren = true", &[2, 3, 4]),
        ("executable = 'python3'\nchildren = true", &[3, 4]),
        ("executable = '*'\ncommand = 'cp *'", &[4]),
    ] {
        assert_eq!(chosen(rule), pids, "{rule}");
    }
}

/// Under page-table isolation a virtual CPU in user mode has the user's page directory in CR3, which maps hardly
/// any of the kernel.
#[test]
fn traps_can_be_set_from_a_virtual_cpu_in_user_mode_under_isolation() {
    let mut fake = Fake::new(Setup::of(("sce", "port")));
    let user = fake.kernel.bytes(BASE + directory(INIT) - 0x40_0000, 4096);
    let neighbour = BASE + directory(INIT) - 0x40_0000 + 0x1000;
    fake.kernel.put(neighbour, &user);
    // Only the page of the entry code: a page-directory of its own.
    fake.kernel.word(neighbour + 511 * 8, 0x6003);
    fake.kernel.word(0x6000 + 510 * 8, 0x7003);
    fake.kernel.word(0x7000 + ((BASE >> 21) & 511) * 8, 0x40_0083);
    fake.cpus[0].set_mode(true, per_cpu(0));
    fake.cpus[0].mock.sregs.cr3 = directory(INIT) | 0x1000;
    fake.arm();
    let report = fake.report();
    assert_eq!((report.problem, report.armed), (None, true));
}
