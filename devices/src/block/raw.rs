//! A raw image: a regular file or a host block device whose bytes are the disk's bytes.
//!
//! The image is locked while it is open, so that two machines cannot write one disk. A failed flush poisons the
//! device: the kernel may have dropped the dirty pages and will report success next time, so asking again would turn
//! lost writes into a promise that they are safe.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use vmm_sys_util::fallocate::{FallocateMode, fallocate};

use super::range::{check_range, length_of};
use super::{BlockDevice, Error, ErrorKind, Geometry, Operation, Result};
use crate::io_class::IoTag;

mod extents;
pub(super) mod lock;
mod space;

/// Bytes of one write where zeros have to be written out.
const ZERO_CHUNK: usize = 256 * 1024;

/// Which image to open, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawOptions {
    /// Path of a regular file or block device.
    pub path: PathBuf,
    /// Refuse changes, and share the image with other readers.
    pub read_only: bool,
}

impl RawOptions {
    /// Opens `path` for reading and writing.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), read_only: false }
    }
}

/// An open and locked raw image.
#[derive(Debug)]
pub struct RawFile {
    file: File,
    path: PathBuf,
    geometry: Geometry,
    poisoned: AtomicBool,
    /// Held through a flush and its verdict: the kernel reports a lost write to one fdatasync only, so a second one
    /// beside it could succeed before the first has poisoned the device.
    flushing: Mutex<()>,
    /// Makes writes durable. Tests put a failing one here; a disk that fails on demand is hard to come by.
    sync: fn(&File) -> io::Result<()>,
}

impl RawFile {
    /// Opens and locks an image: exclusively for a writer, shared with other readers when read-only.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::Permission`], [`ErrorKind::NotAFile`], [`ErrorKind::BadSize`] or
    /// [`ErrorKind::Io`] if the image cannot be used, [`ErrorKind::Locked`] if another instance has it open.
    pub fn open(options: RawOptions) -> Result<Self> {
        let RawOptions { path, read_only } = options;
        let fail = |error: Error| error.on(&path);
        let mut file = OpenOptions::new()
            .read(true)
            .write(!read_only)
            // Opening a FIFO must not wait for its other end; files and disks ignore the flag.
            .custom_flags(libc::O_NONBLOCK)
            .open(&path)
            .map_err(|error| fail(Error::from_io(Operation::Open, error)))?;
        let kind = file.metadata().map_err(|error| fail(Error::from_io(Operation::Open, error)))?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(fail(Error::new(ErrorKind::NotAFile, Operation::Open)));
        }
        lock::try_lock(&file, !read_only).map_err(|error| {
            fail(match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EACCES) => Error::new(ErrorKind::Locked, Operation::Lock),
                _ => Error::from_io(Operation::Lock, error),
            })
        })?;
        // The metadata of a block device says zero bytes; its end is where seeking ends.
        let size =
            file.seek(SeekFrom::End(0)).map_err(|error| fail(Error::from_io(Operation::Open, error)))?;
        if size == 0 || !size.is_multiple_of(512) {
            return Err(fail(Error::new(ErrorKind::BadSize, Operation::Open).at(0, size)));
        }
        Ok(Self {
            file,
            path,
            geometry: Geometry { size, logical_block_size: 512, physical_block_size: 4096, read_only },
            poisoned: AtomicBool::new(false),
            flushing: Mutex::new(()),
            sync: File::sync_data,
        })
    }

    fn check_change(&self, operation: Operation, offset: u64, length: u64) -> Result<()> {
        let refuse = |kind| Err(Error::new(kind, operation).at(offset, length).on(&self.path));
        if self.geometry.read_only {
            return refuse(ErrorKind::ReadOnly);
        }
        if self.poisoned.load(Ordering::Acquire) {
            return refuse(ErrorKind::Poisoned);
        }
        check_range(operation, self.geometry.size, offset, length).map_err(|error| error.on(&self.path))
    }

    fn failed(&self, operation: Operation, offset: u64, length: u64, cause: io::Error) -> Error {
        Error::from_io(operation, cause).at(offset, length).on(&self.path)
    }

    /// Asks the file system for a hole, or for zeros that keep their space. Says whether it can do that at all.
    fn allocate(&self, operation: Operation, hole: bool, offset: u64, length: u64) -> Result<bool> {
        if length == 0 {
            return Ok(true);
        }
        loop {
            let mode = if hole { FallocateMode::PunchHole } else { FallocateMode::ZeroRange };
            let Err(error) = fallocate(&self.file, mode, true, offset, length) else { return Ok(true) };
            match error.errno() {
                libc::EINTR => {}
                // Block devices answer EINVAL for ranges that are no multiple of their own block size.
                libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV | libc::EINVAL => return Ok(false),
                _ => return Err(self.failed(operation, offset, length, error.into())),
            }
        }
    }

    /// Writes zeros where the file system cannot make them.
    fn write_out_zeroes(&self, offset: u64, length: u64) -> Result<()> {
        let zeroes = vec![0; ZERO_CHUNK];
        let end = offset + length;
        let mut position = offset;
        while position < end {
            let chunk = usize::try_from(end - position).unwrap_or(usize::MAX).min(ZERO_CHUNK);
            self.file
                .write_all_at(&zeroes[..chunk], position)
                .map_err(|error| self.failed(Operation::WriteZeroes, offset, length, error))?;
            position += length_of(&zeroes[..chunk]);
        }
        Ok(())
    }
}

impl BlockDevice for RawFile {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read(&self, offset: u64, buffer: &mut [u8], _tags: &[IoTag]) -> Result<()> {
        let length = length_of(buffer);
        check_range(Operation::Read, self.geometry.size, offset, length)
            .map_err(|error| error.on(&self.path))?;
        self.file
            .read_exact_at(buffer, offset)
            .map_err(|error| self.failed(Operation::Read, offset, length, error))
    }

    fn write(&self, offset: u64, data: &[u8], _tags: &[IoTag]) -> Result<()> {
        let length = length_of(data);
        self.check_change(Operation::Write, offset, length)?;
        self.file
            .write_all_at(data, offset)
            .map_err(|error| self.failed(Operation::Write, offset, length, error))
    }

    fn flush(&self) -> Result<()> {
        if self.geometry.read_only {
            return Ok(());
        }
        let _verdict = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.poisoned.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Poisoned, Operation::Flush).on(&self.path));
        }
        (self.sync)(&self.file).map_err(|error| {
            self.poisoned.store(true, Ordering::Release);
            Error::from_io(Operation::Flush, error).on(&self.path)
        })
    }

    /// Punches a hole. Where the file system has no holes the blocks keep what they hold: a discard is advice, and
    /// writing zeros instead would take the space that the guest wants to give back.
    fn discard(&self, offset: u64, length: u64) -> Result<()> {
        self.check_change(Operation::Discard, offset, length)?;
        self.allocate(Operation::Discard, true, offset, length).map(|_| ())
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> Result<()> {
        self.check_change(Operation::WriteZeroes, offset, length)?;
        if self.allocate(Operation::WriteZeroes, unmap, offset, length)? {
            return Ok(());
        }
        self.write_out_zeroes(offset, length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(size: usize) -> (tempfile::NamedTempFile, RawFile) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![0xa5; size]).unwrap();
        let raw = RawFile::open(RawOptions::new(file.path())).unwrap();
        (file, raw)
    }

    #[test]
    fn failed_flush_poisons_and_is_not_tried_again() {
        let (_file, mut raw) = image(4096);
        raw.sync = |_| Err(io::Error::from_raw_os_error(libc::EIO));
        assert_eq!(raw.flush().unwrap_err().kind(), ErrorKind::Io);
        // From here on the kernel would say that all is well.
        raw.sync = |_| Ok(());
        assert_eq!(raw.flush().unwrap_err().kind(), ErrorKind::Poisoned);
        assert_eq!(raw.write(0, &[0; 512], &[]).unwrap_err().kind(), ErrorKind::Poisoned);
        assert_eq!(raw.discard(0, 512).unwrap_err().kind(), ErrorKind::Poisoned);
        assert_eq!(raw.write_zeroes(0, 512, true).unwrap_err().kind(), ErrorKind::Poisoned);
        let mut block = [0; 512];
        raw.read(0, &mut block, &[]).unwrap();
        assert_eq!(block, [0xa5; 512]);
    }

    #[test]
    fn written_out_zeroes_cover_exactly_the_range() {
        let (file, raw) = image(3 * ZERO_CHUNK);
        raw.write_out_zeroes(512, 2 * length_of(&[0; ZERO_CHUNK]) + 1024).unwrap();
        let bytes = std::fs::read(file.path()).unwrap();
        let zeroed = 512..512 + 2 * ZERO_CHUNK + 1024;
        assert!(
            bytes.iter().enumerate().all(|(at, &byte)| byte == if zeroed.contains(&at) { 0 } else { 0xa5 })
        );
    }
}
