//! Opening a file that is only read, and that nobody may write meanwhile.

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
    let fail = |error: Error| error.on(path);
    let file = OpenOptions::new()
        .read(true)
        // Opening a FIFO must not wait for its other end; files and disks ignore the flag.
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|error| fail(Error::from_io(Operation::Open, error)))?;
    let kind = file.metadata().map_err(|error| fail(Error::from_io(Operation::Open, error)))?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(fail(Error::new(ErrorKind::NotAFile, Operation::Open)));
    }
    lock::try_lock(&file, false).map_err(|error| {
        fail(match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EACCES) => Error::new(ErrorKind::Locked, Operation::Lock),
            _ => Error::from_io(Operation::Lock, error),
        })
    })?;
    Ok(file)
}
