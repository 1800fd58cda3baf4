//! Short lives: processes that are started in every way there is, and that end in many.

use std::sync::atomic::Ordering;

use super::child::{Again, DONE};
use super::counts::Own;
use super::worker::{Constants, Worker};
use super::{expect, fail, succeed, sys, threads};

/// The exit status of a process that was forked and in which everything was right.
pub(crate) const FORKED: i32 = 42;
/// How often a program executes itself in a chain.
const CHAIN: u64 = 4;
/// How long the process sleeps that is stopped meanwhile, in microseconds.
const STOPPED: u64 = 50_000;

/// What a worker does in one round; in so many rounds it does everything.
const KINDS: [fn(&Worker); 12] = [
    fork,
    vfork,
    spawn,
    clone3,
    chain,
    killed_in_pause,
    killed_in_read,
    stopped,
    library_threads,
    threads::group_exit,
    threads::exec_from_another,
    threads::single_exits,
];

/// One burst.
pub(crate) fn burst(worker: &Worker, turn: u64) {
    let kind = usize::try_from(turn % KINDS.len() as u64).unwrap_or(0);
    KINDS[kind](worker);
}

/// Starts a process with `start` that runs `body` and then exits with [`FORKED`].
pub(crate) fn start(worker: &Worker, start: fn() -> i64, body: impl FnOnce(Constants)) -> i64 {
    worker.shared.processes.fetch_add(1, Ordering::SeqCst);
    match start() {
        0 => {
            let pid = worker.shared.call(Own::Getpid, [0; 2]);
            body(worker.constants.of_child(pid));
            sys::exit_group(FORKED)
        }
        child => succeed("fork", child),
    }
}

/// Waits for a process, which must end with this status.
pub(crate) fn wait(worker: &Worker, what: &str, child: i64, wanted: i32) {
    let mut status = 0;
    let result = worker.again("wait4", || {
        let (result, got) = sys::wait(sys::int(child), 0);
        status = got;
        result
    });
    expect("wait4", result, child);
    worker.shared.progress.fetch_add(1, Ordering::SeqCst);
    expect(what, status.into(), wanted.into());
}

/// A status of exiting, as `wait4` gives it.
pub(crate) fn exited(code: i32) -> i32 {
    code << 8
}

/// A process that says who it is.
fn tell(worker: &Worker, how: fn() -> i64) {
    let (from, to) = pipe();
    let child = start(worker, how, |constants| {
        constants.check(worker.shared);
        expect("write to the parent", sys::write(to, &constants.pid.to_le_bytes()), 8);
    });
    let mut said = [0; 8];
    worker.read_all(from, &mut said);
    expect("what a child says", i64::from_le_bytes(said), child);
    wait(worker, "a forked child", child, exited(FORKED));
    close(from, to);
}

pub(crate) fn pipe() -> (i32, i32) {
    match sys::pipe(0) {
        Ok(ends) => ends,
        Err(error) => fail("pipe2", error),
    }
}

pub(crate) fn close(from: i32, to: i32) {
    expect("close of a pipe", sys::close(from), 0);
    expect("close of a pipe", sys::close(to), 0);
}

pub(crate) fn fork(worker: &Worker) {
    tell(worker, sys::fork);
}

pub(crate) fn clone3(worker: &Worker) {
    tell(worker, sys::clone3);
}

fn again(worker: &Worker, more: u64) -> Again {
    Again::new(worker.fd, worker.constants.pid, 0, more)
}

pub(crate) fn vfork(worker: &Worker) {
    let program = again(worker, 0);
    worker.shared.processes.fetch_add(1, Ordering::SeqCst);
    worker.shared.count(Own::Getppid);
    // SAFETY: the strings live in `program`.
    let child = unsafe { sys::vfork_exec(program.image()) };
    wait(worker, "a vforked child", succeed("vfork", child), exited(DONE));
}

pub(crate) fn spawn(worker: &Worker) {
    worker.shared.processes.fetch_add(1, Ordering::SeqCst);
    let child = succeed("posix_spawn", again(worker, 0).spawn());
    wait(worker, "a spawned child", child, exited(DONE));
}

fn chain(worker: &Worker) {
    chain_of(worker, CHAIN);
}

/// A process that executes the program, which then executes itself so many times.
pub(crate) fn chain_of(worker: &Worker, more: u64) {
    let program = again(worker, more);
    let child = start(worker, sys::fork, |constants| {
        constants.check(worker.shared);
        program.exec();
    });
    wait(worker, "a chain of execve", child, exited(DONE));
}

fn killed_in_pause(worker: &Worker) {
    let child = start(worker, sys::fork, |constants| {
        constants.check(worker.shared);
        fail("pause returned", worker.shared.call(Own::Pause, [0; 2]));
    });
    threads::until_blocked(child, child);
    worker.shared.unreturned.fetch_add(1, Ordering::SeqCst);
    kill(child, libc::SIGKILL);
    wait(worker, "a killed child", child, libc::SIGKILL);
}

fn killed_in_read(worker: &Worker) {
    let (from, to) = pipe();
    let child = start(worker, sys::fork, |constants| {
        constants.check(worker.shared);
        fail("read of an empty pipe returned", sys::read(from, &mut [0]));
    });
    threads::until_blocked(child, child);
    kill(child, libc::SIGKILL);
    wait(worker, "a child killed in a read", child, libc::SIGKILL);
    close(from, to);
}

/// A process that is stopped in a sleep, and continued: the kernel resumes the sleep by `restart_syscall`.
fn stopped(worker: &Worker) {
    let child = start(worker, sys::fork, |constants| {
        constants.check(worker.shared);
        expect("nanosleep of a stopped process", sys::nanosleep(STOPPED).0, 0);
    });
    threads::until_blocked_or_ended(child);
    kill(child, libc::SIGSTOP);
    let mut status = 0;
    let result = worker.again("wait4 for the stop", || {
        let (result, got) = sys::wait(sys::int(child), libc::WUNTRACED);
        status = got;
        result
    });
    expect("wait4 for the stop", result, child);
    // On a busy machine it may be over before the signal comes.
    if status == exited(FORKED) {
        return;
    }
    expect("a stopped child", status.into(), i64::from(libc::SIGSTOP) << 8 | 0x7f);
    kill(child, libc::SIGCONT);
    wait(worker, "a continued child", child, exited(FORKED));
}

pub(crate) fn kill(child: i64, signal: i32) {
    expect("kill", sys::kill(sys::int(child), signal), 0);
}

/// Threads by the C library, which come and go.
fn library_threads(worker: &Worker) {
    let (from, to) = pipe();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut byte = [0];
            // This thread may get the timer's signals, even where the worker does not.
            while sys::read(from, &mut byte) == sys::EINTR {}
            expect("what a thread was told", byte[0].into(), 7);
            expect("getpid in a thread", worker.shared.call(Own::Getpid, [0; 2]), worker.constants.pid);
        });
        scope.spawn(|| {
            let thread = sys::gettid();
            if thread == worker.constants.pid {
                fail("gettid in a thread", thread);
            }
            while sys::write(to, &[7]) == sys::EINTR {}
        });
    });
    close(from, to);
}
