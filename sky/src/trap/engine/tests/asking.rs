//! Insight-calls: what the observer learns, and that the thread does not.

use std::sync::{Arc, Mutex, OnceLock, Weak};

use super::*;
use crate::syscall::Outcome;
use crate::trap::engine::InsightCounts;

const READ: u64 = 0;
const FSTAT: u64 = 5;
const SIZE: u64 = 12288;
const ARGS: [u64; 6] = [7, 8, 9, 10, 11, 12];
/// More than the scratch memory of any call, and the red zone.
const BELOW: usize = 8192;

fn asking(combination: (&'static str, &'static str)) -> Fake {
    let mut fake = guest(Setup { wants: &[READ], asks: true, ..Setup::of(combination) });
    fake.switch(0, WRITER);
    let stack = user_stack(WRITER) - BELOW as u64;
    fake.kernel.put(stack, &pattern());
    fake
}

fn everywhere(scenario: impl Fn(&mut Fake)) {
    COMBINATIONS.into_iter().for_each(|combination| scenario(&mut asking(combination)));
}

fn pattern() -> Vec<u8> {
    (0..BELOW).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

/// What lies below the thread's stack pointer.
fn below(fake: &Fake) -> Vec<u8> {
    fake.kernel.bytes(user_stack(WRITER) - BELOW as u64, BELOW)
}

fn counts(made: u64, retried: u64, refused: u64, given_up: u64) -> InsightCounts {
    InsightCounts { made, retried, refused, given_up }
}

/// Number of the call that the dispatcher carries out.
fn number(fake: &Fake) -> u64 {
    assert_eq!(fake.cpus[0].mock.regs.rsi, fake.get(0, 0x78));
    fake.get(0, 0x78)
}

fn arguments(fake: &Fake) -> [u64; 6] {
    [0x70, 0x68, 0x60, 0x38, 0x48, 0x40].map(|offset| fake.get(0, offset))
}

/// The kernel carries out the two calls of an inquiry.
fn answer(fake: &mut Fake) -> Ran {
    assert_eq!(number(fake), GETPID);
    assert_eq!(fake.finish(0, 4242), Ran::Dispatcher);
    answer_fstat(fake)
}

fn answer_fstat(fake: &mut Fake) -> Ran {
    assert_eq!((number(fake), fake.get(0, 0x70)), (FSTAT, 3));
    assert_eq!(fake.get(0, 0x50).cast_signed(), -38, "as at the entry of any call");
    let at = fake.get(0, 0x68);
    assert!(at + 144 <= user_stack(WRITER) - 128, "below the red zone");
    fake.kernel.put(at, &[0xee; 144]);
    fake.kernel.word(at + 48, SIZE);
    fake.finish(0, 0)
}

fn answers(first: &str, second: &str) -> Event {
    Event::Answers(vec![first.to_owned(), second.to_owned()])
}

/// The events without those of processes.
fn told(fake: &Fake) -> Vec<Event> {
    fake.log().into_iter().filter(|event| !matches!(event, Event::Begins(_) | Event::Ends(_))).collect()
}

fn entered(fake: &Fake, id: u64) -> Event {
    let pid = fake.tasks[WRITER].pid;
    Event::Entered { id, pid, tid: pid, number: READ }
}

#[test]
fn a_thread_does_not_notice_what_it_was_asked() {
    everywhere(|fake| {
        let before = fake.tasks[WRITER].user;
        assert_eq!(fake.call(0, READ, ARGS), Ran::Dispatcher);
        assert_eq!(answer(fake), Ran::Dispatcher);
        assert_eq!((number(fake), arguments(fake), below(fake) == pattern()), (READ, ARGS, true));
        assert_eq!(fake.get(0, 0x50).cast_signed(), -38);
        assert_eq!(told(fake), [entered(fake, 1), answers("4242", "12288")]);
        assert_eq!(fake.finish(0, 99), Ran::Dispatcher, "asked again behind its own");
        assert_eq!(answer(fake), Ran::User);
        let after = fake.tasks[WRITER].user;
        let expected = kvm_bindings::kvm_regs {
            rax: 99,
            rdi: 7,
            rsi: 8,
            rdx: 9,
            r10: 10,
            r8: 11,
            r9: 12,
            rip: before.rip + 2,
            rcx: before.rip + 2,
            r11: USER_FLAGS,
            ..before
        };
        assert_eq!((after, below(fake) == pattern()), (expected, true));
        let returned = Event::Returned { id: 1, outcome: Outcome::Returned(99) };
        assert_eq!(told(fake)[2..], [returned, answers("4242", "12288")]);
        let report = fake.report();
        assert_eq!((report.insight, report.outstanding, report.problem), (counts(4, 0, 0, 0), 0, None));
        assert_eq!((report.calls["read"].entered, report.calls["read"].returned), (1, 1));
    });
}

#[test]
fn a_signal_before_its_own_call_finds_the_call_unmade() {
    everywhere(|fake| {
        let before = fake.tasks[WRITER].user;
        assert_eq!(fake.call(0, READ, ARGS), Ran::Dispatcher);
        assert_eq!(fake.finish(0, 4242), Ran::Dispatcher);
        // fstat is interrupted: to the handler, with nothing of it to be seen.
        assert_eq!(number(fake), FSTAT);
        assert_eq!(fake.signal(0, Some(-4)), Ran::User);
        assert_eq!((fake.tasks[WRITER].user.rip, fake.report().outstanding), (HANDLER, 1));
        // The handler makes a call of its own, which is none of the inquiry's business.
        assert_eq!(fake.call(0, GETPID, [0; 6]), Ran::Dispatcher);
        assert_eq!(fake.finish(0, 1), Ran::User);
        assert_eq!(fake.handled(0), Ran::User);
        let user = fake.tasks[WRITER].user;
        assert_eq!((user.rip, user.rax, user.rsp), (before.rip, READ, before.rsp), "at SYSCALL once more");
        let registers = [user.rdi, user.rsi, user.rdx, user.r10, user.r8, user.r9];
        assert_eq!(registers, ARGS);
        assert_eq!(fake.call(0, READ, ARGS), Ran::Dispatcher);
        assert_eq!(answer_fstat(fake), Ran::Dispatcher, "it goes on where it was");
        assert_eq!((number(fake), arguments(fake)), (READ, ARGS));
        assert_eq!(told(fake), [entered(fake, 1), answers("4242", "12288")], "told of it once");
        assert_eq!(fake.finish(0, 5), Ran::Dispatcher);
        assert_eq!(answer(fake), Ran::User);
        assert_eq!(fake.tasks[WRITER].user.rax, 5);
        let report = fake.report();
        assert_eq!((report.insight, report.outstanding, report.problem), (counts(5, 1, 0, 0), 0, None));
    });
}

#[test]
fn a_signal_behind_its_own_call_finds_that_ones_result() {
    everywhere(|fake| {
        let before = fake.tasks[WRITER].user;
        assert_eq!(fake.call(0, READ, ARGS), Ran::Dispatcher);
        assert_eq!(answer(fake), Ran::Dispatcher);
        assert_eq!(fake.finish(0, 77), Ran::Dispatcher);
        assert_eq!(number(fake), GETPID);
        assert_eq!(fake.signal(0, None), Ran::User);
        assert_eq!(fake.handled(0), Ran::User);
        let user = fake.tasks[WRITER].user;
        assert_eq!((user.rip, user.rax, user.rdi), (before.rip + 2, 77, 7));
        let refused = "the thread cannot make calls now";
        assert_eq!(told(fake).last(), Some(&answers(refused, refused)));
        let report = fake.report();
        assert_eq!((report.insight.given_up, report.outstanding), (1, 0));
    });
}

#[test]
fn a_restart_without_a_handler_is_made_again_at_once() {
    everywhere(|fake| {
        assert_eq!(fake.call(0, READ, ARGS), Ran::Dispatcher);
        // -ERESTARTSYS with no handler: the kernel goes back to SYSCALL.
        let ip = fake.get(0, 0x80);
        fake.kernel.word(fake.saved(0) + 0x80, ip - 2);
        let ran = fake.finish(0, 39);
        assert_eq!((ran, number(fake)), (Ran::Dispatcher, GETPID));
        assert_eq!(fake.report().insight, counts(2, 1, 0, 0));
        assert_eq!(fake.get(0, 0x80), ip, "and it returns behind it");
        assert_eq!(answer(fake), Ran::Dispatcher);
        assert_eq!(number(fake), READ);
    });
}

#[test]
fn a_storm_of_signals_ends_the_inquiry() {
    everywhere(|fake| {
        assert_eq!(fake.call(0, READ, ARGS), Ran::Dispatcher);
        for tries in 1..=8 {
            assert_eq!(number(fake), GETPID);
            assert_eq!(fake.signal(0, Some(-4)), Ran::User);
            assert_eq!(fake.handled(0), Ran::User);
            assert_eq!(fake.report().insight, counts(tries, tries, 0, 0));
            assert_eq!(fake.call(0, READ, ARGS), Ran::Dispatcher);
        }
        assert_eq!(fake.signal(0, Some(-4)), Ran::User);
        assert_eq!(fake.report().insight, counts(9, 8, 0, 1));
        assert_eq!(fake.handled(0), Ran::User);
        assert_eq!(fake.call(0, READ, ARGS), Ran::Dispatcher);
        assert_eq!((number(fake), arguments(fake)), (READ, ARGS));
        let refused = "the thread cannot make calls now";
        assert_eq!(told(fake), [entered(fake, 1), answers(refused, refused)]);
    });
}

#[test]
fn a_thread_that_somebody_observes_makes_no_call() {
    everywhere(|fake| {
        fake.kernel.word(object(WRITER) + 8, 1);
        assert_eq!(fake.call(0, READ, ARGS), Ran::Dispatcher);
        assert_eq!((number(fake), arguments(fake)), (READ, ARGS));
        let refused = "somebody in the guest watches the thread's system calls";
        assert_eq!(told(fake), [entered(fake, 1), answers(refused, refused)]);
        assert_eq!(fake.finish(0, 3), Ran::User);
        assert_eq!(fake.tasks[WRITER].user.rax, 3);
        assert_eq!(fake.report().insight, counts(0, 0, 4, 0));
    });
}

#[test]
fn a_process_is_left_alone_when_it_is_no_longer_asked() {
    everywhere(|fake| {
        assert_eq!(fake.call(0, READ, ARGS), Ran::Dispatcher);
        assert_eq!(number(fake), GETPID);
        let removed = crate::trap::engine::remove(&mut fake.cpus[0].vcpu, crate::Removal::All);
        assert_eq!(removed.unwrap(), None, "its return has to be stopped");
        let mut ran = fake.finish(0, 4242);
        while ran == Ran::Dispatcher && number(fake) != READ {
            ran = answer_fstat(fake);
        }
        assert_eq!((ran, arguments(fake), below(fake) == pattern()), (Ran::Dispatcher, ARGS, true));
        assert_eq!(fake.ask(|sky| sky.remove(crate::Removal::All)).unwrap(), 1);
        assert_eq!((fake.finish(0, 21), fake.tasks[WRITER].user.rax), (Ran::User, 21));
        assert_eq!((below(fake) == pattern(), fake.report().outstanding), (true, 0));
        assert!(!fake.watches(0));
    });
}

#[test]
fn a_call_that_a_handler_keeps_away_for_ever_is_told() {
    everywhere(|fake| {
        assert_eq!(fake.call(0, READ, ARGS), Ran::Dispatcher);
        // The handler jumps out, and the process is left alone while its call waits.
        assert_eq!(fake.signal(0, Some(-4)), Ran::User);
        assert_eq!(fake.report().outstanding, 1);
        assert_eq!(fake.ask(|sky| sky.remove(crate::Removal::All)).unwrap(), 1);
        assert_eq!(told(fake)[1..], [Event::Abandoned(1)]);
        assert_eq!((fake.report().outstanding, fake.report().detached_calls), (0, 1));
    });
}

#[test]
fn an_inquiry_may_ask_for_a_report() {
    struct Curious(OnceLock<Weak<crate::Sky>>, Arc<Mutex<Vec<u64>>>);
    impl crate::observer::Observer for Curious {
        fn wants(&self) -> crate::observer::CallSet {
            [READ].into_iter().collect()
        }
        fn entered(&self, call: &crate::observer::Call<'_>) -> Option<crate::observer::Inquiry> {
            let (thread, seen) = (call.thread(), Arc::clone(&self.1));
            let sky = self.0.get().and_then(Weak::upgrade)?;
            Some(Box::pin(async move {
                let _ = thread.call(crate::call::Getpid).await;
                seen.lock().unwrap().push(sky.report().outstanding);
            }))
        }
    }
    for combination in COMBINATIONS {
        let seen = Arc::default();
        let curious = Arc::new(Curious(OnceLock::new(), Arc::clone(&seen)));
        let mut fake = Fake::observed(Setup::of(combination), curious.clone());
        let _ = curious.0.set(Arc::downgrade(&fake.sky));
        fake.arm();
        fake.spawn(WRITER, INIT, "writer", "writer");
        fake.switch(0, WRITER);
        assert_eq!(fake.call(0, READ, ARGS), Ran::Dispatcher);
        assert_eq!((number(&fake), fake.finish(0, 4242)), (GETPID, Ran::Dispatcher));
        assert_eq!(*seen.lock().unwrap(), [0], "its own call is in hand");
    }
}
