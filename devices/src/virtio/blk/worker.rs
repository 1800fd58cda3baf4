//! One thread per queue: waits for kicks, serves whatever is available, gives it back.
//!
//! A worker that finds its rings broken, or that panics, tells the driver that the device needs a reset and ends.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use virtio_queue::Queue;
use vm_memory::GuestAddressSpace;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::execute::{Disk, Executor};
use super::rings::{self, Broken, Rings};
use crate::virtio::{ActiveQueue, Interrupt, Memory};

/// A running worker. Dropping it stops the thread after it has served what is available.
pub(super) struct Worker {
    index: usize,
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

/// How a worker is told to end: the flag says so, the eventfd wakes it up to look.
struct Stop {
    requested: AtomicBool,
    wake: EventFd,
}

impl Worker {
    /// Starts a worker for one queue.
    ///
    /// # Errors
    /// No more threads or descriptors.
    pub(super) fn start(
        active: ActiveQueue,
        disk: Disk,
        memory: Memory,
        interrupt: Arc<Interrupt>,
    ) -> io::Result<Self> {
        let ActiveQueue { index, queue, kick } = active;
        let wake = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let epoll = Epoll::new()?;
        for event in [&kick, &wake] {
            let interest = EpollEvent::new(EventSet::IN, 0);
            epoll.ctl(ControlOperation::Add, std::os::fd::AsRawFd::as_raw_fd(event), interest)?;
        }
        let stop = Arc::new(Stop { requested: AtomicBool::new(false), wake });
        let state = State {
            line: Line { queue, interrupt },
            kick,
            epoll,
            stop: Arc::clone(&stop),
            executor: Executor::new(disk),
            memory,
        };
        let thread = thread::Builder::new().name(format!("blk-queue-{index}")).spawn(move || state.run())?;
        Ok(Self { index, stop, thread: Some(thread) })
    }

    /// Number of the queue that it serves.
    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// Tells the thread to end, without waiting for it.
    pub(super) fn request_stop(&self) {
        self.stop.requested.store(true, Ordering::Release);
        if let Err(error) = self.stop.wake.write(1) {
            tracing::error!(%error, queue = self.index, "a queue worker cannot be woken up");
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.request_stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(queue = self.index, "a queue worker had panicked");
        }
    }
}

/// The worker's queue and the device's interrupt.
struct Line {
    queue: Queue,
    interrupt: Arc<Interrupt>,
}

struct State {
    line: Line,
    kick: EventFd,
    epoll: Epoll,
    stop: Arc<Stop>,
    executor: Executor,
    memory: Memory,
}

impl State {
    fn run(mut self) {
        // A panic below must not leave the driver waiting in silence.
        let mut alarm = Alarm { interrupt: Arc::clone(&self.line.interrupt), armed: true };
        match self.serve() {
            Ok(()) => alarm.armed = false,
            Err(error) => tracing::error!(%error, "a disk queue is broken; the driver must reset the device"),
        }
    }

    /// Serves until told to stop, and then what is available once more.
    fn serve(&mut self) -> Result<(), Broken> {
        loop {
            let stopping = self.stop.requested.load(Ordering::Acquire);
            let more = rings::drain(&mut self.line, &mut self.executor, &self.memory.memory())?;
            if !more || stopping {
                if stopping {
                    return Ok(());
                }
                self.wait()?;
            }
        }
    }

    fn wait(&self) -> io::Result<()> {
        let mut events = [EpollEvent::default(); 2];
        match self.epoll.wait(-1, &mut events) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        // Taking the kick before looking at the ring loses none: what is added later kicks again.
        match self.kick.read() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }
}

impl Rings for Line {
    fn queue(&mut self) -> &mut Queue {
        &mut self.queue
    }

    fn interrupt(&self) -> io::Result<()> {
        self.interrupt.used_buffer()
    }
}

/// Tells the driver that the device needs a reset when it is dropped armed.
struct Alarm {
    interrupt: Arc<Interrupt>,
    armed: bool,
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if self.armed {
            self.interrupt.needs_reset();
        }
    }
}
