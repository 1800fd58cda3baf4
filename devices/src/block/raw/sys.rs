//! The two system calls that the standard library does not offer: locks of an open file, and holes.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Locks the whole file for as long as `file` is open: shared, or exclusive.
///
/// The lock belongs to the open file description, not to the process: two opens in one process exclude each other,
/// and closing an unrelated descriptor of the same file does not drop it.
///
/// # Errors
/// `EAGAIN` or `EACCES` if another open file description holds a lock that excludes this one.
pub(super) fn lock(file: &File, exclusive: bool) -> io::Result<()> {
    // A length of zero means "to the end of the file, however far it grows"; the process id must be zero.
    let lock = libc::flock64 {
        l_type: to_short(if exclusive { libc::F_WRLCK } else { libc::F_RDLCK })?,
        l_whence: to_short(libc::SEEK_SET)?,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open, and `lock` is a valid flock64 that the kernel only reads.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn to_short(value: libc::c_int) -> io::Result<libc::c_short> {
    value.try_into().map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// `fallocate(2)` over `length` bytes from byte `offset`, again after signals.
///
/// # Errors
/// As the system call; `EOPNOTSUPP` where the file system has no such operation.
pub(super) fn fallocate(file: &File, mode: libc::c_int, offset: u64, length: u64) -> io::Result<()> {
    let to_offset = |value: u64| libc::off64_t::try_from(value).map_err(|_| io::ErrorKind::InvalidInput);
    let (offset, length) = (to_offset(offset)?, to_offset(length)?);
    loop {
        // SAFETY: the descriptor is open and no memory is passed.
        if unsafe { libc::fallocate64(file.as_raw_fd(), mode, offset, length) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
