//! Opening a file that is no raw image, with the lock that a raw image has.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use super::raw::lock;
use super::{Error, ErrorKind, Operation, Result};

/// Opens `path` for reading and locks it, shared with other readers.
///
/// # Errors
/// As [`RawFile::open`](super::RawFile::open), except that any size is good.
pub(crate) fn open_shared(path: &Path) -> Result<File> {
    open(path, false)
}

/// The same with the lock of a writer, to be sure that nobody uses the file.
///
/// # Errors
/// As [`open_shared`].
pub(crate) fn open_exclusive(path: &Path) -> Result<File> {
    open(path, true)
}

fn open(path: &Path, exclusive: bool) -> Result<File> {
    let fail = |error: Error| error.on(path);
    let file = OpenOptions::new()
        .read(true)
        .write(exclusive)
        // Opening a FIFO must not wait for its other end; files and disks ignore the flag.
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|error| fail(Error::from_io(Operation::Open, error)))?;
    let kind = file.metadata().map_err(|error| fail(Error::from_io(Operation::Open, error)))?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(fail(Error::new(ErrorKind::NotAFile, Operation::Open)));
    }
    lock::try_lock(&file, exclusive).map_err(|error| {
        fail(match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EACCES) => Error::new(ErrorKind::Locked, Operation::Lock),
            _ => Error::from_io(Operation::Lock, error),
        })
    })?;
    Ok(file)
}
