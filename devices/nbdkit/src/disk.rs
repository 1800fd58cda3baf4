//! The one open image that all connections share.

use std::sync::{PoisonError, RwLock};

use nbdkit::{ExtentType, Result};
use sky_devices::image::{Image, ImageSpec};

use crate::errors::{invalid, to_nbd};

/// Bytes that are looked at for one answer about allocation. A client asks again for what is missing.
const EXTENTS_AT_ONCE: u64 = 1 << 30;

/// Requests share it; opening and closing have it alone. Connections hold nothing: nbdkit forgets those that are open
/// when it ends, and a handle that is never closed would keep the image open.
static IMAGE: RwLock<Option<Image>> = RwLock::new(None);

/// Opens the image for all connections to come.
///
/// # Errors
/// It cannot be opened so.
pub(crate) fn open(spec: &ImageSpec) -> Result<()> {
    let image = Image::open(spec).map_err(to_nbd)?;
    *IMAGE.write().unwrap_or_else(PoisonError::into_inner) = Some(image);
    Ok(())
}

/// Does something with the image.
///
/// # Errors
/// Those of `action`. The image is not open, which nbdkit prevents.
pub(crate) fn with<T>(action: impl FnOnce(&Image) -> Result<T>) -> Result<T> {
    let image = IMAGE.read().unwrap_or_else(PoisonError::into_inner);
    action(image.as_ref().ok_or_else(|| invalid("the image is not open"))?)
}

/// Closes the image, after the requests that are being served.
pub(crate) fn close() {
    let Some(image) = IMAGE.write().unwrap_or_else(PoisonError::into_inner).take() else { return };
    if let Err(error) = image.close() {
        // What is flushed stays safe without it; the next one to open the image recovers it.
        eprintln!("sky: {error}");
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
