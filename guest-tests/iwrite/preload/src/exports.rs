//! The functions that take the C library's places. In unit tests they keep names of their own: the test harness needs
//! the C library's.

use core::ffi::{c_int, c_void};

use hint::number;
use libc::{iovec, off_t, size_t, ssize_t};

use super::{CACHE, call, word};

macro_rules! export {
    ($($name:ident: $number:ident ($($arg:ident: $kind:ty => $value:expr),*);)*) => {$(
        /// As the C library's function of this name, with the class of the file.
        ///
        /// # Safety
        /// As for the C library's.
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub(crate) unsafe extern "C" fn $name(fd: c_int, $($arg: $kind),*) -> ssize_t {
            let mut args = [0; 3];
            for (slot, value) in args.iter_mut().zip([$($value),*] as [u64; _]) {
                *slot = value;
            }
            // SAFETY: the caller vouches for the arguments, which are the kernel's.
            unsafe { call(number::$number, fd, args) }
        }
    )*};
}

export! {
    read: READ(buffer: *mut c_void => buffer.addr() as u64, count: size_t => count as u64);
    write: WRITE(buffer: *const c_void => buffer.addr() as u64, count: size_t => count as u64);
    pread: PREAD64(buffer: *mut c_void => buffer.addr() as u64, count: size_t => count as u64, at: off_t => at.cast_unsigned());
    pread64: PREAD64(buffer: *mut c_void => buffer.addr() as u64, count: size_t => count as u64, at: off_t => at.cast_unsigned());
    pwrite: PWRITE64(buffer: *const c_void => buffer.addr() as u64, count: size_t => count as u64, at: off_t => at.cast_unsigned());
    pwrite64: PWRITE64(buffer: *const c_void => buffer.addr() as u64, count: size_t => count as u64, at: off_t => at.cast_unsigned());
    readv: READV(list: *const iovec => list.addr() as u64, count: c_int => word(count));
    writev: WRITEV(list: *const iovec => list.addr() as u64, count: c_int => word(count));
    preadv: PREADV(list: *const iovec => list.addr() as u64, count: c_int => word(count), at: off_t => at.cast_unsigned());
    preadv64: PREADV(list: *const iovec => list.addr() as u64, count: c_int => word(count), at: off_t => at.cast_unsigned());
    pwritev: PWRITEV(list: *const iovec => list.addr() as u64, count: c_int => word(count), at: off_t => at.cast_unsigned());
    pwritev64: PWRITEV(list: *const iovec => list.addr() as u64, count: c_int => word(count), at: off_t => at.cast_unsigned());
}

/// As the C library's `fsync`.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub(crate) extern "C" fn fsync(fd: c_int) -> c_int {
    // SAFETY: no memory is touched.
    let result = unsafe { call(number::FSYNC, fd, [0; 3]) };
    c_int::try_from(result).unwrap_or(-1)
}

/// What `read` is in programs that were compiled with `_FORTIFY_SOURCE`: the buffer's size is known.
///
/// # Safety
/// As for `read`.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn __read_chk(
    fd: c_int,
    buffer: *mut c_void,
    count: size_t,
    size: size_t,
) -> ssize_t {
    overflow(count, size);
    // SAFETY: the caller vouches for it.
    unsafe { read(fd, buffer, count) }
}

/// What `pread` is in programs that were compiled with `_FORTIFY_SOURCE`.
///
/// # Safety
/// As for `pread`.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn __pread_chk(
    fd: c_int,
    buffer: *mut c_void,
    count: size_t,
    at: off_t,
    size: size_t,
) -> ssize_t {
    overflow(count, size);
    // SAFETY: the caller vouches for it.
    unsafe { pread(fd, buffer, count, at) }
}

/// What `pread64` is in programs that were compiled with `_FORTIFY_SOURCE`.
///
/// # Safety
/// As for `pread64`.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn __pread64_chk(
    fd: c_int,
    buffer: *mut c_void,
    count: size_t,
    at: off_t,
    size: size_t,
) -> ssize_t {
    overflow(count, size);
    // SAFETY: the caller vouches for it.
    unsafe { pread64(fd, buffer, count, at) }
}

fn overflow(count: size_t, size: size_t) {
    if count > size {
        // SAFETY: it ends the program with a message, as in the C library.
        unsafe { __chk_fail() }
    }
}

unsafe extern "C" {
    fn __chk_fail() -> !;
}

/// As the C library's `close`; what was known of the descriptor is forgotten.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub(crate) extern "C" fn close(fd: c_int) -> c_int {
    CACHE.forget(fd);
    plain(libc::SYS_close, [word(fd), 0, 0])
}

/// As the C library's `dup2`; what was known of the new descriptor is forgotten.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub(crate) extern "C" fn dup2(old: c_int, new: c_int) -> c_int {
    CACHE.forget(new);
    plain(libc::SYS_dup2, [word(old), word(new), 0])
}

/// As the C library's `dup3`; what was known of the new descriptor is forgotten.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub(crate) extern "C" fn dup3(old: c_int, new: c_int, flags: c_int) -> c_int {
    CACHE.forget(new);
    plain(libc::SYS_dup3, [word(old), word(new), word(flags)])
}

fn plain(number: libc::c_long, args: [u64; 3]) -> c_int {
    // SAFETY: the calls take numbers only, so no memory is touched.
    match unsafe { hint::call(number.cast_unsigned(), [args[0], args[1], args[2], 0], None) } {
        Ok(value) => c_int::try_from(value).unwrap_or(c_int::MAX),
        Err(hint::Errno(error)) => {
            super::fail(error);
            -1
        }
    }
}
