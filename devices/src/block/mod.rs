//! The block stack: [`BlockDevice`] is what every layer offers and asks for.
//!
//! ```text
//!   virtio-blk worker ──▶ BlockDevice ──▶ BlockDevice ──▶ file
//! ```
//!
//! Offsets and lengths are bytes. A device checks them against its own size and answers [`Error`]; it never panics on
//! a number that a guest chose.

use std::fmt;

use crate::io_class::IoTag;

mod counts;
mod error;
mod file;
mod lock;
mod memory;
mod range;
mod raw;
pub mod simulated;
mod storage;

pub use counts::StorageCounts;
pub use error::{Error, ErrorKind, Operation, Result};
pub use file::{Cache, FileOptions, FileStorage};
pub use memory::MemoryDisk;
pub use range::check_range;
pub(crate) use range::length_of;
pub use raw::{RawFile, RawOptions};
pub use storage::{Storage, StorageProperties};

/// Fixed properties of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Capacity in bytes, a multiple of `logical_block_size`.
    pub size: u64,
    /// The smallest unit of a request, in bytes: 512 or 4096.
    pub logical_block_size: u32,
    /// The unit that the medium writes without read-modify-write, in bytes.
    pub physical_block_size: u32,
    /// Writes are refused.
    pub read_only: bool,
}

/// A disk, or a layer over one.
///
/// Requests may come from several threads at once. A write that has returned is visible to every later read; it is
/// durable once a [`flush`](Self::flush) that began after it has returned.
pub trait BlockDevice: Send + Sync + fmt::Debug {
    /// Size and block sizes.
    fn geometry(&self) -> Geometry;

    /// Fills `buffer` from byte `offset`. `tags` holds one entry per 4 KiB block the request touches, or is empty.
    ///
    /// # Errors
    /// Out of range, or the medium failed.
    fn read(&self, offset: u64, buffer: &mut [u8], tags: &[IoTag]) -> Result<()>;

    /// Writes `data` at byte `offset`. `tags` holds one entry per 4 KiB block the request touches, or is empty.
    ///
    /// # Errors
    /// Out of range, read-only, or the medium failed (then any part of the range may have been written).
    fn write(&self, offset: u64, data: &[u8], tags: &[IoTag]) -> Result<()>;

    /// Makes every write that returned before this call durable.
    ///
    /// # Errors
    /// The medium failed. After that nothing is known of the unflushed writes, and the device refuses to write.
    fn flush(&self) -> Result<()>;

    /// Gives `length` bytes from byte `offset` back; they may read as anything the device can promise (zeros here).
    ///
    /// # Errors
    /// Out of range, read-only, or the medium failed.
    fn discard(&self, offset: u64, length: u64) -> Result<()>;

    /// Makes `length` bytes from byte `offset` read as zeros; with `unmap` their space may be given back.
    ///
    /// # Errors
    /// Out of range, read-only, or the medium failed.
    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> Result<()>;
}
