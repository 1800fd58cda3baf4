//! Which file to open, and how.

use std::path::PathBuf;

/// Who keeps recently used bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Cache {
    /// Nobody: requests go to the medium (`O_DIRECT`). The guest has a page cache already.
    #[default]
    Direct,
    /// The host's page cache.
    Buffered,
}

/// Which file to open, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileOptions {
    /// Path of a regular file or block device.
    pub path: PathBuf,
    /// Refuse changes, and share the file with other readers.
    pub read_only: bool,
    /// Whether the host's page cache takes part. A file system that knows no direct access is used through it.
    pub cache: Cache,
    /// Bytes that the medium writes entirely or not at all, where the administrator knows better than the kernel: a
    /// power of two, at least 512.
    pub atomic_write: Option<u32>,
}

impl FileOptions {
    /// Opens `path` for reading and writing, past the host's page cache.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), read_only: false, cache: Cache::default(), atomic_write: None }
    }
}
