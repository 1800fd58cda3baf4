//! Where the bytes of an image lie: a file or a host block device, as an image format sees it.
//!
//! A [`BlockDevice`](super::BlockDevice) is what a guest uses; a [`Storage`] is what a format builds one on. It can
//! grow, says what it writes atomically, and knows nothing of guests.

use std::fmt;

use super::Result;

/// What a format has to know of the bytes below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StorageProperties {
    /// Offsets and lengths of reads and writes are multiples of this many bytes, a power of two. Memory need not be
    /// aligned.
    pub alignment: u32,
    /// A write of this many bytes at a multiple of it is there entirely or not at all after a power failure.
    pub atomic_write: u32,
    /// [`Storage::grow`] can succeed.
    pub growable: bool,
    /// Writes are refused.
    pub read_only: bool,
}

/// Bytes that outlive the process.
///
/// Requests may come from several threads at once. A write that has returned is visible to every later read; it is
/// durable once a [`sync`](Self::sync) that began after it has returned. Nothing keeps the order of writes between
/// two syncs.
pub trait Storage: Send + Sync + fmt::Debug {
    /// What does not change while it is open.
    fn properties(&self) -> StorageProperties;

    /// Bytes that can be read and written now.
    fn size(&self) -> u64;

    /// Fills `buffer` from byte `offset`.
    ///
    /// # Errors
    /// The range is not below [`size`](Self::size), or the medium failed.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()>;

    /// Fills each buffer from its byte offset, in any order and many at a time where that is quicker.
    ///
    /// # Errors
    /// As [`read`](Self::read), for any of them.
    fn read_many(&self, requests: &mut [(u64, &mut [u8])]) -> Result<()> {
        requests.iter_mut().try_for_each(|(offset, buffer)| self.read(*offset, buffer))
    }

    /// Fills each buffer as [`read_many`](Self::read_many) does, and calls `arrived` with the number and the content of
    /// each that is there, in any order, while others are still being read.
    ///
    /// # Errors
    /// As [`read`](Self::read), for any of them, and those of `arrived`, which is not called again then.
    fn read_each(
        &self,
        requests: &mut [(u64, &mut [u8])],
        arrived: &mut dyn FnMut(usize, &mut [u8]) -> Result<()>,
    ) -> Result<()> {
        requests.iter_mut().enumerate().try_for_each(|(number, (offset, buffer))| {
            self.read(*offset, buffer)?;
            arrived(number, buffer)
        })
    }

    /// Writes `data` at byte `offset`.
    ///
    /// # Errors
    /// The range is not below [`size`](Self::size), or the medium failed; then any part of it may have been written.
    fn write(&self, offset: u64, data: &[u8]) -> Result<()>;

    /// Writes each piece at its byte offset, in any order and many at a time where that is quicker. They do not overlap.
    ///
    /// # Errors
    /// As [`write`](Self::write), for any of them; any part of each may have been written.
    fn write_many(&self, pieces: &[(u64, &[u8])]) -> Result<()> {
        pieces.iter().try_for_each(|(offset, data)| self.write(*offset, data))
    }

    /// Makes everything durable that returned before this call: writes, growth and holes.
    ///
    /// # Errors
    /// The medium failed. From then on it refuses changes: nothing is known of what was not durable before.
    fn sync(&self) -> Result<()>;

    /// Gives the space of `length` bytes from byte `offset` back; they read as zeros then. Returns false, with the
    /// bytes as they were, where that cannot be done.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    fn punch(&self, offset: u64, length: u64) -> Result<bool>;

    /// Makes `length` bytes from byte `offset` zeros in space of their own, without writing them. Returns false, with
    /// the bytes as they were, where that cannot be done.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    fn allocate(&self, _offset: u64, _length: u64) -> Result<bool> {
        Ok(false)
    }

    /// How many of `length` bytes from byte `offset` are in space of their own, and are no hole. Nothing where nobody knows.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn allocated(&self, _offset: u64, _length: u64) -> Result<Option<u64>> {
        Ok(None)
    }

    /// Makes `size` bytes usable, if there are fewer. What is new reads as zeros.
    ///
    /// # Errors
    /// No space is left, or it cannot grow at all.
    fn grow(&self, size: u64) -> Result<()>;
}
