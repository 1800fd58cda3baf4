//! A short scenario that goes the same way each time: every thread makes the same calls in the same order. It is for
//! comparing with what another tracer saw.
//!
//! Signals are sent after a time in which the receiver has long been blocked. Only on a machine that stops for so
//! long does a call more or less appear; the program says by `TRACE_INTERRUPTED` and `TRACE_RESTARTED` what happened.

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use super::burst::{self, FORKED, close, exited, kill, pipe, start, wait};
use super::counts::{Own, Shared};
use super::storm::install;
use super::sys::EINTR;
use super::threads::{Told, exits, reads_and_exits};
use super::worker::Worker;
use super::{Options, expect, fail, sys};

/// Long enough for another to be blocked, in microseconds.
const SOON: u64 = 50_000;
/// Rounds of file operations.
const ROUNDS: u64 = 4;

static HANDLER_PIPE: AtomicI32 = AtomicI32::new(-1);

extern "C" fn on_alarm(_signal: libc::c_int) {
    expect("write in a handler", sys::write(HANDLER_PIPE.load(Ordering::SeqCst), b"!"), 1);
}

/// Runs the scenario, and gives the lines to print.
pub fn run(options: &Options) -> io::Result<String> {
    let kernel = |error: i64| io::Error::from_raw_os_error(sys::int(-error));
    let (fd, shared) = Shared::create().map_err(kernel)?;
    let worker = Worker::new(shared, fd, 0, options)?;
    for round in 0..ROUNDS {
        worker.files(round);
    }
    worker.memory(0);
    worker.mistakes();
    worker.constants.check(shared);
    worker.futexes();
    worker.nap();
    for each in [burst::fork, burst::vfork, burst::spawn, burst::clone3] {
        each(&worker);
    }
    burst::chain_of(&worker, 1);
    threads(&worker);
    let (restarted, interrupted) = signals()?;
    killed(&worker);
    stopped(&worker);
    worker.end();
    Ok(format!("TRACE_RESTARTED={restarted}\nTRACE_INTERRUPTED={interrupted}\nTRACE=ok"))
}

/// Two threads, one of which reads what the other thread's end lets the first thread write. They are waited for
/// without any call: whether a futex must be waited for is chance.
fn threads(worker: &Worker) {
    let ends = pipe();
    // The threads are joined below, so what they are told may lie here.
    let told = Told::new(worker.constants.pid, ends);
    let ended = [const { AtomicU32::new(0) }; 2];
    let join = |ended: &AtomicU32| {
        while ended.load(Ordering::SeqCst) != 0 {
            std::hint::spin_loop();
        }
    };
    told.thread(reads_and_exits, &ended[0]);
    told.thread(exits, &ended[1]);
    join(&ended[1]);
    expect("write to a thread", sys::write(ends.1, &[9]), 1);
    join(&ended[0]);
    close(ends.0, ends.1);
}

/// A read that is restarted, one that is interrupted, and a sleep that is. Returns how many of each happened.
fn signals() -> io::Result<(u32, u32)> {
    let ends = pipe();
    HANDLER_PIPE.store(ends.1, Ordering::SeqCst);
    let (mut restarted, mut interrupted) = (0, 0);
    let mut byte = [0];

    install(libc::SIGALRM, libc::SA_RESTART, on_alarm)?;
    alarm()?;
    match sys::read(ends.0, &mut byte) {
        1 => restarted += 1,
        other => fail("a read behind a handler with SA_RESTART", other),
    }
    install(libc::SIGALRM, 0, on_alarm)?;
    for sleeps in [false, true] {
        alarm()?;
        let result = if sleeps { sys::nanosleep(100 * SOON).0 } else { sys::read(ends.0, &mut byte) };
        match result {
            // What the handler wrote is still there.
            EINTR => {
                interrupted += 1;
                expect("read of what a handler wrote", sys::read(ends.0, &mut byte), 1);
            }
            0 | 1 => {}
            other => fail("a call behind a handler without SA_RESTART", other),
        }
    }
    close(ends.0, ends.1);
    Ok((restarted, interrupted))
}

/// One `SIGALRM`, soon.
fn alarm() -> io::Result<()> {
    let none = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let soon = libc::timeval { tv_sec: 0, tv_usec: SOON.cast_signed() };
    let timer = libc::itimerval { it_interval: none, it_value: soon };
    // SAFETY: the timer lives for the call.
    match unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A process that is killed in a call.
fn killed(worker: &Worker) {
    let ends = pipe();
    let child = start(worker, sys::fork, |_| {
        expect("write to the parent", sys::write(ends.1, b"k"), 1);
        fail("pause returned", worker.shared.call(Own::Pause, [0; 2]));
    });
    worker.read_all(ends.0, &mut [0]);
    sys::sleep(SOON);
    kill(child, libc::SIGKILL);
    wait(worker, "a killed child", child, libc::SIGKILL);
    close(ends.0, ends.1);
}

/// A process that is stopped in a sleep: `restart_syscall` ends the sleep.
fn stopped(worker: &Worker) {
    let ends = pipe();
    let child = start(worker, sys::fork, |_| {
        expect("write to the parent", sys::write(ends.1, b"s"), 1);
        expect("nanosleep of a stopped process", sys::nanosleep(4 * SOON).0, 0);
    });
    worker.read_all(ends.0, &mut [0]);
    sys::sleep(SOON);
    kill(child, libc::SIGSTOP);
    let (result, status) = sys::wait(sys::int(child), libc::WUNTRACED);
    expect("wait4 for the stop", result, child);
    if status != exited(FORKED) {
        kill(child, libc::SIGCONT);
        wait(worker, "a continued child", child, exited(FORKED));
    }
    close(ends.0, ends.1);
}
