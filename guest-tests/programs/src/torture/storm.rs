//! Signals while everything else goes on: a timer for the process, and signals to one worker after the other.
//!
//! | signal | from | restarts calls |
//! |---|---|---|
//! | `SIGALRM` | `setitimer`, to any thread that does not block it | no |
//! | `SIGUSR1` | `tgkill` | yes, `SA_RESTART` |
//! | `SIGUSR2` | `tgkill` | no |
//!
//! Linux begins `fork` anew when a signal comes meanwhile. Where that takes longer than the time between two signals it
//! never ends, so the time is doubled while nobody gets on, and halved again.
//!
//! Workers with even numbers block those that do not restart calls, and then insist on never seeing `EINTR` where
//! Linux restarts.

use std::io;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread::{self, JoinHandle};

use super::counts::{Own, Shared};
use super::worker::Worker;
use super::{Options, expect, fail, succeed, sys};

/// Where the handler writes; not blocking.
static HANDLER_PIPE: AtomicI32 = AtomicI32::new(-1);
/// Every so many signals to workers, the timer sends one.
const TIMER_EVERY: u64 = 4;

/// Every so many signals, somebody must have got on; else the time between them is doubled, up to this many
/// microseconds.
const PATIENCE: u64 = 16;
const LONGEST: u64 = 500_000;

/// The signals whose handler does not restart calls, as a mask.
pub(crate) const NO_RESTART: u64 = (1 << (libc::SIGALRM - 1)) | (1 << (libc::SIGUSR2 - 1));
/// All the signals here, as a mask.
const ALL: u64 = NO_RESTART | (1 << (libc::SIGUSR1 - 1));

/// Makes calls, as handlers do. Nothing here may allocate or use `errno`.
extern "C" fn on_signal(_signal: libc::c_int) {
    let Some(shared) = Shared::get() else { return };
    shared.signals.fetch_add(1, Ordering::SeqCst);
    let session = shared.call(Own::Getsid, [0; 2]);
    expect("getsid in a handler", session, i64::from(shared.session.load(Ordering::SeqCst)));
    succeed("times in a handler", shared.call(Own::Times, [0; 2]));
    let written = sys::write(HANDLER_PIPE.load(Ordering::SeqCst), b"!");
    if written != 1 && written != -i64::from(libc::EAGAIN) {
        fail("write to a pipe in a handler", written);
    }
}

/// The threads that signals are sent to; 0 for none.
#[derive(Debug)]
pub(crate) struct Targets {
    threads: Vec<AtomicI32>,
    over: AtomicBool,
}

impl Targets {
    /// The calling thread is from now on worker `index`.
    pub(crate) fn enter(&self, index: u32, worker: &Worker) {
        if worker.strict {
            expect("rt_sigprocmask", sys::block_signals(NO_RESTART), 0);
        }
        self.threads[index as usize].store(Worker::thread_id(), Ordering::SeqCst);
    }

    /// The worker ends.
    pub(crate) fn leave(&self, index: u32) {
        self.threads[index as usize].store(0, Ordering::SeqCst);
    }
}

/// The storm, from start to stop.
#[derive(Debug)]
pub(crate) struct Storm {
    targets: Arc<Targets>,
    sender: Option<JoinHandle<()>>,
    drain: i32,
}

impl Storm {
    /// Installs the handlers and begins.
    pub(crate) fn start(shared: &'static Shared, options: &Options) -> io::Result<Storm> {
        let session = shared.call(Own::Getsid, [0; 2]);
        shared.session.store(u32::try_from(session).unwrap_or(0), Ordering::SeqCst);
        let error = |code: i64| io::Error::from_raw_os_error(sys::int(-code));
        let (drain, pipe) = sys::pipe(libc::O_NONBLOCK).map_err(error)?;
        HANDLER_PIPE.store(pipe, Ordering::SeqCst);
        install(libc::SIGALRM, 0, on_signal)?;
        install(libc::SIGUSR1, libc::SA_RESTART, on_signal)?;
        install(libc::SIGUSR2, 0, on_signal)?;
        let threads = (0..options.threads).map(|_| AtomicI32::new(0)).collect();
        let targets = Arc::new(Targets { threads, over: AtomicBool::new(false) });
        let mut storm = Storm { targets: Arc::clone(&targets), sender: None, drain };
        if options.storm > 0 {
            let (pid, every) = (sys::int(shared.call(Own::Getpid, [0; 2])), options.storm);
            let body = move || send(shared, &targets, pid, every);
            storm.sender = Some(thread::Builder::new().spawn(body)?);
        }
        Ok(storm)
    }

    /// Where workers tell their threads.
    pub(crate) fn targets(&self) -> Arc<Targets> {
        Arc::clone(&self.targets)
    }

    /// Ends it. After this no handler runs any more.
    pub(crate) fn stop(mut self) -> io::Result<()> {
        self.targets.over.store(true, Ordering::SeqCst);
        if let Some(sender) = self.sender.take() {
            sender.join().map_err(|_| io::Error::other("the sender of signals panicked"))?;
        }
        timer(0)?;
        expect("rt_sigprocmask", sys::block_signals(ALL), 0);
        let mut bytes = [0; 4096];
        let drained = sys::read(self.drain, &mut bytes);
        if bytes[..usize::try_from(drained).unwrap_or(0)].iter().any(|byte| *byte != b'!') {
            fail("what handlers wrote", drained);
        }
        Ok(())
    }
}

/// Installs a handler, which may only make calls and change atomics.
pub(crate) fn install(signal: i32, flags: i32, handler: extern "C" fn(libc::c_int)) -> io::Result<()> {
    // SAFETY: all-zero is a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_flags = flags;
    action.sa_sigaction = handler as libc::sighandler_t;
    // SAFETY: the action is complete and lives for the call; the caller vouches for the handler.
    match unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sends one `SIGALRM` after so many microseconds; 0 for none.
fn timer(microseconds: u64) -> io::Result<()> {
    let time = libc::timeval {
        tv_sec: (microseconds / 1_000_000).cast_signed(),
        tv_usec: (microseconds % 1_000_000).cast_signed(),
    };
    let never = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let timer = libc::itimerval { it_interval: never, it_value: time };
    // SAFETY: the timer lives for the call.
    match unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn send(shared: &Shared, targets: &Targets, pid: i32, every: u64) {
    // The timer's signals are for the workers, and this thread is to end in time.
    expect("rt_sigprocmask", sys::block_signals(ALL), 0);
    let signals = [libc::SIGUSR1, libc::SIGUSR1, libc::SIGUSR2];
    let (mut pause, mut before) = (every, 0);
    let both = targets.threads.iter().cycle().zip(signals.iter().cycle());
    for (sent, (target, signal)) in (1u64..).zip(both) {
        if targets.over.load(Ordering::SeqCst) {
            return;
        }
        let thread = target.load(Ordering::SeqCst);
        if thread != 0 {
            let result = sys::tgkill(pid, thread, *signal);
            if result != 0 && result != -i64::from(libc::ESRCH) {
                fail("tgkill", result);
            }
        }
        if sent.is_multiple_of(TIMER_EVERY) && timer(pause).is_err() {
            fail("setitimer", 0);
        }
        if sent.is_multiple_of(PATIENCE) {
            let now = shared.progress.load(Ordering::SeqCst);
            pause = if now == before { pause.saturating_mul(2).min(LONGEST) } else { (pause / 2).max(every) };
            before = now;
        }
        sys::sleep(pause);
    }
}
