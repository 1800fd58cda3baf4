//! Threads that end badly: by `exit_group` and `execve` of another, alone, or before their process.
//!
//! All of this happens in a child, with threads that the C library knows nothing of.

use std::ffi::CStr;
use std::sync::atomic::{AtomicU32, Ordering};

use super::burst::{close, exited, pipe, start, wait};
use super::child::{Again, DONE};
use super::counts::{Own, Shared};
use super::sys::Image;
use super::worker::Worker;
use super::{expect, fail, succeed, sys};

/// The exit status where a thread ends the whole process.
const BY_THREAD: i32 = 44;
/// Longer than any run, in microseconds.
const FOR_EVER: u64 = 100_000_000_000;
/// How often a thread's state is asked for, and the time between, in microseconds: minutes, for emulated machines.
const TRIES: u32 = 600_000;
const BETWEEN: u64 = 200;

/// What bare threads need to know. It lies on the stack of the process's first thread.
pub(crate) struct Told {
    pid: i64,
    from: i32,
    to: i32,
    other: AtomicU32,
    program: Option<Image>,
}

impl Told {
    pub(crate) fn new(pid: i64, (from, to): (i32, i32)) -> Told {
        Told { pid, from, to, other: AtomicU32::new(0), program: None }
    }

    /// Starts a thread that is told this, and gives its number.
    pub(crate) fn thread(&self, entry: extern "C" fn(u64) -> !, ended: &AtomicU32) -> i64 {
        ended.store(1, Ordering::SeqCst);
        let told = (&raw const *self).addr() as u64;
        // SAFETY: the entries below keep to bare calls, and the stack that holds both arguments is never given back
        // while the process lives: `start` does not return in a child.
        succeed("clone", unsafe { sys::thread(entry, told, ended) })
    }
}

/// What a thread was told.
fn told(arg: u64) -> &'static Told {
    let place = usize::try_from(arg).unwrap_or(0);
    // SAFETY: only `Told::thread` starts these threads, with the address of one that stays.
    unsafe { &*std::ptr::with_exposed_provenance(place) }
}

fn shared() -> &'static Shared {
    match Shared::get() {
        Some(shared) => shared,
        None => fail("no shared page", 0),
    }
}

extern "C" fn in_pause(_: u64) -> ! {
    fail("pause returned", shared().call(Own::Pause, [0; 2]))
}

extern "C" fn in_read(arg: u64) -> ! {
    fail("read of an empty pipe returned", sys::read(told(arg).from, &mut [0]))
}

extern "C" fn in_futex(_: u64) -> ! {
    fail("a futex returned", sys::futex_wait(&shared().never, 0, None))
}

extern "C" fn in_sleep(_: u64) -> ! {
    fail("a long sleep returned", sys::nanosleep(FOR_EVER).0)
}

/// Waits until everybody else is blocked, and executes.
extern "C" fn executes(arg: u64) -> ! {
    let told = told(arg);
    until_blocked(told.pid, told.pid);
    until_blocked(told.pid, told.other.load(Ordering::SeqCst).into());
    shared().unreturned.fetch_add(2, Ordering::SeqCst);
    match told.program {
        // SAFETY: the first thread holds what the image points at, on its stack and in its copy of the heap.
        Some(image) => fail("execve", unsafe { sys::exec(image) }),
        None => fail("no program", 0),
    }
}

/// Reads one byte, and ends alone.
pub(crate) extern "C" fn reads_and_exits(arg: u64) -> ! {
    let mut byte = [0];
    expect("read in a thread", sys::read(told(arg).from, &mut byte), 1);
    expect("what a thread reads", byte[0].into(), 9);
    sys::exit(0)
}

/// Makes a call, and ends alone.
pub(crate) extern "C" fn exits(arg: u64) -> ! {
    expect("getpid in a bare thread", shared().call(Own::Getpid, [0; 2]), told(arg).pid);
    sys::exit(0)
}

/// Waits until the first thread has ended, and ends the process.
extern "C" fn survives(arg: u64) -> ! {
    let told = told(arg);
    until_state(told.pid, told.pid, b"Z");
    expect("getpid when the first thread has gone", shared().call(Own::Getpid, [0; 2]), told.pid);
    sys::exit_group(BY_THREAD)
}

/// `exit_group` while others are blocked in calls.
pub(crate) fn group_exit(worker: &Worker) {
    let ends = pipe();
    let child = start(worker, sys::fork, |constants| {
        let told = Told::new(constants.pid, ends);
        let ended = [const { AtomicU32::new(0) }; 4];
        for (entry, ended) in [in_pause, in_read, in_futex, in_sleep].into_iter().zip(&ended) {
            let thread = told.thread(entry, ended);
            until_blocked(constants.pid, thread);
        }
        constants.check(worker.shared);
        worker.shared.unreturned.fetch_add(1, Ordering::SeqCst);
        sys::exit_group(BY_THREAD);
    });
    wait(worker, "exit_group among blocked threads", child, exited(BY_THREAD));
    close(ends.0, ends.1);
}

/// `execve` by another thread than the first, while the first and a third are blocked.
pub(crate) fn exec_from_another(worker: &Worker) {
    let program = Again::new(worker.fd, worker.constants.pid, 0, 0);
    let child = start(worker, sys::fork, |constants| {
        let mut told = Told::new(constants.pid, (-1, -1));
        told.program = Some(program.image());
        let ended = [const { AtomicU32::new(0) }; 2];
        let other = told.thread(in_pause, &ended[0]);
        told.other.store(u32::try_from(other).unwrap_or(0), Ordering::SeqCst);
        told.thread(executes, &ended[1]);
        fail("pause returned", worker.shared.call(Own::Pause, [0; 2]));
    });
    wait(worker, "execve among blocked threads", child, exited(DONE));
}

/// Threads that end while another's call goes on, and at last the first before its process.
pub(crate) fn single_exits(worker: &Worker) {
    let ends = pipe();
    let child = start(worker, sys::fork, |constants| {
        let told = Told::new(constants.pid, ends);
        let ended = [const { AtomicU32::new(0) }; 3];
        let reader = told.thread(reads_and_exits, &ended[0]);
        until_blocked(constants.pid, reader);
        told.thread(exits, &ended[1]);
        join(&ended[1]);
        constants.check(worker.shared);
        expect("write to a thread", sys::write(told.to, &[9]), 1);
        join(&ended[0]);
        told.thread(survives, &ended[2]);
        sys::exit(0);
    });
    wait(worker, "a process that lost its first thread", child, exited(BY_THREAD));
    close(ends.0, ends.1);
}

/// Waits until the kernel has cleared the word of a thread that ended.
fn join(ended: &AtomicU32) {
    while ended.load(Ordering::SeqCst) != 0 {
        let result = sys::futex_wait(ended, 1, None);
        if result != 0 && result != -i64::from(libc::EAGAIN) {
            fail("futex of a thread", result);
        }
    }
}

/// Waits until a thread sleeps in a call. The threads here make no other call in which they could sleep.
pub(crate) fn until_blocked(pid: i64, thread: i64) {
    until_state(pid, thread, b"S");
}

/// As [`until_blocked`], for a sleep that may be over, and the process ended, before we look.
pub(crate) fn until_blocked_or_ended(pid: i64) {
    until_state(pid, pid, b"SZ");
}

fn until_state(pid: i64, thread: i64, wanted: &[u8]) {
    for _ in 0..TRIES {
        if state(pid, thread).is_some_and(|state| wanted.contains(&state)) {
            return;
        }
        sys::sleep(BETWEEN);
    }
    fail("a thread is never in the state it should be in", thread);
}

/// A thread's state as `/proc/PID/task/TID/stat` tells it: the letter behind the name.
fn state(pid: i64, thread: i64) -> Option<u8> {
    let mut path = [0u8; 64];
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        for byte in bytes {
            if let Some(place) = path.get_mut(at) {
                *place = *byte;
                at += 1;
            }
        }
    };
    put(b"/proc/");
    put(decimal(pid, &mut [0; 20]));
    put(b"/task/");
    put(decimal(thread, &mut [0; 20]));
    put(b"/stat\0");
    let file = sys::int(sys::open(CStr::from_bytes_until_nul(&path).ok()?, libc::O_RDONLY));
    if file < 0 {
        return None;
    }
    let mut text = [0; 256];
    let length = usize::try_from(sys::read(file, &mut text)).unwrap_or(0);
    expect("close in /proc", sys::close(file), 0);
    let text = text.get(..length)?;
    let name = text.iter().rposition(|byte| *byte == b')')?;
    text.get(name + 2).copied()
}

/// A number in digits, without allocating.
pub(crate) fn decimal(number: i64, digits: &mut [u8; 20]) -> &[u8] {
    let mut first = digits.len();
    let mut rest = number.unsigned_abs();
    while first > 0 {
        first -= 1;
        digits[first] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    &digits[first..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_by_the_library() {
        for number in [0, 7, 10, 4_194_304, i64::MAX] {
            assert_eq!(decimal(number, &mut [0; 20]), number.to_string().as_bytes());
        }
    }

    #[test]
    fn states_are_told() {
        let pid = i64::from(std::process::id());
        let (from, to) = std::io::pipe().unwrap();
        let (send, thread) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            // SAFETY: gettid has no preconditions.
            send.send(i64::from(unsafe { libc::gettid() })).unwrap();
            std::io::Read::read(&mut &from, &mut [0]).unwrap();
        });
        let thread = thread.recv().unwrap();
        until_blocked(pid, thread);
        // SAFETY: gettid has no preconditions.
        assert_eq!(state(pid, i64::from(unsafe { libc::gettid() })), Some(b'R'));
        drop(to);
        reader.join().unwrap();
        assert_eq!(state(pid, i64::from(i32::MAX)), None);
    }
}
