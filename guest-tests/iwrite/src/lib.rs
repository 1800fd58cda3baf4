//! Reads and writes that tell Sky the class of their data.
//!
//! A call takes up to four arguments here, and the kernel never looks at the registers R8 and R9. A hinted call puts
//! [`MAGIC`] into R8 and the class into R9: who traps system calls sees it, and for everybody else it is the plain
//! call. What a class means is up to those who agree on it.
//!
//! `preadv` and `pwritev` have a fifth argument in R8, the upper half of the offset. On 64-bit x86 the lower half holds
//! all of it and the kernel shifts the upper half away (`pos_from_hilo` in Linux' `fs/read_write.c`), so R8 is free.
//!
//! No allocation, no standard library, no thread-local data: these functions may be used anywhere, also in signal
//! handlers. They are not cancellation points.
//!
//! ```
//! let (mut from, to) = std::io::pipe()?;
//! let fd = std::os::fd::AsRawFd::as_raw_fd(&to);
//! assert_eq!(iwrite::iwrite(fd, b"important", 7), Ok(9));
//! # std::io::Read::read_exact(&mut from, &mut [0; 9])?;
//! # Ok::<(), std::io::Error>(())
//! ```

#![no_std]
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use core::arch::asm;
use core::fmt;
use core::marker::PhantomData;

/// In R8 of a call with a hint: "SKYHINT1".
pub const MAGIC: u64 = 0x534b_5948_494e_5431;

/// The kernel's numbers of the calls that can carry a hint, from its `syscall_64.tbl`.
pub mod number {
    /// `read(2)`.
    pub const READ: u64 = 0;
    /// `write(2)`.
    pub const WRITE: u64 = 1;
    /// `pread64(2)`.
    pub const PREAD64: u64 = 17;
    /// `pwrite64(2)`.
    pub const PWRITE64: u64 = 18;
    /// `readv(2)`.
    pub const READV: u64 = 19;
    /// `writev(2)`.
    pub const WRITEV: u64 = 20;
    /// `fsync(2)`.
    pub const FSYNC: u64 = 74;
    /// `preadv(2)`.
    pub const PREADV: u64 = 295;
    /// `pwritev(2)`.
    pub const PWRITEV: u64 = 296;
}

/// An error number as in `errno.h`, a positive one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error {}", self.0)
    }
}

impl core::error::Error for Errno {}

/// Bytes to write, as `struct iovec` has them.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct IoVec<'a> {
    base: *const u8,
    length: usize,
    bytes: PhantomData<&'a [u8]>,
}

impl<'a> IoVec<'a> {
    /// These bytes.
    pub fn new(bytes: &'a [u8]) -> IoVec<'a> {
        IoVec { base: bytes.as_ptr(), length: bytes.len(), bytes: PhantomData }
    }
}

/// Room to read to, as `struct iovec` has it.
#[repr(C)]
#[derive(Debug)]
pub struct IoVecMut<'a> {
    base: *mut u8,
    length: usize,
    bytes: PhantomData<&'a mut [u8]>,
}

impl<'a> IoVecMut<'a> {
    /// This buffer.
    pub fn new(buffer: &'a mut [u8]) -> IoVecMut<'a> {
        IoVecMut { base: buffer.as_mut_ptr(), length: buffer.len(), bytes: PhantomData }
    }
}

/// A system call with up to four arguments, with a hint or, for none, without.
///
/// # Errors
/// The kernel's.
///
/// # Safety
/// The arguments must be right for the call, which must be one of [`number`]: R8 and R9 are not the call's own.
#[inline]
pub unsafe fn call(number: u64, args: [u64; 4], class: Option<u32>) -> Result<usize, Errno> {
    let (magic, class) = match class {
        Some(class) => (MAGIC, u64::from(class)),
        None => (0, 0),
    };
    let result: i64;
    // SAFETY: the caller vouches for the arguments; the registers that SYSCALL changes are declared.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") magic,
            in("r9") class,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    match usize::try_from(result) {
        Ok(value) => Ok(value),
        Err(_) => Err(Errno(i32::try_from(-result).unwrap_or(i32::MAX))),
    }
}

/// A descriptor as the kernel takes it.
fn word(fd: i32) -> u64 {
    u64::from(fd.cast_unsigned())
}

fn address<T>(pointer: *const T) -> u64 {
    pointer.addr() as u64
}

/// `read(2)` of data of a class.
///
/// # Errors
/// As `read`.
pub fn iread(fd: i32, buffer: &mut [u8], class: u32) -> Result<usize, Errno> {
    let args = [word(fd), address(buffer.as_mut_ptr()), buffer.len() as u64, 0];
    // SAFETY: the kernel writes at most the buffer's length.
    unsafe { call(number::READ, args, Some(class)) }
}

/// `write(2)` of data of a class.
///
/// # Errors
/// As `write`.
pub fn iwrite(fd: i32, bytes: &[u8], class: u32) -> Result<usize, Errno> {
    let args = [word(fd), address(bytes.as_ptr()), bytes.len() as u64, 0];
    // SAFETY: the kernel only reads the bytes.
    unsafe { call(number::WRITE, args, Some(class)) }
}

/// `pread64(2)` of data of a class; the offset is in bytes.
///
/// # Errors
/// As `pread`.
pub fn ipread(fd: i32, buffer: &mut [u8], offset: u64, class: u32) -> Result<usize, Errno> {
    let args = [word(fd), address(buffer.as_mut_ptr()), buffer.len() as u64, offset];
    // SAFETY: the kernel writes at most the buffer's length.
    unsafe { call(number::PREAD64, args, Some(class)) }
}

/// `pwrite64(2)` of data of a class; the offset is in bytes.
///
/// # Errors
/// As `pwrite`.
pub fn ipwrite(fd: i32, bytes: &[u8], offset: u64, class: u32) -> Result<usize, Errno> {
    let args = [word(fd), address(bytes.as_ptr()), bytes.len() as u64, offset];
    // SAFETY: the kernel only reads the bytes.
    unsafe { call(number::PWRITE64, args, Some(class)) }
}

/// `readv(2)` of data of a class.
///
/// # Errors
/// As `readv`.
pub fn ireadv(fd: i32, buffers: &mut [IoVecMut<'_>], class: u32) -> Result<usize, Errno> {
    let args = [word(fd), address(buffers.as_ptr()), buffers.len() as u64, 0];
    // SAFETY: the array describes buffers that are borrowed mutably as long as it is.
    unsafe { call(number::READV, args, Some(class)) }
}

/// `writev(2)` of data of a class.
///
/// # Errors
/// As `writev`.
pub fn iwritev(fd: i32, pieces: &[IoVec<'_>], class: u32) -> Result<usize, Errno> {
    let args = [word(fd), address(pieces.as_ptr()), pieces.len() as u64, 0];
    // SAFETY: the array describes bytes that are borrowed as long as it is, and the kernel only reads them.
    unsafe { call(number::WRITEV, args, Some(class)) }
}

/// `preadv(2)` of data of a class; the offset is in bytes.
///
/// # Errors
/// As `preadv`.
pub fn ipreadv(fd: i32, buffers: &mut [IoVecMut<'_>], offset: u64, class: u32) -> Result<usize, Errno> {
    let args = [word(fd), address(buffers.as_ptr()), buffers.len() as u64, offset];
    // SAFETY: the array describes buffers that are borrowed mutably as long as it is.
    unsafe { call(number::PREADV, args, Some(class)) }
}

/// `pwritev(2)` of data of a class; the offset is in bytes.
///
/// # Errors
/// As `pwritev`.
pub fn ipwritev(fd: i32, pieces: &[IoVec<'_>], offset: u64, class: u32) -> Result<usize, Errno> {
    let args = [word(fd), address(pieces.as_ptr()), pieces.len() as u64, offset];
    // SAFETY: the array describes bytes that are borrowed as long as it is, and the kernel only reads them.
    unsafe { call(number::PWRITEV, args, Some(class)) }
}

/// `fsync(2)` of a file whose data is of a class.
///
/// # Errors
/// As `fsync`.
pub fn ifsync(fd: i32, class: u32) -> Result<(), Errno> {
    // SAFETY: no memory is touched.
    unsafe { call(number::FSYNC, [word(fd), 0, 0, 0], Some(class)) }.map(drop)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn numbers_are_those_of_the_c_library() {
        for (ours, theirs) in [
            (number::READ, libc::SYS_read),
            (number::WRITE, libc::SYS_write),
            (number::PREAD64, libc::SYS_pread64),
            (number::PWRITE64, libc::SYS_pwrite64),
            (number::READV, libc::SYS_readv),
            (number::WRITEV, libc::SYS_writev),
            (number::FSYNC, libc::SYS_fsync),
            (number::PREADV, libc::SYS_preadv),
            (number::PWRITEV, libc::SYS_pwritev),
        ] {
            assert_eq!(ours.cast_signed(), theirs);
        }
        assert_eq!(&MAGIC.to_be_bytes(), b"SKYHINT1");
    }

    #[test]
    fn data_goes_out_and_comes_back() {
        let file = tempfile::tempfile().unwrap();
        let fd = file.as_raw_fd();
        assert_eq!(iwrite(fd, b"abc", 1), Ok(3));
        assert_eq!(ipwrite(fd, b"def", 3, u32::MAX), Ok(3));
        assert_eq!(iwritev(fd, &[IoVec::new(b"D"), IoVec::new(b"EF")], 2), Ok(3));
        assert_eq!(ipwritev(fd, &[IoVec::new(b"gh"), IoVec::new(b"i")], 1 << 33, 2), Ok(3));
        assert_eq!(ifsync(fd, 3), Ok(()));
        let (mut one, mut two) = ([0; 2], [0; 4]);
        assert_eq!(ipread(fd, &mut two, 0, 4), Ok(4));
        assert_eq!(&two, b"abcD");
        let mut list = [IoVecMut::new(&mut one), IoVecMut::new(&mut two)];
        assert_eq!(ipreadv(fd, &mut list, (1 << 33) + 1, 5), Ok(2), "the whole offset counts");
        assert_eq!(&one, b"hi");
        assert_eq!(ireadv(fd, &mut [IoVecMut::new(&mut one)], 5), Ok(2), "the file is at 6, before a hole");
        assert_eq!(one, [0; 2]);
        assert_eq!(iread(fd, &mut one, 5), Ok(2));
        assert_eq!(file.metadata().unwrap().len(), (1 << 33) + 3);
    }

    #[test]
    fn errors_are_the_kernels() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(iwrite(-1, b"x", 1), Err(Errno(libc::EBADF)));
        assert_eq!(ipread(file.as_raw_fd(), &mut [0], u64::MAX, 1), Err(Errno(libc::EINVAL)));
        assert_eq!(ifsync(-1, 1), Err(Errno(libc::EBADF)));
    }
}
