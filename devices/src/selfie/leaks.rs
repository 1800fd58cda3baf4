//! Space that an image takes and nothing uses.
//!
//! ```text
//!   a zone in use:   in use, dead, in use, dead │ next: handed out from here on, some of it zeroed ahead
//!                                └──────────────┴─ a hole, or a leak
//!   a free zone:     all of it a hole, or a leak
//! ```
//!
//! A cluster that is given up is not used again before its whole zone is free, and a hole until then. It is none if the
//! power failed, or the medium did, between its end and the hole; nor is a cluster that was handed out to somebody who
//! then came to nothing. That is no error, nothing of it is ever read: it costs space until its zone is free.

use serde::Serialize;

use super::format::{CLUSTER, Cluster, Layout, SLOTS, ZoneKind};
use super::load::Loaded;
use crate::block::{Result, Storage};

/// Space that nothing uses and that no hole is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Leaks {
    /// Clusters that nothing uses and that take space.
    pub clusters: u64,
    /// Bytes that they take on the medium.
    pub bytes: u64,
}

/// Counts the leaks of an image without errors. Nothing where the medium does not say what takes space.
pub(super) fn leaks(storage: &dyn Storage, layout: &Layout, loaded: &Loaded) -> Result<Option<Leaks>> {
    let mut leaks = Leaks::default();
    for (index, (number, zone)) in (0u32..).zip(&loaded.zones).enumerate() {
        let Some(first) = layout.zone(number) else { continue };
        let end = if zone.entry.kind == ZoneKind::Free { SLOTS } else { zone.next.min(SLOTS) };
        let unused: Vec<u16> = (0..end).filter(|&slot| !loaded.is_used(index, slot)).collect();
        for run in unused.chunk_by(|a, b| a + 1 == *b) {
            let Some(&slot) = run.first() else { continue };
            let at = |slot: u16| Cluster(first.0 + u32::from(slot)).offset();
            // Most are holes from one end to the other.
            match storage.allocated(at(slot), (run.len() * CLUSTER) as u64)? {
                None => return Ok(None),
                Some(0) => continue,
                Some(bytes) => leaks.bytes += bytes,
            }
            for &slot in run {
                let bytes = storage.allocated(at(slot), CLUSTER as u64)?;
                leaks.clusters += u64::from(bytes.is_some_and(|bytes| bytes > 0));
            }
        }
    }
    Ok(Some(leaks))
}
