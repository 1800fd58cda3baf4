//! The one open disk that all connections share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nbdkit::{ExtentType, Result};
use sky_devices::block::{BlockDevice, RawFile, RawOptions};

use crate::errors::{invalid, to_nbd};
use crate::settings::{Format, Settings};

/// The most pieces of one answer about allocation. A client asks again for what is missing.
const MAX_EXTENTS: usize = 4096;

static DISK: Mutex<Option<Arc<Disk>>> = Mutex::new(None);

fn slot() -> MutexGuard<'static, Option<Arc<Disk>>> {
    DISK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An open image.
#[derive(Debug)]
pub(crate) enum Disk {
    Raw(RawFile),
}

/// Opens the image for all connections to come.
///
/// # Errors
/// It cannot be opened so.
pub(crate) fn open(settings: &Settings) -> Result<()> {
    *slot() = Some(Arc::new(Disk::open(settings)?));
    Ok(())
}

/// The disk, for one connection.
///
/// # Errors
/// It is not open, which nbdkit prevents.
pub(crate) fn shared() -> Result<Arc<Disk>> {
    slot().clone().ok_or_else(|| invalid("the image is not open"))
}

/// Closes the image; all connections have ended.
pub(crate) fn close() {
    let Some(disk) = slot().take() else { return };
    let closed = match Arc::into_inner(disk) {
        Some(disk) => disk.close(),
        // What is flushed stays safe without it; the next open recovers.
        None => Err(invalid("a connection still uses the image: it is not closed")),
    };
    if let Err(error) = closed {
        eprintln!("sky: the image could not be closed: {error}");
    }
}

impl Disk {
    fn open(settings: &Settings) -> Result<Self> {
        let Settings { path, format, read_only, direct } = settings.clone();
        match format {
            Format::Raw if direct == Some(true) => Err(invalid("cache=direct: raw images are served buffered")),
            Format::Raw => Ok(Self::Raw(RawFile::open(RawOptions { path, read_only }).map_err(to_nbd)?)),
            Format::Selfie => Err(invalid("format=selfie: not in this build")),
        }
    }

    fn close(self) -> Result<()> {
        match self {
            Self::Raw(raw) => raw.flush().map_err(to_nbd),
        }
    }

    pub(crate) fn device(&self) -> &dyn BlockDevice {
        match self {
            Self::Raw(raw) => raw,
        }
    }

    /// Reports which parts of `length` bytes from byte `offset` are allocated, in order, from `offset` on. Reports the
    /// first one only if `one` is enough, and may stop early anyway.
    ///
    /// # Errors
    /// Those of the disk, and of `report`.
    pub(crate) fn extents(
        &self,
        offset: u64,
        length: u64,
        one: bool,
        mut report: impl FnMut(u64, u64, ExtentType) -> Result<()>,
    ) -> Result<()> {
        let end = offset.saturating_add(length);
        let mut position = offset;
        for _ in 0..if one { 1 } else { MAX_EXTENTS } {
            if position >= end {
                break;
            }
            let (kind, next) = self.extent(position)?;
            report(position, next - position, kind)?;
            position = next;
        }
        Ok(())
    }

    /// What lies at byte `offset`, and where that ends.
    fn extent(&self, offset: u64) -> Result<(ExtentType, u64)> {
        match self {
            Self::Raw(raw) => {
                let (data, range) = raw.extent(offset).map_err(to_nbd)?;
                Ok((if data { ExtentType::Allocated } else { ExtentType::HoleZero }, range.end))
            }
        }
    }
}
