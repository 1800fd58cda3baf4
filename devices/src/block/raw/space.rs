//! The space of a raw image: more of it, and what it has cost.

use super::RawFile;
use crate::block::{Error, ErrorKind, Operation, Result, Storage, StorageCounts};

impl RawFile {
    /// Makes the disk `size` bytes long. What is new reads as zeros.
    ///
    /// The image has to be opened again for that size to be seen.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the disk is longer, [`ErrorKind::BadSize`], [`ErrorKind::ReadOnly`], or the medium
    /// cannot grow.
    pub fn grow(self, size: u64) -> Result<()> {
        let refuse = |kind| Err(Error::new(kind, Operation::Grow).on(self.file.path()));
        if self.geometry.read_only {
            return refuse(ErrorKind::ReadOnly);
        }
        if size < self.geometry.size {
            return refuse(ErrorKind::Invalid);
        }
        if !size.is_multiple_of(512) {
            return refuse(ErrorKind::BadSize);
        }
        self.file.grow(size)?;
        self.file.sync()
    }

    /// What its file was asked to do so far.
    #[must_use]
    pub fn counts(&self) -> StorageCounts {
        self.file.counts()
    }
}
