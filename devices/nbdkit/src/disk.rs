//! The one open image that all connections share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nbdkit::{ExtentType, Result};
use sky_devices::image::{Image, ImageSpec};

use crate::errors::{invalid, to_nbd};

/// Bytes that are looked at for one answer about allocation. A client asks again for what is missing.
const EXTENTS_AT_ONCE: u64 = 1 << 30;

static IMAGE: Mutex<Option<Arc<Image>>> = Mutex::new(None);

fn slot() -> MutexGuard<'static, Option<Arc<Image>>> {
    IMAGE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens the image for all connections to come.
///
/// # Errors
/// It cannot be opened so.
pub(crate) fn open(spec: &ImageSpec) -> Result<()> {
    *slot() = Some(Arc::new(Image::open(spec).map_err(to_nbd)?));
    Ok(())
}

/// The image, for one connection.
///
/// # Errors
/// It is not open, which nbdkit prevents.
pub(crate) fn shared() -> Result<Arc<Image>> {
    slot().clone().ok_or_else(|| invalid("the image is not open"))
}

/// Closes the image; all connections have ended.
pub(crate) fn close() {
    let Some(image) = slot().take() else { return };
    let closed = match Arc::into_inner(image) {
        Some(image) => image.close().map_err(to_nbd),
        // What is flushed stays safe without it; the next one to open the image recovers it.
        None => Err(invalid("a connection still uses it")),
    };
    if let Err(error) = closed {
        eprintln!("sky: the image could not be closed: {error}");
    }
}

/// Reports which parts of `length` bytes from byte `offset` are allocated, in order, from `offset` on. Reports the
/// first one only if `one` is enough, and may stop early anyway.
///
/// # Errors
/// Those of the image, and of `report`.
pub(crate) fn extents(
    image: &Image,
    (offset, length): (u64, u64),
    one: bool,
    mut report: impl FnMut(u64, u64, ExtentType) -> Result<()>,
) -> Result<()> {
    let found = image.locate(offset, length.min(EXTENTS_AT_ONCE)).map_err(to_nbd)?;
    for piece in found.iter().take(if one { 1 } else { usize::MAX }) {
        let kind = if piece.zero { ExtentType::HoleZero } else { ExtentType::Allocated };
        report(piece.offset, piece.length, kind)?;
    }
    Ok(())
}
