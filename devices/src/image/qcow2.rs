//! QEMU's qcow2 images, to be read. The crate imago knows the format; this adapter makes it one of our devices.
//!
//! imago is given the image alone and may open nothing on its own: the backing chain is this crate's business, with
//! its rules about formats, locks and depth.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imago::qcow2::Qcow2;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder, Mapping};

use super::extent::Extents;
use crate::block::{
    BlockDevice, Cache, Error, ErrorKind, FileOptions, FileStorage, Geometry, Operation, Result, check_range,
    length_of,
};
use crate::io_class::IoTag;
use crate::selfie::{Extent, ExtentKind};

mod header;

use header::Header;

/// What a qcow2 image names as its backing image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedBacking {
    /// The name as the image has it, relative to the image's own folder.
    pub name: String,
    /// The format, if the image says it.
    pub format: Option<String>,
}

/// A qcow2 image, open for reading.
#[derive(Debug)]
pub struct Qcow2Source {
    image: FormatAccess<imago::file::File>,
    path: PathBuf,
    header: Header,
    /// Bytes of the file when it was opened.
    file_length: u64,
    named: Option<NamedBacking>,
    backing: Option<Arc<dyn BlockDevice>>,
    /// The image's file, for its lock.
    _locked: FileStorage,
}

impl Qcow2Source {
    /// Opens `path` and locks it against writers. Its backing image is not opened: see
    /// [`set_backing`](Self::set_backing).
    ///
    /// # Errors
    /// [`ErrorKind::NotThisFormat`], [`ErrorKind::Unsupported`] for encryption, an external data file and other
    /// features that cannot be read here, [`ErrorKind::Corrupt`], or the file cannot be opened or locked.
    pub fn open(path: &Path) -> Result<Self> {
        let fail = |error: Error| error.on(path);
        let options = FileOptions { read_only: true, cache: Cache::Buffered, ..FileOptions::new(path) };
        let locked = FileStorage::open(options)?;
        let file = locked.duplicate()?;
        let io = |error| fail(Error::from_io(Operation::Open, error));
        let file_length = file.metadata().map_err(io)?.len();
        let header = Header::read(&file).map_err(fail)?;
        let (image, named) = open_alone(file).map_err(|error| {
            fail(Error::new(ErrorKind::Unsupported, Operation::Open).because(error.to_string()))
        })?;
        if image.size() != header.size {
            return Err(fail(Error::new(ErrorKind::Corrupt, Operation::Open)));
        }
        Ok(Self { image, path: path.to_owned(), header, file_length, named, backing: None, _locked: locked })
    }

    /// The backing image that the image names.
    #[must_use]
    pub fn named_backing(&self) -> Option<&NamedBacking> {
        self.named.as_ref()
    }

    /// Reads from `backing` what the image does not hold itself. Without one such reads fail.
    pub fn set_backing(&mut self, backing: Arc<dyn BlockDevice>) {
        self.backing = Some(backing);
    }

    /// Bytes of one cluster, the unit in which the image holds data.
    #[must_use]
    pub fn cluster_size(&self) -> u64 {
        1 << self.header.cluster_bits
    }

    /// What the image holds of `length` bytes from byte `offset`.
    ///
    /// # Errors
    /// Out of range, the tables are corrupt, or the medium failed.
    pub fn map(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        check_range(Operation::Read, self.geometry().size, offset, length)
            .map_err(|error| error.on(&self.path))?;
        let mut extents = Extents::default();
        let mut position = offset;
        let end = offset + length;
        while position < end {
            let (kind, run) = self.run(position, end - position)?;
            extents.push(position, run, kind);
            position += run;
        }
        Ok(extents.into_vec())
    }

    /// What is at `offset`, and for how many of `length` bytes, at least one.
    fn run(&self, offset: u64, length: u64) -> Result<(ExtentKind, u64)> {
        if offset >= self.header.size {
            return Ok((ExtentKind::Zero, length));
        }
        let length = length.min(self.header.size - offset);
        let (mapping, run) =
            self.image.get_mapping(offset, length).map_err(|error| self.failed(offset, length, error))?;
        let kind = match mapping {
            Mapping::Zero { explicit: false, .. } if self.named.is_some() => ExtentKind::Backing,
            Mapping::Zero { .. } => ExtentKind::Zero,
            Mapping::Raw { offset: host, .. } => {
                self.check_host(host, run, offset)?;
                ExtentKind::Data
            }
            _ => ExtentKind::Data,
        };
        match run {
            0 => Err(self.corrupt(offset, length, "a part of the disk is mapped to nothing")),
            run => Ok((kind, run)),
        }
    }

    /// Refuses clusters behind the end of the file: an image that was cut short would read as zeros there.
    fn check_host(&self, host: u64, run: u64, offset: u64) -> Result<()> {
        let last = host.saturating_add(run.saturating_sub(1));
        // The last cluster of a file may be a piece of one: nobody wrote the rest.
        match last & !(self.cluster_size() - 1) < self.file_length {
            true => Ok(()),
            false => Err(self.corrupt(offset, run, "its data lies behind the end of the file")),
        }
    }

    fn failed(&self, offset: u64, length: u64, error: io::Error) -> Error {
        match error.raw_os_error() {
            Some(_) => Error::from_io(Operation::Read, error).at(offset, length).on(&self.path),
            None => self.corrupt(offset, length, &error.to_string()),
        }
    }

    fn corrupt(&self, offset: u64, length: u64, detail: &str) -> Error {
        Error::new(ErrorKind::Corrupt, Operation::Read).at(offset, length).on(&self.path).because(detail)
    }

    fn refuse(&self, operation: Operation, offset: u64, length: u64) -> Result<()> {
        Err(Error::new(ErrorKind::ReadOnly, operation).at(offset, length).on(&self.path))
    }
}

/// Lets imago open the image, and nothing beside it.
fn open_alone(file: File) -> io::Result<(FormatAccess<imago::file::File>, Option<NamedBacking>)> {
    let qcow2 = Qcow2::<imago::file::File>::builder(file.try_into()?)
        .backing(None)
        .data_file(None)
        .open(DenyImplicitOpenGate::default())?;
    if qcow2.requires_external_data_file() {
        return Err(io::Error::other("its data is in another file"));
    }
    let named = qcow2
        .implicit_backing_file()
        .map(|name| NamedBacking { name: name.clone(), format: qcow2.implicit_backing_format().cloned() });
    Ok((FormatAccess::new(qcow2), named))
}

impl BlockDevice for Qcow2Source {
    fn geometry(&self) -> Geometry {
        // A size that is no multiple of a sector is followed by zeros, as QEMU has it.
        let size = self.header.size.next_multiple_of(512);
        Geometry { size, logical_block_size: 512, physical_block_size: 4096, read_only: true }
    }

    fn read(&self, offset: u64, buffer: &mut [u8], _tags: &[IoTag]) -> Result<()> {
        let length = length_of(buffer);
        check_range(Operation::Read, self.geometry().size, offset, length)
            .map_err(|error| error.on(&self.path))?;
        let mut position = offset;
        let mut rest = buffer;
        while !rest.is_empty() {
            let (kind, run) = self.run(position, length_of(rest))?;
            let bytes = usize::try_from(run).unwrap_or(usize::MAX).min(rest.len());
            let (part, behind) = rest.split_at_mut(bytes);
            match (kind, &self.backing) {
                (ExtentKind::Data, _) => {
                    self.image
                        .read(&mut *part, position)
                        .map_err(|error| self.failed(position, run, error))?;
                }
                (ExtentKind::Backing, Some(backing)) => {
                    super::chain::read_below(backing.as_ref(), position, part)?
                }
                (ExtentKind::Backing, None) => {
                    return Err(Error::new(ErrorKind::Backing, Operation::Read)
                        .at(position, run)
                        .on(&self.path)
                        .because("it was left closed"));
                }
                (ExtentKind::Zero, _) => part.fill(0),
            }
            position += run;
            rest = behind;
        }
        Ok(())
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
