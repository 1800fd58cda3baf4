//! One worker: a thread that makes rounds of calls and checks every result.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use super::counts::{Own, Shared};
use super::sys::EINTR;
use super::{Options, burst, expect, fail, succeed, sys};
use crate::pattern::{self, BLOCK};

/// Long enough to be interrupted now and then, in microseconds.
const NAP: u64 = 200;
/// How much longer Linux may let a thread sleep, in microseconds: 50 unless somebody changed it.
const SLACK: u64 = 1000;
/// `umask` for all processes.
const UMASK: u64 = 0o022;
/// What `personality` takes for a question.
const ASK: u64 = 0xffff_ffff;

/// Pipes from each worker to the next, and when to stop.
#[derive(Clone, Debug)]
pub(crate) struct Ring {
    pipes: Arc<Vec<(i32, i32)>>,
    /// The round that nobody begins.
    stop: Arc<AtomicU64>,
    deadline: Option<Instant>,
}

impl Ring {
    pub(crate) fn new(options: &Options) -> Result<Ring, i64> {
        let pipes = (0..options.threads).map(|_| sys::pipe(0)).collect::<Result<Vec<_>, _>>()?;
        let deadline = options.limit.and_then(|limit| Instant::now().checked_add(limit));
        Ok(Ring { pipes: Arc::new(pipes), stop: Arc::new(AtomicU64::new(options.rounds)), deadline })
    }

    /// Whether a worker makes this round. The first worker watches the time for all: nobody is further ahead of it
    /// than there are workers, because everybody waits for a message in each round.
    fn goes_on(&self, index: u32, round: u64) -> bool {
        if index == 0 && self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            let last = round.saturating_add(self.pipes.len() as u64);
            self.stop.fetch_min(last, Ordering::SeqCst);
        }
        round < self.stop.load(Ordering::SeqCst)
    }
}

/// What stays the same while the program runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Constants {
    pub(crate) pid: i64,
    ppid: i64,
    group: i64,
    priority: i64,
    personality: i64,
    memory: u64,
}

impl Constants {
    /// Asks the kernel for them.
    pub(crate) fn ask(shared: &Shared) -> Constants {
        shared.call(Own::Umask, [UMASK, 0]);
        Constants {
            pid: shared.call(Own::Getpid, [0; 2]),
            ppid: shared.call(Own::Getppid, [0; 2]),
            group: shared.call(Own::Getpgid, [0; 2]),
            priority: shared.call(Own::Getpriority, [0; 2]),
            personality: shared.call(Own::Personality, [ASK, 0]),
            memory: shared.sysinfo().1,
        }
    }

    /// The same for a child of this process.
    pub(crate) fn of_child(self, child: i64) -> Constants {
        Constants { pid: child, ppid: self.pid, ..self }
    }

    /// The parent.
    pub(crate) fn parent(&self) -> i64 {
        self.ppid
    }

    /// Makes each counted call that returns at once, and checks it.
    pub(crate) fn check(&self, shared: &Shared) {
        expect("getpid", shared.call(Own::Getpid, [0; 2]), self.pid);
        expect("getppid", shared.call(Own::Getppid, [0; 2]), self.ppid);
        expect("getpgid", shared.call(Own::Getpgid, [0; 2]), self.group);
        expect(
            "getpgid of nobody",
            shared.call(Own::Getpgid, [u64::from(u32::MAX) >> 1, 0]),
            -i64::from(libc::ESRCH),
        );
        expect("getpriority", shared.call(Own::Getpriority, [0; 2]), self.priority);
        expect("getpriority of nothing", shared.call(Own::Getpriority, [99, 0]), -i64::from(libc::EINVAL));
        expect("umask", shared.call(Own::Umask, [UMASK, 0]), UMASK.cast_signed());
        expect("personality", shared.call(Own::Personality, [ASK, 0]), self.personality);
        expect("sched_yield", shared.call(Own::SchedYield, [0; 2]), 0);
        if shared.sysinfo() != (0, self.memory) {
            fail("sysinfo", 0);
        }
        expect("sysinfo into nothing", shared.call(Own::Sysinfo, [0; 2]), -i64::from(libc::EFAULT));
        for (own, value) in [(Own::Getppid, self.ppid), (Own::Getpid, self.pid)] {
            match shared.call_with_registers(own) {
                Ok(result) => expect("a call with every register in use", result, value),
                Err(problem) => fail(problem, 0),
            }
        }
    }
}

/// A worker.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) shared: &'static Shared,
    /// The shared page's descriptor, for programs that are executed.
    pub(crate) fd: i32,
    index: u32,
    seed: u64,
    /// Never to be interrupted where Linux restarts calls.
    pub(crate) strict: bool,
    pub(crate) constants: Constants,
    cpus: u64,
    path: CString,
    file: i32,
    futex: AtomicU32,
}

impl Worker {
    pub(crate) fn new(shared: &'static Shared, fd: i32, index: u32, options: &Options) -> io::Result<Worker> {
        let constants = Constants::ask(shared);
        let path = options.dir.join(format!("torture-{}-{index}", constants.pid));
        let path = CString::new(path.as_os_str().as_bytes())?;
        let file = sys::open(&path, libc::O_RDWR | libc::O_CREAT | libc::O_EXCL);
        if file < 0 {
            return Err(io::Error::from_raw_os_error(sys::int(-file)));
        }
        Ok(Worker {
            shared,
            fd,
            index,
            seed: options.seed,
            strict: index.is_multiple_of(2),
            constants,
            cpus: sys::affinity(),
            path,
            file: sys::int(file),
            futex: AtomicU32::new(0),
        })
    }

    /// The calling thread's number.
    pub(crate) fn thread_id() -> i32 {
        sys::int(sys::gettid())
    }

    /// All rounds.
    pub(crate) fn run(&mut self, ring: &Ring) {
        let mut round = 0;
        while ring.goes_on(self.index, round) {
            self.constants.check(self.shared);
            self.message(ring, round);
            self.files(round);
            self.futexes();
            self.nap();
            self.cpu(round);
            self.memory(round);
            self.mistakes();
            burst::burst(self, round.wrapping_add(self.index.into()));
            self.shared.progress.fetch_add(1, Ordering::SeqCst);
            round += 1;
        }
        self.end();
    }

    /// Leaves nothing behind.
    pub(crate) fn end(&self) {
        expect("close of the file", sys::close(self.file), 0);
        expect("unlink", sys::unlink(&self.path), 0);
    }

    /// Makes a call again when a signal interrupted it, unless that must not happen.
    pub(crate) fn again(&self, what: &str, mut call: impl FnMut() -> i64) -> i64 {
        loop {
            match call() {
                EINTR if self.strict => fail(what, EINTR),
                EINTR => self.shared.interrupted.fetch_add(1, Ordering::SeqCst),
                result => return result,
            };
        }
    }

    /// Reads until the buffer is full.
    pub(crate) fn read_all(&self, fd: i32, buffer: &mut [u8]) {
        let mut at = 0;
        while at < buffer.len() {
            let count = self.again("read of a pipe", || sys::read(fd, &mut buffer[at..]));
            match usize::try_from(count) {
                Ok(count) if count > 0 => at += count,
                _ => fail("read of a pipe", count),
            }
        }
        self.shared.bytes.fetch_add(buffer.len() as u64, Ordering::SeqCst);
    }

    /// One message to the next worker, one from the one before. All fit in the pipe, so nobody waits to write.
    fn message(&self, ring: &Ring, round: u64) {
        let count = u32::try_from(ring.pipes.len()).unwrap_or(1);
        let before = (self.index + count - 1) % count;
        let (sent, length) = self.contents(self.index, round);
        let pipe = ring.pipes[self.index as usize].1;
        let written = self.again("write to a pipe", || sys::write(pipe, &sent[..length]));
        expect("write to a pipe", written, sys::length(length));
        let (wanted, length) = self.contents(before, round);
        let mut got = [0; BLOCK];
        self.read_all(ring.pipes[before as usize].0, &mut got[..length]);
        if got[..length] != wanted[..length] {
            fail("a message has other contents", sys::length(length));
        }
    }

    /// A message: not longer than `PIPE_BUF`, so it is written in one piece.
    fn contents(&self, index: u32, round: u64) -> ([u8; BLOCK], usize) {
        let block = pattern::block(self.seed, u64::from(index) + 1000, round);
        let length = 64 + usize::from(u16::from_le_bytes([block[0], block[1]])) % (BLOCK - 64);
        (block, length)
    }

    /// Writes and reads back, by offset and by position.
    pub(crate) fn files(&self, round: u64) {
        let own = pattern::block(self.seed, self.index.into(), round);
        let offset = (round % 8) * BLOCK as u64;
        let length = sys::length(BLOCK);
        let mut got = [0; BLOCK];
        let same = |what: &str, got: &[u8; BLOCK]| {
            self.shared.bytes.fetch_add(BLOCK as u64, Ordering::SeqCst);
            if *got != own {
                fail(what, 0);
            }
        };
        expect("pwrite64", sys::pwrite(self.file, &own, offset), length);
        expect("pread64", sys::pread(self.file, &mut got, offset), length);
        same("pread64 gives other contents", &got);
        let copy = sys::int(succeed("dup", sys::dup(self.file)));
        expect("lseek", sys::lseek(copy, offset.cast_signed(), libc::SEEK_SET), offset.cast_signed());
        expect("write", sys::write(self.file, &own), length);
        let end = offset.cast_signed() + length;
        expect("lseek tells", sys::lseek(copy, 0, libc::SEEK_CUR), end);
        expect("lseek back", sys::lseek(self.file, -length, libc::SEEK_CUR), end - length);
        got.fill(0);
        expect("read", sys::read(copy, &mut got), length);
        same("read gives other contents", &got);
        expect("close", sys::close(copy), 0);
        if round % 8 == 7 {
            expect("fsync", sys::fsync(self.file), 0);
            expect("ftruncate", sys::ftruncate(self.file, 0), 0);
            expect("read at the end", sys::pread(self.file, &mut got, 0), 0);
        }
    }

    pub(crate) fn futexes(&self) {
        expect("futex of another value", sys::futex_wait(&self.futex, 1, None), -i64::from(libc::EAGAIN));
        expect("futex wakes nobody", sys::futex_wake(&self.futex), 0);
        let result = sys::futex_wait(&self.futex, 0, Some(NAP));
        // With a time limit a futex is not restarted behind a handler.
        if result == EINTR {
            self.shared.interrupted.fetch_add(1, Ordering::SeqCst);
        } else {
            expect("futex with a limit", result, -i64::from(libc::ETIMEDOUT));
        }
    }

    pub(crate) fn nap(&self) {
        let mut left = NAP;
        loop {
            match sys::nanosleep(left) {
                (0, _) => return,
                // What is left may be more by the slack that the kernel adds.
                (EINTR, rest) if rest <= left + SLACK => {
                    self.shared.interrupted.fetch_add(1, Ordering::SeqCst);
                    left = rest.min(left - left.div_ceil(8));
                }
                (result, _) => fail("nanosleep", result),
            }
        }
    }

    /// Moves to another CPU, and says so only if there is one.
    fn cpu(&self, round: u64) {
        let count = u64::from(self.cpus.count_ones());
        if count < 2 {
            return;
        }
        let nth = (round + u64::from(self.index)) % count;
        let mut mask = self.cpus;
        for _ in 0..nth {
            mask &= mask - 1;
        }
        let cpu = mask.trailing_zeros();
        expect("sched_setaffinity", sys::set_affinity(1 << cpu), 0);
        expect("getcpu", sys::getcpu().into(), cpu.into());
        if round % 3 == 2 {
            expect("sched_setaffinity to all", sys::set_affinity(self.cpus), 0);
        }
    }

    pub(crate) fn memory(&self, round: u64) {
        let flags = libc::MAP_SHARED;
        expect("ftruncate", sys::ftruncate(self.file, 8 * BLOCK as u64), 0);
        let place = match sys::map(BLOCK, flags, self.file) {
            Ok(place) => place.cast::<[u8; BLOCK]>(),
            Err(error) => fail("mmap", error),
        };
        let own = pattern::block(self.seed, u64::from(self.index) + 2000, round);
        // SAFETY: the mapping is new, of this length, and nobody else's; the file is as long.
        unsafe { place.write(own) };
        let mut got = [0; BLOCK];
        expect("pread64 of a mapping", sys::pread(self.file, &mut got, 0), sys::length(BLOCK));
        if got != own {
            fail("a mapping and its file differ", 0);
        }
        // SAFETY: nothing refers to the mapping.
        expect("munmap", unsafe { sys::unmap(place.cast(), BLOCK) }, 0);
    }

    /// Calls that fail, each in its own way.
    pub(crate) fn mistakes(&self) {
        expect("write to nothing", sys::write(-1, b"x"), -i64::from(libc::EBADF));
        expect("write of nothing", sys::write_nothing(self.file, 8), -i64::from(libc::EFAULT));
        expect(
            "openat of nothing",
            sys::open(c"/proc/no such file", libc::O_RDONLY),
            -i64::from(libc::ENOENT),
        );
        expect("lseek to before", sys::lseek(self.file, -1, libc::SEEK_SET), -i64::from(libc::EINVAL));
        expect("a call that does not exist", sys::no_such_call(), -i64::from(libc::ENOSYS));
    }
}
