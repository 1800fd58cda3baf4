//! The images below an image: found, opened and read.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Format;
use super::open::{BackingPolicy, Image, ImageSpec};
use crate::block::{BlockDevice, Cache, Error, ErrorKind, Geometry, Operation, Result, length_of};
use crate::io_class::IoTag;

/// Images that one chain may have.
const MAX_DEPTH: usize = 32;

/// The images that were met on the way down, by device and inode.
#[derive(Debug, Default)]
pub(super) struct Chain(Vec<(u64, u64)>);

impl Chain {
    /// Notes that the chain goes on with the file `path`.
    ///
    /// # Errors
    /// [`ErrorKind::Backing`] if the chain has been there or is too long; the file cannot be found.
    pub(super) fn enter(&mut self, path: &Path) -> Result<()> {
        let refuse = |why: String| Err(Error::new(ErrorKind::Backing, Operation::Open).on(path).because(why));
        let metadata =
            std::fs::metadata(path).map_err(|error| Error::from_io(Operation::Open, error).on(path))?;
        let file = (metadata.dev(), metadata.ino());
        if self.0.contains(&file) {
            return refuse("the chain of backing images comes back to this one".into());
        }
        if self.0.len() >= MAX_DEPTH {
            return refuse(format!("the chain of backing images has more than {MAX_DEPTH}"));
        }
        self.0.push(file);
        Ok(())
    }

    /// Opens the image that `child` names, read-only.
    ///
    /// # Errors
    /// As [`Image::open`].
    pub(super) fn open_below(
        &mut self,
        child: &Path,
        name: &str,
        format: Format,
        cache: Option<Cache>,
    ) -> Result<Arc<Image>> {
        let spec = ImageSpec::new(beside(child, name), format).read_only().backing(BackingPolicy::Open);
        let spec = ImageSpec { cache, ..spec };
        Ok(Arc::new(Image::open_in(&spec, self)?))
    }
}

/// The path of the file that the image `child` calls `name`: relative names begin in the child's folder.
pub(super) fn beside(child: &Path, name: &str) -> PathBuf {
    child.parent().unwrap_or(Path::new("")).join(name)
}

/// Reads from the device below, which may be smaller: behind its end are zeros.
pub(super) fn read_below(below: &dyn BlockDevice, offset: u64, buffer: &mut [u8]) -> Result<()> {
    let there = below.geometry().size.saturating_sub(offset).min(length_of(buffer));
    let (part, behind) =
        buffer.split_at_mut(usize::try_from(there).unwrap_or(buffer.len()).min(buffer.len()));
    behind.fill(0);
    if part.is_empty() { Ok(()) } else { below.read(offset, part, &[]) }
}

/// The image below one that was opened alone: reading it is an error, not zeros.
#[derive(Debug)]
pub(super) struct Closed {
    /// Bytes that the child sees of it.
    pub(super) size: u64,
    pub(super) child: PathBuf,
}

impl Closed {
    fn refuse(&self, operation: Operation, offset: u64, length: u64) -> Result<()> {
        let error = Error::new(ErrorKind::Backing, operation).at(offset, length).on(&self.child);
        Err(error.because("it was left closed"))
    }
}

impl BlockDevice for Closed {
    fn geometry(&self) -> Geometry {
        Geometry { size: self.size, logical_block_size: 512, physical_block_size: 4096, read_only: true }
    }

    fn read(&self, offset: u64, buffer: &mut [u8], _tags: &[IoTag]) -> Result<()> {
        self.refuse(Operation::Read, offset, length_of(buffer))
    }

    fn write(&self, offset: u64, data: &[u8], _tags: &[IoTag]) -> Result<()> {
        self.refuse(Operation::Write, offset, length_of(data))
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn discard(&self, offset: u64, length: u64) -> Result<()> {
        self.refuse(Operation::Discard, offset, length)
    }

    fn write_zeroes(&self, offset: u64, length: u64, _unmap: bool) -> Result<()> {
        self.refuse(Operation::WriteZeroes, offset, length)
    }
}
