//! What guest programs do, so that two of them can do the same: write files, make system calls.
//!
//! Only the standard library and the bare instructions: these programs are linked statically and run in guests that
//! hold nothing else.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::pattern::{BLOCK, Checksum, block, file, tail};

/// Files to write: contents as in [`crate::pattern`], names `PREFIX0.dat`, `PREFIX1.dat` and so on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// What the names begin with.
    pub prefix: &'static str,
    /// The seed of the contents.
    pub seed: u64,
    /// How many files.
    pub files: u64,
    /// Whole blocks in each.
    pub blocks: u64,
}

impl Files {
    /// From arguments `[SEED [FILES [BLOCKS]]]`.
    pub fn parse(prefix: &'static str, args: &[String]) -> io::Result<Files> {
        let number = |at: usize, default: u64| match args.get(at) {
            None => Ok(default),
            Some(text) => text
                .parse()
                .map_err(|_| io::Error::other(format!("{text} is not a number: [SEED [FILES [BLOCKS]]]"))),
        };
        Ok(Files { prefix, seed: number(0, 1)?, files: number(1, 4)?, blocks: number(2, 16)? })
    }

    /// A file's name.
    pub fn name(&self, number: u64) -> String {
        format!("{}{number}.dat", self.prefix)
    }

    /// Writes all files. Even ones are written in order with `write`, odd ones from their end with `pwrite64`; each
    /// is synchronised by `fsync`, and in the end everything by `sync`.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        for number in 0..self.files {
            let mut out = File::create(dir.join(self.name(number)))?;
            if number % 2 == 0 {
                for at in 0..self.blocks {
                    out.write_all(&block(self.seed, number, at))?;
                }
                out.write_all(&tail(self.seed, number, self.blocks))?;
            } else {
                let length = BLOCK as u64;
                out.write_all_at(&tail(self.seed, number, self.blocks), self.blocks * length)?;
                for at in (0..self.blocks).rev() {
                    out.write_all_at(&block(self.seed, number, at), at * length)?;
                }
            }
            out.sync_all()?;
        }
        // SAFETY: sync has no preconditions.
        unsafe { libc::sync() };
        Ok(())
    }

    /// The checksum of all files, one after the other.
    pub fn checksum(&self) -> Checksum {
        let mut sum = Checksum::default();
        for number in 0..self.files {
            sum.add(&file(self.seed, number, self.blocks));
        }
        sum
    }
}

/// What many calls of `getpid` took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Ticks of the time-stamp counter.
    pub ticks: u64,
    /// The process id that every call gave; none if they differed.
    pub pid: Option<u64>,
}

/// Calls `getpid` with the bare instruction: the C library might answer without asking the kernel.
#[cfg(target_arch = "x86_64")]
pub fn getpid_loop(calls: u64) -> Timing {
    let first = getpid();
    let mut same = true;
    // SAFETY: reading the time-stamp counter has no preconditions.
    let start = unsafe { std::arch::x86_64::_rdtsc() };
    for _ in 0..calls {
        same &= getpid() == first;
    }
    // SAFETY: reading the time-stamp counter has no preconditions.
    let end = unsafe { std::arch::x86_64::_rdtsc() };
    Timing { ticks: end.saturating_sub(start), pid: same.then_some(first) }
}

/// Makes the process one of those that the scheduler runs first and in turns: `sched_yield` then hands the CPU to
/// the other one each time, instead of as is fair. Needs privilege.
///
/// # Errors
/// The kernel refuses it.
pub fn in_turns() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: the structure is valid for the call.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Calls `sched_yield` so often; gives the ticks that it took.
#[cfg(target_arch = "x86_64")]
pub fn yield_loop(calls: u64) -> u64 {
    // SAFETY: reading the time-stamp counter has no preconditions.
    let start = unsafe { std::arch::x86_64::_rdtsc() };
    for _ in 0..calls {
        // SAFETY: sched_yield has no preconditions.
        unsafe { libc::sched_yield() };
    }
    // SAFETY: reading the time-stamp counter has no preconditions.
    unsafe { std::arch::x86_64::_rdtsc() }.saturating_sub(start)
}

/// Writes so often to the I/O port of power-on diagnostics; gives the ticks that it took. Needs privilege.
#[cfg(target_arch = "x86_64")]
pub fn out_loop(times: u64) -> io::Result<u64> {
    const PORT: u8 = 0x80;
    // SAFETY: nothing is listening on this port; writes to it have no effect but time.
    if unsafe { libc::ioperm(PORT.into(), 1, 1) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: reading the time-stamp counter has no preconditions.
    let start = unsafe { std::arch::x86_64::_rdtsc() };
    for _ in 0..times {
        // SAFETY: the process may write to the port, and nothing else changes.
        unsafe { std::arch::asm!("out 0x80, al", in("al") 0u8, options(nostack, preserves_flags)) };
    }
    // SAFETY: reading the time-stamp counter has no preconditions.
    Ok(unsafe { std::arch::x86_64::_rdtsc() }.saturating_sub(start))
}

/// Passes the time without a system call until the time-stamp counter has advanced by `ticks`.
#[cfg(target_arch = "x86_64")]
pub fn spin(ticks: u64) {
    // SAFETY: reading the time-stamp counter has no preconditions.
    let start = unsafe { std::arch::x86_64::_rdtsc() };
    // SAFETY: as above.
    while unsafe { std::arch::x86_64::_rdtsc() }.wrapping_sub(start) < ticks {
        std::hint::spin_loop();
    }
}

#[cfg(target_arch = "x86_64")]
fn getpid() -> u64 {
    let number = libc::SYS_getpid.cast_unsigned();
    let pid;
    // SAFETY: getpid touches no memory, and the registers that SYSCALL changes are declared.
    unsafe {
        std::arch::asm!("syscall", inlateout("rax") number => pid, out("rcx") _, out("r11") _, options(nostack));
    }
    pid
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_the_pattern_says() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::parse("x", &["7".into(), "4".into(), "3".into()]).unwrap();
        files.write(dir.path()).unwrap();
        let mut sum = Checksum::default();
        for number in 0..4 {
            let bytes = std::fs::read(dir.path().join(files.name(number))).unwrap();
            assert_eq!(bytes, file(7, number, 3));
            sum.add(&bytes);
        }
        assert_eq!(sum, files.checksum());
        assert_ne!(sum, Files { seed: 8, ..files }.checksum());
    }

    #[test]
    fn arguments_have_defaults_and_are_checked() {
        let files = Files::parse("x", &[]).unwrap();
        assert_eq!((files.seed, files.files, files.blocks), (1, 4, 16));
        assert!(Files::parse("x", &["one".into()]).is_err());
    }

    #[test]
    fn the_kernel_answers() {
        assert_eq!(getpid_loop(10).pid, Some(std::process::id().into()));
    }
}
