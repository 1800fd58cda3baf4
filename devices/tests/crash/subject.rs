//! What is tested: a disk image format over a simulated disk.

use std::sync::Arc;

use sky_devices::block::MemoryDisk;
use sky_devices::block::simulated::{SimulatedDisk, SimulatedOptions};

/// A result whose error is for people.
pub(super) type Outcome<T> = Result<T, String>;

/// An image format, or something like one.
pub(super) trait Subject: Sync {
    /// What a failure calls it.
    fn name(&self) -> &'static str;

    /// What the disk below is like.
    fn disk(&self) -> SimulatedOptions {
        SimulatedOptions::file()
    }

    /// Images can lie over a parent.
    fn takes_parent(&self) -> bool {
        true
    }

    /// There is work that it does when it finds the time.
    fn has_chores(&self) -> bool {
        false
    }

    /// Makes an image of `size` bytes, durably.
    fn create(&self, disk: &Arc<SimulatedDisk>, size: u64, parent: bool) -> Outcome<()>;

    /// A disk with an image of `size` bytes, which may have a past, but is as it was created.
    fn made(&self, size: u64, parent: bool) -> Outcome<Arc<SimulatedDisk>> {
        let disk = Arc::new(SimulatedDisk::new(self.disk()));
        self.create(&disk, size, parent)?;
        Ok(disk)
    }

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
    /// Does one of the things that it does when it finds the time.
    fn chore(&self, _number: u64) -> Outcome<()> {
        Ok(())
    }
    /// Makes everything durable and ends.
    fn close(self: Box<Self>) -> Outcome<()>;
}

/// An error as a message.
pub(super) fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}
