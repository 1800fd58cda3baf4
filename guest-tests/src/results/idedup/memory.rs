//! A medium that costs the copying of bytes and nothing else, so that what is left is the engine's.

use std::sync::{PoisonError, RwLock};

use sky_devices::block::{Error, ErrorKind, Operation, Result, Storage, StorageProperties};

/// Bytes in memory, all of which have been touched: a page that is used for the first time costs more than the engine.
pub(super) struct Memory(RwLock<Vec<u8>>);

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").field("size", &self.size()).finish()
    }
}

impl Memory {
    pub(super) fn new(size: usize) -> Self {
        let mut bytes = vec![1; size];
        bytes.fill(0);
        Self(RwLock::new(bytes))
    }
}

/// Where `length` bytes from `offset` are.
fn range(operation: Operation, offset: u64, length: usize, size: usize) -> Result<std::ops::Range<usize>> {
    let begin = usize::try_from(offset).ok();
    let end = begin.and_then(|begin| begin.checked_add(length)).filter(|end| *end <= size);
    match (begin, end) {
        (Some(begin), Some(end)) => Ok(begin..end),
        _ => Err(Error::new(ErrorKind::OutOfRange, operation).at(offset, length as u64)),
    }
}

impl Storage for Memory {
    fn properties(&self) -> StorageProperties {
        StorageProperties { alignment: 1, atomic_write: 4096, growable: false, read_only: false }
    }

    fn size(&self) -> u64 {
        self.0.read().unwrap_or_else(PoisonError::into_inner).len() as u64
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let bytes = self.0.read().unwrap_or_else(PoisonError::into_inner);
        buffer.copy_from_slice(&bytes[range(Operation::Read, offset, buffer.len(), bytes.len())?]);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let mut bytes = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let range = range(Operation::Write, offset, data.len(), bytes.len())?;
        bytes[range].copy_from_slice(data);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn punch(&self, _offset: u64, _length: u64) -> Result<bool> {
        Ok(false)
    }

    fn grow(&self, size: u64) -> Result<()> {
        if size <= self.size() { Ok(()) } else { Err(Error::new(ErrorKind::Unsupported, Operation::Grow)) }
    }
}
