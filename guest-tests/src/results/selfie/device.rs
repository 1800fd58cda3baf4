//! A block device to put images on, which has no file system in between: a loop device whose file has been written from
//! end to end, so that below it nothing is allocated either.

use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::image::write_out;
use crate::error::{Error, Result};
use crate::packages::{Tool, ensure};
use crate::{command, paths};

/// One that goes when it is dropped.
pub(super) struct Device {
    path: PathBuf,
    _file: NamedTempFile,
}

impl Device {
    /// A device of `size` bytes, past the page cache, with sectors of 4 KiB. Nothing where only root may have one and
    /// we are not, or the kernel has none.
    pub(super) fn new(size: u64) -> Result<Option<Self>> {
        let target = paths::target();
        let file = NamedTempFile::new_in(&target).map_err(Error::file("create a file in", &target))?;
        write_out(file.path(), size).map_err(Error::file("write", file.path()))?;
        let mut losetup = ensure(Tool::Losetup)?;
        losetup.args(["--find", "--show", "--direct-io=on", "--sector-size=4096"]).arg(file.path());
        match command::run(&mut losetup) {
            Ok(output) => {
                let path = PathBuf::from(String::from_utf8_lossy(&output).trim());
                Ok(Some(Self { path, _file: file }))
            }
            Err(Error::Failed { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Ok(mut losetup) = ensure(Tool::Losetup) {
            let _ = command::run(losetup.arg("--detach").arg(&self.path));
        }
    }
}
