//! A disk as the place where a layer's image lies.

use std::fmt;
use std::ops::Deref;

use crate::block::{
    BlockDevice, Error, ErrorKind, Operation, Result, Storage, StorageProperties, check_range, length_of,
};

/// The [`Storage`] that a [`BlockDevice`] is for a format that lies on it. It does not grow.
#[derive(Debug)]
pub struct DeviceStorage<D>(pub D);

impl<D, B> Storage for DeviceStorage<D>
where
    D: Deref<Target = B> + Send + Sync + fmt::Debug,
    B: BlockDevice + ?Sized,
{
    fn properties(&self) -> StorageProperties {
        let geometry = self.0.geometry();
        StorageProperties {
            alignment: geometry.logical_block_size,
            // What lies below may compress blocks, or keep them in pieces.
            atomic_write: geometry.logical_block_size,
            growable: false,
            read_only: geometry.read_only,
        }
    }

    fn size(&self) -> u64 {
        self.0.geometry().size
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.0.read(offset, buffer, &[])
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        check_range(Operation::Write, self.size(), offset, length_of(data))?;
        self.0.write(offset, data, &[])
    }

    fn sync(&self) -> Result<()> {
        self.0.flush()
    }

    fn punch(&self, offset: u64, length: u64) -> Result<bool> {
        self.0.write_zeroes(offset, length, true).map(|()| true)
    }

    fn grow(&self, size: u64) -> Result<()> {
        if size <= self.size() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unsupported, Operation::Grow))
    }
}
