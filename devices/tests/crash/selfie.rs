//! Selfie, in several of the ways that it can be opened.

use std::sync::Arc;

use sky_devices::block::simulated::SimulatedDisk;
use sky_devices::block::{BlockDevice, MemoryDisk, Storage};
use sky_devices::selfie::{
    Backing, BackingFormat, CreateOptions, Identity, OpenOptions, Selfie as Engine, Zeroing, check, create,
};

use super::subject::{Image, Outcome, Subject, said};

/// Selfie images, opened in one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Selfie {
    /// Blocks carry their mappings.
    Embedded,
    /// All mappings go through the tables, because the disk writes no whole block atomically.
    SmallSectors,
    /// Data is durable before the tables speak of it.
    Ordered,
    /// Zones are holes.
    Sparse,
}

impl Subject for Selfie {
    fn name(&self) -> &'static str {
        match self {
            Self::Embedded => "selfie",
            Self::SmallSectors => "selfie-small-sectors",
            Self::Ordered => "selfie-ordered",
            Self::Sparse => "selfie-sparse",
        }
    }

    fn atomic_write(&self) -> u32 {
        if *self == Self::SmallSectors { 512 } else { 4096 }
    }

    fn create(&self, disk: &Arc<SimulatedDisk>, size: u64, parent: bool) -> Outcome<()> {
        let backing = parent.then(|| Backing {
            path: "parent.img".to_owned(),
            format: BackingFormat::Raw,
            identity: Identity { size, ..Identity::default() },
            reach: size,
        });
        // An image that can grow to terabytes has tables to match, which every crash state would have to read.
        create(&**disk, &CreateOptions { max_size: Some(1 << 28), backing, ..CreateOptions::new(size) })
            .map_err(said)
    }

    fn open(&self, disk: &Arc<SimulatedDisk>, parent: Option<&Arc<MemoryDisk>>) -> Outcome<Box<dyn Image>> {
        let options = OpenOptions {
            background: false,
            ordered: *self == Self::Ordered,
            zeroing: if *self == Self::Sparse { Zeroing::Sparse } else { Zeroing::Written },
            ..OpenOptions::default()
        };
        let storage = Arc::clone(disk) as Arc<dyn Storage>;
        let backing = parent.map(|parent| Arc::clone(parent) as Arc<dyn BlockDevice>);
        Ok(Box::new(SelfieImage(Engine::open(storage, options, backing).map_err(said)?)))
    }

    fn check(&self, disk: &Arc<SimulatedDisk>, _parent: bool) -> Outcome<()> {
        let report = check(&**disk).map_err(said)?;
        if report.is_clean() { Ok(()) } else { Err(format!("{report:?}")) }
    }
}

struct SelfieImage(Engine);

impl Image for SelfieImage {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Outcome<()> {
        self.0.read(offset, buffer, &[]).map_err(said)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Outcome<()> {
        self.0.write(offset, data, &[]).map_err(said)
    }

    fn flush(&self) -> Outcome<()> {
        self.0.flush().map_err(said)
    }

    fn discard(&self, offset: u64, length: u64) -> Outcome<()> {
        self.0.discard(offset, length).map_err(said)
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> Outcome<()> {
        self.0.write_zeroes(offset, length, unmap).map_err(said)
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        self.0.close().map_err(said)
    }
}
