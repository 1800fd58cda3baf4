//! What is known of one block of a request when its class is asked for.

use crate::io_class::IoClass;

/// Which way a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the disk to the guest.
    Read,
    /// From the guest to the disk.
    Write,
}

/// What is known of one 4 KiB block of a request. It only borrows, so it costs nothing to fill for each block; what
/// nobody knows stays `None`, and a condition over it does not match.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts<'a> {
    /// What the block holds. [`IoClass::Unknown`] is not metadata.
    pub class: IoClass,
    /// The guest's process goes past its page cache (`O_DIRECT`).
    pub direct: Option<bool>,
    /// Size in bytes of the regular file that the block belongs to.
    pub file_size: Option<u64>,
    /// Offset of the block in that file, in bytes.
    pub file_offset: Option<u64>,
    /// Path of that file in the guest. Only an absolute one without `..` can lie in a directory.
    pub path: Option<&'a str>,
    /// Name of the guest's process as its kernel keeps it: at most 15 bytes on Linux.
    pub process_name: Option<&'a str>,
    /// Number of the guest's process.
    pub pid: Option<u32>,
    /// First sector of the block on the disk, in units of 512 bytes.
    pub lba: Option<u64>,
    /// Size of the whole request in bytes.
    pub request_size: Option<u64>,
    /// Which way the request goes.
    pub direction: Option<Direction>,
    /// Write lifetime hint of the file, a `RWH_WRITE_LIFE_*` value of Linux (0 not set ... 5 extreme).
    pub write_hint: Option<u8>,
    /// Number of the guest's disk, the `core_id` of OpenCAS.
    pub disk: Option<u16>,
    /// Class that the application itself gave with the call. It wins over all rules if the policy has such a class.
    pub hint: Option<u32>,
}

impl<'a> Facts<'a> {
    /// Last component of the path, if that is a name.
    pub(super) fn file_name(&self) -> Option<&'a str> {
        let (_, name) = self.path.map(|path| path.rsplit_once('/').unwrap_or(("", path)))?;
        (!matches!(name, "" | "." | "..")).then_some(name)
    }

    /// Whether the path is `directory` or lies in it, component by component: `/var/logs` is not in `/var/log`.
    ///
    /// A path with `..` is in no directory. Where it leads depends on symbolic links that are not known here, and a
    /// guest could otherwise choose its class by writing `/in/../out`.
    pub(super) fn is_in(&self, directory: &str) -> bool {
        let Some(path) = self.path.filter(|path| path.starts_with('/')) else { return false };
        let mut path = components(path);
        if path.clone().any(|component| component == "..") {
            return false;
        }
        components(directory).all(|component| path.next() == Some(component))
    }
}

/// Components of a path without what changes nothing: repeated slashes, a slash at the end, and `.`.
pub(super) fn components(path: &str) -> impl Iterator<Item = &str> + Clone {
    path.split('/').filter(|component| !matches!(*component, "" | "."))
}
