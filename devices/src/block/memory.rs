//! A disk in memory: the reference that tests compare other devices with, and a scratch disk that dies with the VM.

use std::fmt;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::range::{check_range, length_of};
use super::{BlockDevice, Error, ErrorKind, Geometry, Operation, Result};
use crate::io_class::IoTag;

/// A [`BlockDevice`] whose blocks are bytes in memory. Everything is durable as soon as it is written.
pub struct MemoryDisk {
    bytes: RwLock<Vec<u8>>,
    geometry: Geometry,
}

impl MemoryDisk {
    /// A writable disk of `size` zero bytes.
    ///
    /// # Errors
    /// [`ErrorKind::BadSize`] unless `size` is a multiple of 512 and not zero.
    pub fn new(size: usize) -> Result<Self> {
        Self::from_bytes(vec![0; size], false)
    }

    /// A disk that holds `bytes`.
    ///
    /// # Errors
    /// [`ErrorKind::BadSize`] unless there is a multiple of 512 bytes and at least one such block.
    pub fn from_bytes(bytes: Vec<u8>, read_only: bool) -> Result<Self> {
        let size = length_of(&bytes);
        if size == 0 || !size.is_multiple_of(512) {
            return Err(Error::new(ErrorKind::BadSize, Operation::Open).at(0, size));
        }
        let geometry = Geometry { size, logical_block_size: 512, physical_block_size: 4096, read_only };
        Ok(Self { bytes: RwLock::new(bytes), geometry })
    }

    /// A copy of what the disk holds now.
    #[must_use]
    pub fn contents(&self) -> Vec<u8> {
        self.shared().clone()
    }

    // A panic while the lock is held cannot leave half a block: the copies below do not panic.
    fn shared(&self) -> RwLockReadGuard<'_, Vec<u8>> {
        self.bytes.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn exclusive(&self) -> RwLockWriteGuard<'_, Vec<u8>> {
        self.bytes.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_change(&self, operation: Operation, offset: u64, length: u64) -> Result<()> {
        if self.geometry.read_only {
            return Err(Error::new(ErrorKind::ReadOnly, operation).at(offset, length));
        }
        check_range(operation, self.geometry.size, offset, length)
    }

    fn zero(&self, operation: Operation, offset: u64, length: u64) -> Result<()> {
        self.check_change(operation, offset, length)?;
        let range = index_range(operation, offset, length)?;
        self.exclusive()[range].fill(0);
        Ok(())
    }
}

/// A range that [`check_range`] has found on the disk, as indices.
fn index_range(operation: Operation, offset: u64, length: u64) -> Result<std::ops::Range<usize>> {
    let index = |value: Option<u64>| value.and_then(|value| usize::try_from(value).ok());
    match (index(Some(offset)), index(offset.checked_add(length))) {
        (Some(start), Some(end)) => Ok(start..end),
        _ => Err(Error::new(ErrorKind::OutOfRange, operation).at(offset, length)),
    }
}

impl fmt::Debug for MemoryDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryDisk").field("geometry", &self.geometry).finish_non_exhaustive()
    }
}

impl BlockDevice for MemoryDisk {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read(&self, offset: u64, buffer: &mut [u8], _tags: &[IoTag]) -> Result<()> {
        let length = length_of(buffer);
        check_range(Operation::Read, self.geometry.size, offset, length)?;
        let range = index_range(Operation::Read, offset, length)?;
        buffer.copy_from_slice(&self.shared()[range]);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8], _tags: &[IoTag]) -> Result<()> {
        let length = length_of(data);
        self.check_change(Operation::Write, offset, length)?;
        let range = index_range(Operation::Write, offset, length)?;
        self.exclusive()[range].copy_from_slice(data);
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn discard(&self, offset: u64, length: u64) -> Result<()> {
        self.zero(Operation::Discard, offset, length)
    }

    fn write_zeroes(&self, offset: u64, length: u64, _unmap: bool) -> Result<()> {
        self.zero(Operation::WriteZeroes, offset, length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_was_written_and_zeroes_what_was_given_back() {
        let disk = MemoryDisk::new(2048).unwrap();
        disk.write(512, &[7; 1024], &[]).unwrap();
        disk.discard(512, 512).unwrap();
        let mut block = [1; 1024];
        disk.read(512, &mut block, &[]).unwrap();
        assert!(block[..512].iter().all(|&byte| byte == 0) && block[512..].iter().all(|&byte| byte == 7));
    }

    #[test]
    fn refuses_bad_ranges_and_changes_when_read_only() {
        let disk = MemoryDisk::from_bytes(vec![3; 1024], true).unwrap();
        assert_eq!(disk.write(0, &[0; 512], &[]).unwrap_err().kind(), ErrorKind::ReadOnly);
        assert_eq!(disk.discard(0, 512).unwrap_err().kind(), ErrorKind::ReadOnly);
        assert_eq!(disk.read(u64::MAX, &mut [0; 512], &[]).unwrap_err().kind(), ErrorKind::OutOfRange);
        assert_eq!(disk.contents(), vec![3; 1024]);
        assert_eq!(MemoryDisk::new(100).unwrap_err().kind(), ErrorKind::BadSize);
    }
}
