//! `libiwrite.so`: gives the reads and writes of any dynamically linked program classes by the paths of their files.
//!
//! ```text
//! LD_PRELOAD=libiwrite.so IWRITE_RULES='*.db=3:/var/log/*=7' program
//! ```
//!
//! It takes the places of `read`, `write` and their like in the C library. Each finds the class of its descriptor's
//! file ([`rules`], remembered in [`cache`]) and makes the kernel's call with it, or the plain call if the file has
//! none. `errno` is as with the plain calls. Nothing here allocates once the rules are read, nobody waits for anybody,
//! so signal handlers may write as ever; they need 4 KiB of stack the first time that they meet a file.
//!
//! What it does not see: calls that the C library makes inside itself (`fwrite`, `fclose`), calls by the bare
//! instruction, and data that passes no buffer (`copy_file_range`, `sendfile`, `mmap`). Cancellation points are none
//! here.

mod cache;
#[cfg_attr(test, allow(dead_code, reason = "called by other programs"))]
mod exports;
mod rules;

use std::ffi::CStr;
use std::sync::OnceLock;

use cache::{Cache, File};
use rules::Rule;

/// The variable that holds the rules.
const VARIABLE: &CStr = c"IWRITE_RULES";
/// What Linux appends to the path of a file that has no name any more.
const DELETED: &[u8] = b" (deleted)";

static RULES: OnceLock<Vec<Rule>> = OnceLock::new();
static CACHE: Cache = Cache::new();

/// Reads the rules, before the program's `main` runs. What is called even earlier has no class.
extern "C" fn initialise() {
    // SAFETY: no other thread runs yet that could change the environment.
    let value = unsafe { libc::getenv(VARIABLE.as_ptr()) };
    if value.is_null() {
        return;
    }
    // SAFETY: the environment's strings end with zeros, and this one is only used here.
    let text = unsafe { CStr::from_ptr(value) };
    let rules = rules::parse(text.to_bytes(), |rule, problem| {
        let parts = [b"iwrite: the rule `", rule, b"` ", problem.text().as_bytes(), b" and is ignored\n"];
        // In one piece, past our own `write`; there is nobody to tell if it fails.
        let line = parts.concat();
        let args = [2, line.as_ptr().addr() as u64, line.len() as u64, 0];
        // SAFETY: the kernel only reads the line.
        let _ = unsafe { hint::call(hint::number::WRITE, args, None) };
    });
    if !rules.is_empty() {
        // Only this function sets it, once.
        let _ = RULES.set(rules);
    }
}

#[used]
#[unsafe(link_section = ".init_array")]
static INITIALISE: extern "C" fn() = initialise;

/// The class of a descriptor's file, if a rule gives it one. Keeps `errno`.
fn class(fd: i32) -> Option<u32> {
    let rules = RULES.get()?;
    // SAFETY: all-zero is a valid stat.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    let args = [word(fd), (&raw mut stat).addr() as u64, 0, 0];
    // SAFETY: on 64-bit x86 the kernel writes what the C library calls `stat`.
    unsafe { hint::call(libc::SYS_fstat.cast_unsigned(), args, None) }.ok()?;
    let file = File { device: stat.st_dev, inode: stat.st_ino };
    if let Some(known) = CACHE.find(fd, file) {
        return known;
    }
    let class = look_up(rules, fd, stat.st_nlink == 0);
    CACHE.remember(fd, file, class);
    class
}

/// Asks for the path. A path that does not fit has no class.
fn look_up(rules: &[Rule], fd: i32, deleted: bool) -> Option<u32> {
    let mut link = *b"/proc/self/fd/\0\0\0\0\0\0\0\0\0\0\0\0";
    let mut digits = [0; 10];
    let (mut first, mut rest) = (digits.len(), fd.unsigned_abs());
    while first > 0 {
        first -= 1;
        digits[first] = b'0' + u8::try_from(rest % 10).ok()?;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    let digits = &digits[first..];
    link.get_mut(14..14 + digits.len())?.copy_from_slice(digits);
    let mut path = [0u8; 4096];
    let args = [link.as_ptr().addr() as u64, path.as_mut_ptr().addr() as u64, path.len() as u64, 0];
    // SAFETY: the link's name ends with a zero, and the kernel writes at most the path's length.
    let length = unsafe { hint::call(libc::SYS_readlink.cast_unsigned(), args, None) }.ok()?;
    let path = path.get(..length).filter(|path| path.len() < 4096)?;
    let path = if deleted { path.strip_suffix(DELETED).unwrap_or(path) } else { path };
    rules::class(rules, path)
}

/// A descriptor as the kernel takes it.
fn word(fd: i32) -> u64 {
    u64::from(fd.cast_unsigned())
}

/// Makes a call with the class of its file, and answers as the C library does.
///
/// # Safety
/// As for [`hint::call`]; the first argument is a descriptor.
unsafe fn call(number: u64, fd: i32, args: [u64; 3]) -> isize {
    let args = [word(fd), args[0], args[1], args[2]];
    // SAFETY: the caller vouches for it.
    match unsafe { hint::call(number, args, class(fd)) } {
        Ok(value) => isize::try_from(value).unwrap_or(isize::MAX),
        Err(hint::Errno(error)) => {
            fail(error);
            -1
        }
    }
}

/// Sets `errno`.
fn fail(error: i32) {
    // SAFETY: it has no preconditions.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: the address is that of the thread's own errno.
    unsafe { *errno = error };
}
