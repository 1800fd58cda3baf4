//! System calls by the bare instruction: the C library would make calls of its own, keep answers, or repeat a call.
//!
//! Results are the kernel's: a value, or a negative error number. Nothing here allocates or touches thread-local
//! data, so all of it may be used in signal handlers, in a child of a process with threads, and in threads that the
//! C library knows nothing of.

use std::arch::asm;
use std::ffi::CStr;
use std::ptr;
use std::sync::atomic::AtomicU32;

mod start;

pub use start::{Image, clone3, exec, fork, thread, vfork_exec};

/// `EINTR` as the kernel returns it.
pub const EINTR: i64 = -(libc::EINTR as i64);

/// A system call.
///
/// # Safety
/// The arguments must be right for the call: memory that it writes must be the caller's to change.
#[inline(always)]
pub unsafe fn call(number: i64, args: [u64; 6]) -> i64 {
    let result;
    // SAFETY: the caller vouches for the arguments; the registers that SYSCALL changes are declared.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            in("r9") args[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// A call that is given no address.
macro_rules! plain {
    ($number:expr $(, $arg:expr)*) => {{
        let mut args = [0; 6];
        for (slot, arg) in args.iter_mut().zip([$($arg),*] as [u64; _]) {
            *slot = arg;
        }
        // SAFETY: none of the arguments is an address, so no memory is touched.
        unsafe { call($number, args) }
    }};
}

/// A descriptor or another small number as the kernel takes it.
pub fn word(number: i32) -> u64 {
    i64::from(number).cast_unsigned()
}

/// A result that is known to fit, such as a process or a descriptor.
pub fn int(result: i64) -> i32 {
    i32::try_from(result).unwrap_or(i32::MIN)
}

/// A length as the kernel returns it.
pub fn length(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn address<T>(pointer: *const T) -> u64 {
    pointer.addr() as u64
}

/// `read(2)`.
pub fn read(fd: i32, buffer: &mut [u8]) -> i64 {
    let args = [word(fd), address(buffer.as_mut_ptr()), buffer.len() as u64, 0, 0, 0];
    // SAFETY: the kernel writes at most the buffer's length.
    unsafe { call(libc::SYS_read, args) }
}

/// `write(2)`.
pub fn write(fd: i32, bytes: &[u8]) -> i64 {
    let args = [word(fd), address(bytes.as_ptr()), bytes.len() as u64, 0, 0, 0];
    // SAFETY: the kernel only reads these bytes.
    unsafe { call(libc::SYS_write, args) }
}

/// `write(2)` of bytes that are not there: page zero is never mapped.
pub fn write_nothing(fd: i32, count: u64) -> i64 {
    plain!(libc::SYS_write, word(fd), 0, count)
}

/// `pread64(2)`.
pub fn pread(fd: i32, buffer: &mut [u8], offset: u64) -> i64 {
    let args = [word(fd), address(buffer.as_mut_ptr()), buffer.len() as u64, offset, 0, 0];
    // SAFETY: the kernel writes at most the buffer's length.
    unsafe { call(libc::SYS_pread64, args) }
}

/// `pwrite64(2)`.
pub fn pwrite(fd: i32, bytes: &[u8], offset: u64) -> i64 {
    let args = [word(fd), address(bytes.as_ptr()), bytes.len() as u64, offset, 0, 0];
    // SAFETY: the kernel only reads these bytes.
    unsafe { call(libc::SYS_pwrite64, args) }
}

/// `lseek(2)`.
pub fn lseek(fd: i32, offset: i64, whence: i32) -> i64 {
    plain!(libc::SYS_lseek, word(fd), offset.cast_unsigned(), word(whence))
}

/// `ftruncate(2)`.
pub fn ftruncate(fd: i32, length: u64) -> i64 {
    plain!(libc::SYS_ftruncate, word(fd), length)
}

/// `fsync(2)`.
pub fn fsync(fd: i32) -> i64 {
    plain!(libc::SYS_fsync, word(fd))
}

/// `openat(2)` from the working directory, always with `O_CLOEXEC`.
pub fn open(path: &CStr, flags: i32) -> i64 {
    let flags = word(flags | libc::O_CLOEXEC);
    let args = [word(libc::AT_FDCWD), address(path.as_ptr()), flags, 0o600, 0, 0];
    // SAFETY: the kernel only reads the path, which ends with a zero.
    unsafe { call(libc::SYS_openat, args) }
}

/// `unlink(2)`.
pub fn unlink(path: &CStr) -> i64 {
    // SAFETY: the kernel only reads the path, which ends with a zero.
    unsafe { call(libc::SYS_unlink, [address(path.as_ptr()), 0, 0, 0, 0, 0]) }
}

/// `close(2)`.
pub fn close(fd: i32) -> i64 {
    plain!(libc::SYS_close, word(fd))
}

/// `dup(2)`.
pub fn dup(fd: i32) -> i64 {
    plain!(libc::SYS_dup, word(fd))
}

/// `pipe2(2)` with `O_CLOEXEC`; `flags` are more of them. Returns the end to read from and the end to write to.
pub fn pipe(flags: i32) -> Result<(i32, i32), i64> {
    let mut ends = [0i32; 2];
    let args = [address(ends.as_mut_ptr()), word(flags | libc::O_CLOEXEC), 0, 0, 0, 0];
    // SAFETY: the kernel writes the two descriptors.
    match unsafe { call(libc::SYS_pipe2, args) } {
        0 => Ok((ends[0], ends[1])),
        error => Err(error),
    }
}

/// `getcpu(2)`: the CPU that the caller ran on.
pub fn getcpu() -> u32 {
    let mut cpu = u32::MAX;
    // SAFETY: the kernel writes the number.
    unsafe { call(libc::SYS_getcpu, [address(&raw mut cpu), 0, 0, 0, 0, 0]) };
    cpu
}

/// The CPUs that the caller may run on, the first 64 of them.
pub fn affinity() -> u64 {
    let mut mask = [0u64; 128];
    let args = [0, size_of_val(&mask) as u64, address(mask.as_mut_ptr()), 0, 0, 0];
    // SAFETY: the kernel writes at most the mask's length.
    unsafe { call(libc::SYS_sched_getaffinity, args) };
    mask[0]
}

/// `sched_setaffinity(2)` for the caller.
pub fn set_affinity(mask: u64) -> i64 {
    let args = [0, size_of::<u64>() as u64, address(&raw const mask), 0, 0, 0];
    // SAFETY: the kernel only reads the mask.
    unsafe { call(libc::SYS_sched_setaffinity, args) }
}

/// Sleeps for so many microseconds, once: the time that was left is returned beside the result.
pub fn nanosleep(microseconds: u64) -> (i64, u64) {
    let wanted = timespec(microseconds);
    let mut left = timespec(0);
    let args = [address(&raw const wanted), address(&raw mut left), 0, 0, 0, 0];
    // SAFETY: the kernel reads the one and writes the other.
    let result = unsafe { call(libc::SYS_nanosleep, args) };
    let microseconds = left.tv_sec.cast_unsigned() * 1_000_000 + left.tv_nsec.cast_unsigned().div_ceil(1000);
    (result, microseconds)
}

/// Sleeps to the end, whatever signals come. Linux adds some slack to what it says is left, so each signal shortens
/// the rest by an eighth at least: under a storm it would never end.
pub fn sleep(microseconds: u64) {
    let mut left = microseconds;
    while let (EINTR, rest) = nanosleep(left) {
        left = rest.min(left - left.div_ceil(8));
    }
}

fn timespec(microseconds: u64) -> libc::timespec {
    libc::timespec {
        tv_sec: (microseconds / 1_000_000).cast_signed(),
        tv_nsec: (microseconds % 1_000_000 * 1000).cast_signed(),
    }
}

/// `FUTEX_WAIT` while the word is `value`, for at most so many microseconds if given.
pub fn futex_wait(word_: &AtomicU32, value: u32, microseconds: Option<u64>) -> i64 {
    let limit = timespec(microseconds.unwrap_or(0));
    let limit = if microseconds.is_some() { address(&raw const limit) } else { 0 };
    let args = [address(word_.as_ptr()), word(libc::FUTEX_WAIT), u64::from(value), limit, 0, 0];
    // SAFETY: the kernel reads the word and the time.
    unsafe { call(libc::SYS_futex, args) }
}

/// `FUTEX_WAKE` of everybody.
pub fn futex_wake(word_: &AtomicU32) -> i64 {
    let args = [address(word_.as_ptr()), word(libc::FUTEX_WAKE), 0x7fff_ffff, 0, 0, 0];
    // SAFETY: the kernel only takes the word's address.
    unsafe { call(libc::SYS_futex, args) }
}

/// `gettid(2)`. The standard library uses it as well, so it is not counted.
pub fn gettid() -> i64 {
    plain!(libc::SYS_gettid)
}

/// `kill(2)`.
pub fn kill(pid: i32, signal: i32) -> i64 {
    plain!(libc::SYS_kill, word(pid), word(signal))
}

/// `tgkill(2)`.
pub fn tgkill(pid: i32, tid: i32, signal: i32) -> i64 {
    plain!(libc::SYS_tgkill, word(pid), word(tid), word(signal))
}

/// Blocks the signals of a mask, bit `n - 1` for signal `n`, besides those that are blocked.
pub fn block_signals(mask: u64) -> i64 {
    let args = [word(libc::SIG_BLOCK), address(&raw const mask), 0, size_of::<u64>() as u64, 0, 0];
    // SAFETY: the kernel only reads the mask.
    unsafe { call(libc::SYS_rt_sigprocmask, args) }
}

/// `wait4(2)`: the child and its status.
pub fn wait(pid: i32, options: i32) -> (i64, i32) {
    let mut status = 0i32;
    let args = [word(pid), address(&raw mut status), word(options), 0, 0, 0];
    // SAFETY: the kernel writes the status.
    (unsafe { call(libc::SYS_wait4, args) }, status)
}

/// A call that does not exist.
pub fn no_such_call() -> i64 {
    plain!(9_999)
}

/// `exit_group(2)`.
pub fn exit_group(code: i32) -> ! {
    loop {
        plain!(libc::SYS_exit_group, word(code));
    }
}

/// `exit(2)`: ends this thread alone.
pub fn exit(code: i32) -> ! {
    loop {
        plain!(libc::SYS_exit, word(code));
    }
}

/// `mmap(2)` of so many bytes to read and write, from the start of `fd`.
pub fn map(bytes: usize, flags: i32, fd: i32) -> Result<*mut u8, i64> {
    let access = word(libc::PROT_READ | libc::PROT_WRITE);
    // SAFETY: without MAP_FIXED a new mapping is made where there is none.
    let result = unsafe { call(libc::SYS_mmap, [0, bytes as u64, access, word(flags), word(fd), 0]) };
    match usize::try_from(result) {
        Ok(place) => Ok(ptr::with_exposed_provenance_mut(place)),
        Err(_) => Err(result),
    }
}

/// `munmap(2)`.
///
/// # Safety
/// Nothing may refer to the mapping any more.
pub unsafe fn unmap(place: *mut u8, bytes: usize) -> i64 {
    // SAFETY: the caller vouches for it.
    unsafe { call(libc::SYS_munmap, [address(place), bytes as u64, 0, 0, 0, 0]) }
}
