//! What the disk below a file has been asked for.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::error::{Error, Result};

/// Requests that the disk below a file has completed, whoever made them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DiskCounts {
    pub(super) writes: f64,
    pub(super) kib_written: f64,
    pub(super) flushes: f64,
}

impl DiskCounts {
    /// Of the disk that holds `path`, from `/sys/dev/block` (Documentation/block/stat.rst of Linux). `None` where a
    /// file system says nothing of its disk, as overlays do.
    pub(super) fn below(path: &Path) -> Result<Option<Self>> {
        let device = std::fs::metadata(path).map_err(Error::file("look at", path))?.dev();
        let (major, minor) = (libc::major(device), libc::minor(device));
        let at = std::path::PathBuf::from(format!("/sys/dev/block/{major}:{minor}/stat"));
        let Ok(text) = std::fs::read_to_string(&at) else { return Ok(None) };
        let fields: Vec<f64> = text.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        let field = |number: usize| fields.get(number).copied();
        Ok(match (field(4), field(6), field(15)) {
            (Some(writes), Some(sectors), Some(flushes)) => {
                Some(Self { writes, kib_written: sectors / 2.0, flushes })
            }
            _ => None,
        })
    }

    pub(super) fn since(self, before: Self) -> Self {
        Self {
            writes: self.writes - before.writes,
            kib_written: self.kib_written - before.kib_written,
            flushes: self.flushes - before.flushes,
        }
    }
}
