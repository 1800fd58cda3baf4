//! A raw image: a regular file or a host block device whose bytes are the disk's bytes.
//!
//! It is a [`FileStorage`] that guests may use as it is: through the host's page cache unless told otherwise, so that a
//! guest's blocks of 512 bytes need not be the medium's.

use std::path::PathBuf;

use super::file::{Cache, FileOptions, FileStorage};
use super::range::length_of;
use super::{BlockDevice, Error, ErrorKind, Geometry, Operation, Result, Storage};
use crate::io_class::IoTag;

mod extents;
mod space;

/// What a guest may ask for at least, in bytes.
const SECTOR: u64 = 512;

/// Bytes of one write where zeros have to be written out.
const ZERO_CHUNK: usize = 256 * 1024;

/// Which image to open, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawOptions {
    /// Path of a regular file or block device.
    pub path: PathBuf,
    /// Refuse changes, and share the image with other readers.
    pub read_only: bool,
    /// Whether the host's page cache is used. It is in any case where direct requests would have to be larger than 512
    /// bytes.
    pub cache: Cache,
}

impl RawOptions {
    /// Opens `path` for reading and writing, through the page cache.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), read_only: false, cache: Cache::Buffered }
    }
}

/// An open and locked raw image.
#[derive(Debug)]
pub struct RawFile {
    file: FileStorage,
    geometry: Geometry,
}

impl RawFile {
    /// Opens and locks an image: exclusively for a writer, shared with other readers when read-only.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::Permission`], [`ErrorKind::NotAFile`], [`ErrorKind::BadSize`] or
    /// [`ErrorKind::Io`] if the image cannot be used, [`ErrorKind::Locked`] if another instance has it open.
    pub fn open(options: RawOptions) -> Result<Self> {
        let RawOptions { path, read_only, cache } = options;
        let open = |cache| FileStorage::open(FileOptions { read_only, cache, ..FileOptions::new(&path) });
        let mut file = open(cache)?;
        if u64::from(file.properties().alignment) > SECTOR {
            // Its lock goes first.
            drop(file);
            file = open(Cache::Buffered)?;
        }
        let size = file.size();
        if size == 0 || !size.is_multiple_of(SECTOR) {
            return Err(Error::new(ErrorKind::BadSize, Operation::Open).at(0, size).on(file.path()));
        }
        let geometry = Geometry { size, logical_block_size: 512, physical_block_size: 4096, read_only };
        Ok(Self { file, geometry })
    }

    /// Writes zeros where the file system cannot make them.
    fn write_out_zeroes(&self, offset: u64, length: u64) -> Result<()> {
        let zeroes = vec![0; ZERO_CHUNK];
        let end = offset + length;
        let mut position = offset;
        while position < end {
            let chunk = usize::try_from(end - position).unwrap_or(usize::MAX).min(ZERO_CHUNK);
            self.file.write(position, &zeroes[..chunk])?;
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
        self.file.read(offset, buffer)
    }

    fn write(&self, offset: u64, data: &[u8], _tags: &[IoTag]) -> Result<()> {
        self.file.write(offset, data)
    }

    fn flush(&self) -> Result<()> {
        self.file.sync()
    }

    /// Punches a hole. Where the file system has no holes the blocks keep what they hold: a discard is advice, and
    /// writing zeros instead would take the space that the guest wants to give back.
    fn discard(&self, offset: u64, length: u64) -> Result<()> {
        self.file.zero(Operation::Discard, true, offset, length).map(|_| ())
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> Result<()> {
        if self.file.zero(Operation::WriteZeroes, unmap, offset, length)? {
            return Ok(());
        }
        self.write_out_zeroes(offset, length)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

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
        raw.file.replace_sync(|_| Err(io::Error::from_raw_os_error(libc::EIO)));
        assert_eq!(raw.flush().unwrap_err().kind(), ErrorKind::Io);
        // From here on the kernel would say that all is well.
        raw.file.replace_sync(|_| Ok(()));
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
