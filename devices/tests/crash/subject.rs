//! What is tested: a disk image format over a simulated disk.

use std::sync::Arc;

use sky_devices::block::MemoryDisk;
use sky_devices::block::simulated::SimulatedDisk;

/// A result whose error is for people.
pub(super) type Outcome<T> = Result<T, String>;

/// An image format, or something like one.
pub(super) trait Subject: Sync {
    /// What a failure calls it.
    fn name(&self) -> &'static str;

    /// Bytes that the disk below writes atomically.
    fn atomic_write(&self) -> u32 {
        4096
    }

    /// Images can lie over a parent.
    fn takes_parent(&self) -> bool {
        true
    }

    /// Makes an image of `size` bytes, durably.
    fn create(&self, disk: &Arc<SimulatedDisk>, size: u64, parent: bool) -> Outcome<()>;

    /// Opens an image, and recovers it if that is needed.
    fn open(&self, disk: &Arc<SimulatedDisk>, parent: Option<&Arc<MemoryDisk>>) -> Outcome<Box<dyn Image>>;

    /// Looks for contradictions in an image that nobody has open.
    fn check(&self, _disk: &Arc<SimulatedDisk>, _parent: bool) -> Outcome<()> {
        Ok(())
    }
}

/// An open image. Dropping it is what a killed process does to it.
pub(super) trait Image {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Outcome<()>;
    fn write(&self, offset: u64, data: &[u8]) -> Outcome<()>;
    fn flush(&self) -> Outcome<()>;
    fn discard(&self, offset: u64, length: u64) -> Outcome<()>;
    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> Outcome<()>;
    /// Makes everything durable and ends.
    fn close(self: Box<Self>) -> Outcome<()>;
}

/// An error as a message.
pub(super) fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}
