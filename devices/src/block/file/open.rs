//! Opening a file: direct access or not, what it is, and its lock.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

use rustix::fs::OFlags;

use super::limits::{self, Alignment};
use super::options::{Cache, FileOptions};
use crate::block::lock::LockedFile;
use crate::block::{Error, ErrorKind, Operation, Result};

/// An open and locked file.
pub(super) struct Opened {
    pub(super) file: LockedFile,
    pub(super) regular: bool,
    /// What requests past the page cache must be; nothing if they go through it.
    pub(super) direct: Option<Alignment>,
}

/// Opens and locks the file of `options`; makes it first, and fails if it is there, if `create` says so.
pub(super) fn open(options: &FileOptions, create: bool) -> Result<Opened> {
    let fail = |error: Error| error.on(&options.path);
    let io = |error: io::Error| fail(Error::from_io(Operation::Open, error));
    let file = OpenOptions::new()
        .read(true)
        .write(!options.read_only)
        .create_new(create)
        // Opening a FIFO must not wait for its other end; files and disks ignore the flag.
        .custom_flags(libc::O_NONBLOCK)
        .open(&options.path)
        .map_err(|error| {
            fail(match error.raw_os_error() {
                Some(libc::EEXIST) => {
                    Error::new(ErrorKind::Invalid, Operation::Open).because("the file exists already")
                }
                _ => Error::from_io(Operation::Open, error),
            })
        })?;
    let kind = file.metadata().map_err(io)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(fail(Error::new(ErrorKind::NotAFile, Operation::Open)));
    }
    let file = LockedFile::lock(file, !options.read_only).map_err(|error| {
        fail(match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EACCES) => Error::new(ErrorKind::Locked, Operation::Lock),
            _ => Error::from_io(Operation::Lock, error),
        })
    })?;
    let direct = match options.cache {
        Cache::Direct => limits::direct_alignment(&file, kind.is_file()).map_err(io)?,
        Cache::Buffered => None,
    };
    let granted = set_flags(&file, direct.is_some()).map_err(io)?;
    if options.cache == Cache::Direct && !granted {
        tracing::warn!(path = %options.path.display(), "no direct access here: using the page cache");
    }
    Ok(Opened { file, regular: kind.is_file(), direct: direct.filter(|_| granted) })
}

/// Asks for direct access, and says whether the file system grants it. Takes back what was for opening only: io_uring
/// would take `O_NONBLOCK` seriously and refuse to wait for the disk.
fn set_flags(file: &File, direct: bool) -> io::Result<bool> {
    let mut flags = rustix::fs::fcntl_getfl(file)?;
    flags.remove(OFlags::NONBLOCK);
    rustix::fs::fcntl_setfl(file, flags)?;
    if !direct {
        return Ok(false);
    }
    match rustix::fs::fcntl_setfl(file, flags | OFlags::DIRECT) {
        Ok(()) => Ok(true),
        // The answer of tmpfs and others that have no medium.
        Err(rustix::io::Errno::INVAL) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
