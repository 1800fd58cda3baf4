//! Steps as the kernel makes them.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use super::apply::data;
use super::model::{BLOCK, Described, Model};
use super::step::{Copy, CopyForm, MapEnd, OpenCall, Step, SyncForm, Write};
use crate::pattern::Checksum;
use crate::torture::sys;

pub(super) use crate::torture::sys::word;

/// Where in memory unaligned transfers begin.
const ODD: usize = 13;
const PAGE: usize = 4096;

/// A system call; its result is the kernel's, errors are negative.
pub(super) fn call(number: libc::c_long, args: [u64; 6]) -> i64 {
    // SAFETY: the steps here are given addresses only of what the call reads and writes, which they have.
    unsafe { sys::call(number, args) }
}

/// Pages of our own.
#[derive(Debug)]
pub(super) struct Memory {
    start: *mut u8,
    length: usize,
}

// SAFETY: it is ordinary memory, and its owner's alone.
unsafe impl Send for Memory {}

impl Memory {
    pub(super) fn new(pages: usize) -> io::Result<Memory> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        Memory::map(pages * PAGE, flags, -1, 0)
    }

    fn map(length: usize, flags: i32, fd: i32, offset: u64) -> io::Result<Memory> {
        let protection = word(libc::PROT_READ | libc::PROT_WRITE);
        let args = [0, length as u64, protection, word(flags), word(fd), offset];
        match call(libc::SYS_mmap, args) {
            // Addresses of user memory are no negative numbers.
            error if (-4095..0).contains(&error) => {
                Err(io::Error::from_raw_os_error(i32::try_from(-error).unwrap_or(0)))
            }
            start => {
                let start = usize::try_from(start).map_err(io::Error::other)?;
                Ok(Memory { start: ptr::with_exposed_provenance_mut(start), length })
            }
        }
    }

    fn address(&self) -> u64 {
        self.start.expose_provenance() as u64
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: so much was mapped, and is readable unless a part was protected, which nobody reads then.
        unsafe { std::slice::from_raw_parts(self.start, self.length) }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and nobody else refers to it.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.length) }
    }

    pub(super) fn fill(&mut self, at: usize, bytes: &[u8]) {
        self.bytes_mut()[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Nobody can read or write its last page from now on.
    fn protect_last(&self) {
        let last = self.address() + (self.length - PAGE) as u64;
        call(libc::SYS_mprotect, [last, PAGE as u64, word(libc::PROT_NONE), 0, 0, 0]);
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        call(libc::SYS_munmap, [self.address(), self.length as u64, 0, 0, 0, 0]);
    }
}

/// What the kernel says of a descriptor.
pub(super) fn describe(fd: i32) -> Described {
    // SAFETY: all-zero is a valid stat.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    let stats = call(libc::SYS_fstat, [word(fd), (&raw mut stat).expose_provenance() as u64, 0, 0, 0, 0]);
    Described {
        fd,
        position: call(libc::SYS_lseek, [word(fd), 0, word(libc::SEEK_CUR), 0, 0, 0]),
        size: if stats < 0 { stats } else { stat.st_size },
        links: stat.st_nlink,
        cloexec: call(libc::SYS_fcntl, [word(fd), word(libc::F_GETFD), 0, 0, 0, 0]) == 1,
    }
}

/// Parts of a whole, for calls that take several.
fn pieces(start: u64, count: usize) -> [[u64; 2]; 4] {
    let (first, second) = (count / 3, count.min(1));
    let second = second.min(count - first);
    let begin = [0, first, first + second, first + second];
    let end = [first, first + second, first + second, count];
    [0, 1, 2, 3].map(|at| [start + begin[at] as u64, (end[at] - begin[at]) as u64])
}

fn offset(at: Option<i64>) -> u64 {
    at.unwrap_or(0).cast_unsigned()
}

/// Makes step number `at` below directory `dir`. Gives what the call returned, and the checksum of what was read.
pub(super) fn perform(model: &Model, dir: &Path, at: u64, step: &Step) -> io::Result<(i64, String)> {
    let path = |below: String| CString::new(dir.join(below).as_os_str().as_bytes());
    let at_path = |path: &CString| path.as_ptr().expose_provenance() as u64;
    let plain = |number, args| Ok((call(number, args), String::from("-")));
    match *step {
        Step::Open(name, how, flags) => {
            let whole = path(model.path(name))?;
            let relative = CString::new(model.path(name))?;
            let (mode, cwd) = (0o600, word(libc::AT_FDCWD));
            let open_how = [word(flags), if flags & libc::O_CREAT != 0 { mode } else { 0 }, 0];
            let open_how = open_how.as_ptr().expose_provenance() as u64;
            match how {
                OpenCall::Open => plain(libc::SYS_open, [at_path(&whole), word(flags), mode, 0, 0, 0]),
                OpenCall::Creat => plain(libc::SYS_creat, [at_path(&whole), mode, 0, 0, 0, 0]),
                OpenCall::Openat => {
                    plain(libc::SYS_openat, [cwd, at_path(&relative), word(flags), mode, 0, 0])
                }
                OpenCall::Openat2 => plain(libc::SYS_openat2, [cwd, at_path(&relative), open_how, 24, 0, 0]),
            }
        }
        Step::Close(fd) => plain(libc::SYS_close, [word(fd), 0, 0, 0, 0, 0]),
        Step::CloseRange(first, last, flags) => {
            plain(libc::SYS_close_range, [word(first), word(last), flags.into(), 0, 0, 0])
        }
        Step::Dup(fd) => plain(libc::SYS_dup, [word(fd), 0, 0, 0, 0, 0]),
        Step::Dup2(fd, to) => plain(libc::SYS_dup2, [word(fd), word(to), 0, 0, 0, 0]),
        Step::Dup3(fd, to, flags) => plain(libc::SYS_dup3, [word(fd), word(to), word(flags), 0, 0, 0]),
        Step::Fcntl(fd, command, from) => {
            plain(libc::SYS_fcntl, [word(fd), word(command), word(from), 0, 0, 0])
        }
        // Who calls this does these by itself.
        Step::Begin(_) | Step::End | Step::Exec => Ok((0, String::from("-"))),
        Step::Seek(fd, offset, whence) => {
            plain(libc::SYS_lseek, [word(fd), offset.cast_unsigned(), word(whence), 0, 0, 0])
        }
        Step::Read { fd, at, vector, count } => read(fd, at, vector, count),
        Step::Write(what) => write(&what, &data(model.seed, at, what.count)),
        Step::Copy(what) => Ok((copy(&what)?, String::from("-"))),
        Step::Ftruncate(fd, size) => plain(libc::SYS_ftruncate, [word(fd), size.cast_unsigned(), 0, 0, 0, 0]),
        Step::Truncate(name, size) => {
            let path = path(model.path(name))?;
            plain(libc::SYS_truncate, [at_path(&path), size.cast_unsigned(), 0, 0, 0, 0])
        }
        Step::Allocate(fd, mode, offset, length) => {
            let [offset, length] = [offset, length].map(i64::cast_unsigned);
            plain(libc::SYS_fallocate, [word(fd), word(mode), offset, length, 0, 0])
        }
        Step::Map(fd, offset, count, end) => {
            Ok((map(fd, offset, &data(model.seed, at, count), end), String::from("-")))
        }
        Step::Sync(fd, how) => {
            let (number, flags) = match how {
                SyncForm::Fsync => (libc::SYS_fsync, 0),
                SyncForm::Fdatasync => (libc::SYS_fdatasync, 0),
                // All of SYNC_FILE_RANGE_WAIT_BEFORE, _WRITE and _WAIT_AFTER.
                SyncForm::Range => (libc::SYS_sync_file_range, 7),
                SyncForm::Syncfs => (libc::SYS_syncfs, 0),
                // It takes no descriptor, and so says nothing of one that is not there.
                SyncForm::Sync => {
                    call(libc::SYS_sync, [0; 6]);
                    (libc::SYS_fsync, 0)
                }
            };
            plain(number, [word(fd), 0, 0, flags, 0, 0])
        }
        Step::Rename(from, to) => {
            let [from, to] = [path(model.path(from))?, path(model.path(to))?];
            plain(libc::SYS_rename, [at_path(&from), at_path(&to), 0, 0, 0, 0])
        }
        Step::Link(from, to) => {
            let [from, to] = [path(model.path(from))?, path(model.path(to))?];
            plain(libc::SYS_link, [at_path(&from), at_path(&to), 0, 0, 0, 0])
        }
        Step::Unlink(name) => {
            let path = path(model.path(name))?;
            plain(libc::SYS_unlink, [at_path(&path), 0, 0, 0, 0, 0])
        }
        Step::RenameDirectory => {
            let [from, to] = [path(model.directory().into())?, path(model.other_directory().into())?];
            plain(libc::SYS_rename, [at_path(&from), at_path(&to), 0, 0, 0, 0])
        }
    }
}

fn read(fd: i32, at: Option<i64>, vector: bool, count: usize) -> io::Result<(i64, String)> {
    let mut memory = Memory::new(count / PAGE + 2)?;
    // Whole blocks from whole pages: the descriptor may read past the page cache.
    let begin = if count.is_multiple_of(PAGE) { 0 } else { ODD };
    let start = memory.address() + begin as u64;
    let done = transfer(
        [libc::SYS_read, libc::SYS_pread64, libc::SYS_readv, libc::SYS_preadv],
        (fd, at, vector),
        (start, count),
    );
    let sum = match usize::try_from(done) {
        Ok(done) => Checksum::of(&memory.bytes_mut()[begin..begin + done]).to_string(),
        Err(_) => String::from("-"),
    };
    Ok((done, sum))
}

/// By the first of the calls, or by the one that takes an offset, several pieces, or both.
fn transfer(
    calls: [libc::c_long; 4],
    (fd, at, vector): (i32, Option<i64>, bool),
    (start, count): (u64, usize),
) -> i64 {
    let number = calls[usize::from(at.is_some()) + 2 * usize::from(vector)];
    let all = pieces(start, count);
    let (memory, count) =
        if vector { (all.as_ptr().expose_provenance() as u64, 4) } else { (start, count as u64) };
    call(number, [word(fd), memory, count, offset(at), 0, 0])
}

fn write(what: &Write, bytes: &[u8]) -> io::Result<(i64, String)> {
    let mut memory = Memory::new(bytes.len().div_ceil(PAGE) + 2)?;
    let last = memory.length - PAGE;
    let begin = match what.readable {
        Some(readable) => last - readable,
        None if bytes.len().is_multiple_of(PAGE) => 0,
        None => ODD,
    };
    let readable = &bytes[..what.readable.unwrap_or(bytes.len())];
    memory.fill(begin, readable);
    if what.readable.is_some() {
        memory.protect_last();
    }
    let start = memory.address() + begin as u64;
    let before = what.limit.map(limit_files);
    let done = match what.flags {
        Some(flags) => {
            let all = pieces(start, what.count);
            let offset = what.at.unwrap_or(-1).cast_unsigned();
            let all = all.as_ptr().expose_provenance() as u64;
            call(libc::SYS_pwritev2, [word(what.fd), all, 4, offset, 0, word(flags)])
        }
        None => transfer(
            [libc::SYS_write, libc::SYS_pwrite64, libc::SYS_writev, libc::SYS_pwritev],
            (what.fd, what.at, what.vector),
            (start, what.count),
        ),
    };
    before.map(limit_files);
    Ok((done, String::from("-")))
}

/// Sets the greatest size of files; gives what it was.
fn limit_files(limit: u64) -> u64 {
    let mut limits = [0_u64; 2];
    let address = limits.as_mut_ptr().expose_provenance() as u64;
    let resource = u64::from(libc::RLIMIT_FSIZE);
    call(libc::SYS_prlimit64, [0, resource, 0, address, 0, 0]);
    let before = std::mem::replace(&mut limits[0], limit);
    call(libc::SYS_prlimit64, [0, resource, address, 0, 0, 0]);
    before
}

fn copy(what: &Copy) -> io::Result<i64> {
    let Copy { form, from: (from, mut from_at), to: (to, mut to_at), count } = *what;
    let pointer = |at: &mut Option<u64>| match at {
        Some(at) => (&raw mut *at).expose_provenance() as u64,
        None => 0,
    };
    let (from_at, to_at, count) = (pointer(&mut from_at), pointer(&mut to_at), count as u64);
    Ok(match form {
        CopyForm::CopyFileRange => {
            call(libc::SYS_copy_file_range, [word(from), from_at, word(to), to_at, count, 0])
        }
        CopyForm::Sendfile => call(libc::SYS_sendfile, [word(to), word(from), from_at, count, 0, 0]),
        CopyForm::Splice => {
            let mut pipe = [0_i32; 2];
            let pipes = pipe.as_mut_ptr().expose_provenance() as u64;
            if call(libc::SYS_pipe2, [pipes, 0, 0, 0, 0, 0]) < 0 {
                return Err(io::Error::other("no pipe"));
            }
            let [read, write] = pipe.map(word);
            let filled = call(libc::SYS_splice, [word(from), from_at, write, 0, count, 0]);
            let done = match u64::try_from(filled) {
                Ok(filled) if filled > 0 => call(libc::SYS_splice, [read, 0, word(to), to_at, filled, 0]),
                _ => filled,
            };
            for end in [read, write] {
                call(libc::SYS_close, [end, 0, 0, 0, 0, 0]);
            }
            done
        }
    })
}

/// Stores bytes in a file's pages.
fn map(fd: i32, offset: u64, bytes: &[u8], end: MapEnd) -> i64 {
    let inside = usize::try_from(offset % BLOCK).unwrap_or(0);
    let length = (inside + bytes.len()).next_multiple_of(PAGE);
    let mut memory = match Memory::map(length, libc::MAP_SHARED, fd, offset - inside as u64) {
        Ok(memory) => memory,
        Err(error) => return -i64::from(error.raw_os_error().unwrap_or(0)),
    };
    memory.fill(inside, bytes);
    match end {
        MapEnd::Msync => {
            call(libc::SYS_msync, [memory.address(), length as u64, word(libc::MS_SYNC), 0, 0, 0])
        }
        MapEnd::Fsync => call(libc::SYS_fsync, [word(fd), 0, 0, 0, 0, 0]),
        MapEnd::Munmap => 0,
    }
}
