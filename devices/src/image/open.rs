//! One image, open, with the images below it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::chain::Chain;
use super::extent::{Extents, Located};
use super::selfie::SelfieDisk;
use super::{Format, NamedBacking, Qcow2Source};
use crate::block::{
    BlockDevice, Cache, Error, ErrorKind, Geometry, Operation, RawFile, RawOptions, Result, StorageCounts,
    check_range,
};
use crate::io_class::IoTag;
use crate::selfie::{Backing, Extent, ExtentKind, Identity, Selfie, rebase};

/// What happens with the backing image that an image names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackingPolicy {
    /// Such an image is refused.
    #[default]
    Refuse,
    /// It is opened, and those below it.
    Open,
    /// It stays closed, and reading what only it holds is an error.
    Leave,
}

/// Which image to open, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSpec {
    /// Path of a regular file or block device.
    pub path: PathBuf,
    /// How it is laid out.
    pub format: Format,
    /// Refuse changes, and share the image with other readers.
    pub read_only: bool,
    /// Whether the host's page cache is used. If nobody says: not by Selfie images. Those in qcow2 always use it.
    pub cache: Option<Cache>,
    /// What happens with the backing image that it names.
    pub backing: BackingPolicy,
    /// Keep readers out, too, though it is only read. Selfie images only.
    pub exclusive: bool,
    /// Read in spite of contradictions what can be read; needs `read_only`. Selfie images only.
    pub tolerant: bool,
}

impl ImageSpec {
    /// An image to be read and written.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, format: Format) -> Self {
        let (cache, backing) = (None, BackingPolicy::default());
        Self {
            path: path.into(),
            format,
            read_only: false,
            cache,
            backing,
            exclusive: false,
            tolerant: false,
        }
    }

    /// The same, to be read only.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// The same, with a rule for its backing image.
    #[must_use]
    pub fn backing(mut self, policy: BackingPolicy) -> Self {
        self.backing = policy;
        self
    }
}

#[derive(Debug)]
enum Disk {
    Raw(Box<RawFile>),
    Qcow2(Box<Qcow2Source>),
    Selfie(Box<SelfieDisk>),
}

/// An open image of any format.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    format: Format,
    disk: Disk,
    backing: Option<Arc<Image>>,
}

impl Image {
    /// Opens and locks an image, and the chain below it if the specification says so: those are opened read-only and
    /// shared with other readers.
    ///
    /// # Errors
    /// The file cannot be opened or locked, is not of the format, or its chain is refused: see [`BackingPolicy`]. A
    /// chain is refused that is longer than 32 images or comes back to itself, or in which an image is not what its
    /// child was made over.
    pub fn open(spec: &ImageSpec) -> Result<Self> {
        Self::open_in(spec, &mut Chain::default())
    }

    pub(super) fn open_in(spec: &ImageSpec, chain: &mut Chain) -> Result<Self> {
        chain.enter(&spec.path)?;
        let (disk, backing) = match spec.format {
            Format::Raw => {
                let cache = spec.cache.unwrap_or(Cache::Buffered);
                let options = RawOptions { path: spec.path.clone(), read_only: spec.read_only, cache };
                (Disk::Raw(Box::new(RawFile::open(options)?)), None)
            }
            Format::Qcow2 => open_qcow2(spec, chain)?,
            Format::Selfie => {
                let (disk, backing) = SelfieDisk::open(spec, chain)?;
                (Disk::Selfie(Box::new(disk)), backing)
            }
        };
        Ok(Self { path: spec.path.clone(), format: spec.format, disk, backing })
    }

    /// The path that it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The format that it was opened as.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// Bytes of the disk.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.geometry().size
    }

    /// What the image names as its backing image, opened or not.
    #[must_use]
    pub fn named_backing(&self) -> Option<NamedBacking> {
        match &self.disk {
            Disk::Raw(_) => None,
            Disk::Qcow2(qcow2) => qcow2.named_backing().cloned(),
            Disk::Selfie(disk) => disk.superblock.backing.as_ref().map(|backing| NamedBacking {
                name: backing.path.clone(),
                format: Some(Format::from(backing.format).to_string()),
            }),
        }
    }

    /// The image below, if it was opened.
    #[must_use]
    pub fn below(&self) -> Option<&Arc<Image>> {
        self.backing.as_ref()
    }

    /// The image and those below it, topmost first.
    pub fn chain(&self) -> impl Iterator<Item = &Image> {
        std::iter::successors(Some(self), |image| image.backing.as_deref())
    }

    /// Bytes that the image holds or leaves out as one.
    #[must_use]
    pub fn cluster_size(&self) -> u64 {
        match &self.disk {
            Disk::Raw(_) => 4096,
            Disk::Qcow2(qcow2) => qcow2.cluster_size(),
            Disk::Selfie(_) => 64 << 10,
        }
    }

    /// What this image says of `length` bytes from byte `offset`, without those below it.
    ///
    /// # Errors
    /// Out of range, what the image says is wrong, or the medium failed.
    pub fn map(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        check_range(Operation::Read, self.size(), offset, length).map_err(|error| error.on(&self.path))?;
        match &self.disk {
            Disk::Raw(raw) => map_raw(raw, offset, offset + length),
            Disk::Qcow2(qcow2) => qcow2.map(offset, length),
            Disk::Selfie(disk) => Ok(disk.map(offset, length)),
        }
    }

    /// The same, followed down the chain. What an image holds that was left closed counts as data of depth one.
    ///
    /// # Errors
    /// As [`map`](Self::map), for any image of the chain.
    pub fn locate(&self, offset: u64, length: u64) -> Result<Vec<Located>> {
        let mut found = Vec::new();
        for extent in self.map(offset, length)? {
            let Extent { offset, length, kind } = extent;
            if kind != ExtentKind::Backing {
                found.push(Located { offset, length, depth: 0, zero: kind == ExtentKind::Zero });
                continue;
            }
            let Some(below) = self.backing.as_deref() else {
                found.push(Located { offset, length, depth: 1, zero: false });
                continue;
            };
            // A disk may have grown since it was put over its backing image.
            let there = below.size().saturating_sub(offset).min(length);
            let inner = below.locate(offset.min(below.size()), there)?;
            found.extend(inner.into_iter().map(|inner| Located { depth: inner.depth + 1, ..inner }));
            if there < length {
                found.push(Located { offset: offset + there, length: length - there, depth: 0, zero: true });
            }
        }
        Ok(found)
    }

    /// Brings everything to the medium and leaves the image as one that nobody uses.
    ///
    /// Dropping an image instead is safe, too; the next one to open it then has to recover it.
    ///
    /// # Errors
    /// The medium failed.
    pub fn close(self) -> Result<()> {
        match self.disk {
            Disk::Selfie(disk) => disk.selfie.close(),
            _ => self.flush(),
        }
    }

    /// Closes a Selfie image and says what lies below it from now on.
    pub(super) fn attach(self, backing: Option<Backing>) -> Result<()> {
        let Disk::Selfie(disk) = self.disk else {
            return Err(Error::new(ErrorKind::Unsupported, Operation::Write).on(&self.path));
        };
        let SelfieDisk { selfie, storage, .. } = *disk;
        selfie.close()?;
        rebase(&*storage, backing)
    }

    /// What a Selfie image records of the image below it.
    #[must_use]
    pub fn recorded_backing(&self) -> Option<&Backing> {
        match &self.disk {
            Disk::Selfie(disk) => disk.superblock.backing.as_ref(),
            _ => None,
        }
    }

    /// The engine of a Selfie image.
    #[must_use]
    pub fn selfie(&self) -> Option<&Selfie> {
        match &self.disk {
            Disk::Selfie(disk) => Some(&disk.selfie),
            _ => None,
        }
    }

    /// What the file below was asked to do since the image was opened; nothing is known of qcow2 images.
    #[must_use]
    pub fn counts(&self) -> StorageCounts {
        match &self.disk {
            Disk::Raw(raw) => raw.counts(),
            Disk::Qcow2(_) => StorageCounts::default(),
            Disk::Selfie(disk) => disk.storage.counts(),
        }
    }

    /// What tells the image from others, and from itself when it has been written; as it was when it was opened.
    ///
    /// # Errors
    /// The file cannot be looked at.
    pub fn identity(&self) -> Result<Identity> {
        if let Disk::Selfie(disk) = &self.disk {
            let superblock = &disk.superblock;
            let (uuid, content) = (superblock.uuid, superblock.generation);
            return Ok(Identity { uuid, size: superblock.size, content });
        }
        Ok(Identity { uuid: [0; 16], size: self.size(), content: modified(&self.path)? })
    }

    /// Makes the disk `size` bytes long. What is new reads as zeros, whatever a backing image holds there.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the disk is longer, [`ErrorKind::BadSize`], [`ErrorKind::ReadOnly`], or the medium
    /// cannot grow.
    pub fn grow(self, size: u64) -> Result<()> {
        match self.disk {
            Disk::Raw(raw) => raw.grow(size),
            Disk::Qcow2(_) => Err(Error::new(ErrorKind::ReadOnly, Operation::Grow).on(&self.path)),
            Disk::Selfie(disk) => disk.grow(size, &self.path),
        }
    }

    /// An error with this image's path, unless it came from one below.
    fn named(&self, error: Error) -> Error {
        if error.path().is_none() { error.on(&self.path) } else { error }
    }

    fn device(&self) -> &dyn BlockDevice {
        match &self.disk {
            Disk::Raw(raw) => raw.as_ref(),
            Disk::Qcow2(qcow2) => qcow2.as_ref(),
            Disk::Selfie(disk) => &disk.selfie,
        }
    }
}

/// When a file was modified, in nanoseconds; 0 where nobody knows.
pub(crate) fn modified(path: &Path) -> Result<u64> {
    let metadata =
        std::fs::metadata(path).map_err(|error| Error::from_io(Operation::Open, error).on(path))?;
    // That of a block device is the time of its node, which says nothing.
    let modified = if metadata.file_type().is_file() { metadata.modified().ok() } else { None };
    let since = modified.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    Ok(since.and_then(|since| u64::try_from(since.as_nanos()).ok()).unwrap_or(0))
}

fn open_qcow2(spec: &ImageSpec, chain: &mut Chain) -> Result<(Disk, Option<Arc<Image>>)> {
    let refuse = |kind, why: &str| Err(Error::new(kind, Operation::Open).on(&spec.path).because(why));
    if !spec.read_only {
        return refuse(ErrorKind::Unsupported, "qcow2 images can be read here, and not written");
    }
    let mut qcow2 = Box::new(Qcow2Source::open(&spec.path)?);
    let Some(named) = qcow2.named_backing().cloned() else { return Ok((Disk::Qcow2(qcow2), None)) };
    match spec.backing {
        BackingPolicy::Leave => return Ok((Disk::Qcow2(qcow2), None)),
        BackingPolicy::Refuse => {
            return refuse(
                ErrorKind::Backing,
                &format!("it names {:?}, and nobody asked to open it", named.name),
            );
        }
        BackingPolicy::Open => {}
    }
    let Some(format) = named.format else {
        return refuse(
            ErrorKind::Backing,
            &format!(
                "it names {:?} without a format; `qemu-img rebase -u -F FORMAT` records one",
                named.name
            ),
        );
    };
    let format: Format = match format.parse() {
        Ok(format) => format,
        Err(unknown) => return refuse(ErrorKind::Backing, &unknown.to_string()),
    };
    let backing = chain.open_below(&spec.path, &named.name, format, spec.cache)?;
    qcow2.set_backing(Arc::clone(&backing) as Arc<dyn BlockDevice>);
    Ok((Disk::Qcow2(qcow2), Some(backing)))
}

fn map_raw(raw: &RawFile, offset: u64, end: u64) -> Result<Vec<Extent>> {
    let mut extents = Extents::default();
    let mut position = offset;
    while position < end {
        let (data, range) = raw.extent(position)?;
        let behind = range.end.clamp(position + 1, end);
        let kind = if data { ExtentKind::Data } else { ExtentKind::Zero };
        extents.push(position, behind - position, kind);
        position = behind;
    }
    Ok(extents.into_vec())
}

impl BlockDevice for Image {
    fn geometry(&self) -> Geometry {
        self.device().geometry()
    }

    fn read(&self, offset: u64, buffer: &mut [u8], tags: &[IoTag]) -> Result<()> {
        self.device().read(offset, buffer, tags).map_err(|error| self.named(error))
    }

    fn write(&self, offset: u64, data: &[u8], tags: &[IoTag]) -> Result<()> {
        self.device().write(offset, data, tags).map_err(|error| self.named(error))
    }

    fn flush(&self) -> Result<()> {
        self.device().flush().map_err(|error| self.named(error))
    }

    fn discard(&self, offset: u64, length: u64) -> Result<()> {
        self.device().discard(offset, length).map_err(|error| self.named(error))
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> Result<()> {
        self.device().write_zeroes(offset, length, unmap).map_err(|error| self.named(error))
    }
}
