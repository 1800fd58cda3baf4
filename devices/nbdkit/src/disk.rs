//! The one open disk that all connections share.

use std::sync::{PoisonError, RwLock};

use nbdkit::{ExtentType, Result};
use sky_devices::layers::{Stack, StackSpec};

use crate::errors::{invalid, to_nbd};

/// Bytes that are looked at for one answer about allocation. A client asks again for what is missing.
const EXTENTS_AT_ONCE: u64 = 1 << 30;

/// Requests share it; opening and closing have it alone. Connections hold nothing: nbdkit forgets those that are open
/// when it ends, and a handle that is never closed would keep the image open.
static DISK: RwLock<Option<Stack>> = RwLock::new(None);

/// Opens the disk for all connections to come.
///
/// # Errors
/// It cannot be opened so.
pub(crate) fn open(spec: &StackSpec) -> Result<()> {
    let disk = Stack::open(spec).map_err(to_nbd)?;
    *DISK.write().unwrap_or_else(PoisonError::into_inner) = Some(disk);
    Ok(())
}

/// Does something with the disk.
///
/// # Errors
/// Those of `action`. The disk is not open, which nbdkit prevents.
pub(crate) fn with<T>(action: impl FnOnce(&Stack) -> Result<T>) -> Result<T> {
    let disk = DISK.read().unwrap_or_else(PoisonError::into_inner);
    action(disk.as_ref().ok_or_else(|| invalid("the disk is not open"))?)
}

/// Closes the disk, after the requests that are being served.
pub(crate) fn close() {
    let Some(disk) = DISK.write().unwrap_or_else(PoisonError::into_inner).take() else { return };
    if let Err(error) = disk.close() {
        // What is flushed stays safe without it; the next one to open the disk recovers it.
        eprintln!("sky: {error}");
    }
}

/// Reports which parts of `length` bytes from byte `offset` are allocated, in order, from `offset` on. Reports the
/// first one only if `one` is enough, and may stop early anyway.
///
/// # Errors
/// Those of the disk, and of `report`.
pub(crate) fn extents(
    disk: &Stack,
    (offset, length): (u64, u64),
    one: bool,
    mut report: impl FnMut(u64, u64, ExtentType) -> Result<()>,
) -> Result<()> {
    let found = disk.locate(offset, length.min(EXTENTS_AT_ONCE)).map_err(to_nbd)?;
    for piece in found.iter().take(if one { 1 } else { usize::MAX }) {
        let kind = if piece.zero { ExtentType::HoleZero } else { ExtentType::Allocated };
        report(piece.offset, piece.length, kind)?;
    }
    Ok(())
}
