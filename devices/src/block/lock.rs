//! Locks of an open file: what keeps two machines from writing one disk.

use std::fs::File;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::AsRawFd;

/// An open file that is locked as a whole until this is dropped.
///
/// The lock belongs to the open file description, not to the process: two opens in one process exclude each other,
/// and closing an unrelated descriptor of the same file does not drop it.
#[derive(Debug)]
pub(super) struct LockedFile(File);

impl LockedFile {
    /// Locks a file: shared, or exclusive.
    ///
    /// # Errors
    /// `EAGAIN` or `EACCES` if another open file description holds a lock that excludes this one.
    pub(super) fn lock(file: File, exclusive: bool) -> io::Result<Self> {
        set(&file, if exclusive { libc::F_WRLCK } else { libc::F_RDLCK })?;
        Ok(Self(file))
    }
}

impl Drop for LockedFile {
    /// Closing is not enough: a process that is being started has all our descriptors until it runs its program.
    fn drop(&mut self) {
        // If it fails, the last descriptor that is closed ends the lock.
        let _ = set(&self.0, libc::F_UNLCK);
    }
}

impl Deref for LockedFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl DerefMut for LockedFile {
    fn deref_mut(&mut self) -> &mut File {
        &mut self.0
    }
}

fn set(file: &File, kind: libc::c_int) -> io::Result<()> {
    // A length of zero means "to the end of the file, however far it grows"; the process id must be zero.
    let lock = libc::flock64 {
        l_type: to_short(kind)?,
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
