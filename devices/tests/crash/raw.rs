//! A raw image: what is written is what lies there.

use std::sync::Arc;

use sky_devices::block::simulated::SimulatedDisk;
use sky_devices::block::{MemoryDisk, Storage};

use super::subject::{Image, Outcome, Subject, said};

/// A raw image on a disk that writes this many bytes atomically.
pub(super) struct Raw {
    pub(super) atomic_write: u32,
}

impl Subject for Raw {
    fn name(&self) -> &'static str {
        if self.atomic_write == 512 { "raw512" } else { "raw" }
    }

    fn atomic_write(&self) -> u32 {
        self.atomic_write
    }

    fn takes_parent(&self) -> bool {
        false
    }

    fn create(&self, disk: &Arc<SimulatedDisk>, size: u64, _parent: bool) -> Outcome<()> {
        disk.grow(size).and_then(|()| disk.sync()).map_err(said)
    }

    fn open(&self, disk: &Arc<SimulatedDisk>, _parent: Option<&Arc<MemoryDisk>>) -> Outcome<Box<dyn Image>> {
        Ok(Box::new(RawImage(Arc::clone(disk))))
    }
}

struct RawImage(Arc<SimulatedDisk>);

impl Image for RawImage {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Outcome<()> {
        self.0.read(offset, buffer).map_err(said)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Outcome<()> {
        self.0.write(offset, data).map_err(said)
    }

    fn flush(&self) -> Outcome<()> {
        self.0.sync().map_err(said)
    }

    fn discard(&self, offset: u64, length: u64) -> Outcome<()> {
        self.0.punch(offset, length).map(|_| ()).map_err(said)
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> Outcome<()> {
        if unmap {
            return self.discard(offset, length);
        }
        self.write(offset, &vec![0; length as usize])
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        self.flush()
    }
}
