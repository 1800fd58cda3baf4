//! New images, which appear under their name when they are complete.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::TempPath;

use super::Format;
use super::open::{BackingPolicy, Image, ImageSpec};
use crate::block::{
    BlockDevice, Cache, Error, ErrorKind, FileOptions, FileStorage, Geometry, Operation, Result,
};
use crate::selfie::{self, Backing, CreateOptions};

/// Which image to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewImageOptions {
    /// Where.
    pub path: PathBuf,
    /// How it is laid out.
    pub format: Format,
    /// Bytes of the disk.
    pub size: u64,
    /// How far a Selfie image can grow, in bytes.
    pub max_size: Option<u64>,
    /// What a Selfie image is put over.
    pub backing: Option<Backing>,
    /// Put it in the place of what is there. A block device is written from its first byte on.
    pub replace: bool,
}

impl NewImageOptions {
    /// A disk of `size` bytes on its own, where nothing is yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, format: Format, size: u64) -> Self {
        Self { path: path.into(), format, size, max_size: None, backing: None, replace: false }
    }
}

/// An image that is being made. Unless it is [finished](Self::finish), nothing is left of it.
#[derive(Debug)]
pub struct NewImage {
    image: Image,
    /// Where it is until it is finished; nothing for a block device, which cannot be elsewhere.
    temporary: Option<TempPath>,
    path: PathBuf,
    replace: bool,
}

impl NewImage {
    /// Makes an image whose disk reads as zeros, or as its backing image, beside `options.path`.
    ///
    /// # Errors
    /// [`ErrorKind::Exists`] unless it may be replaced, [`ErrorKind::Locked`] if what is there is in use,
    /// [`ErrorKind::BadSize`], or the medium cannot be written.
    pub fn create(options: &NewImageOptions) -> Result<Self> {
        let NewImageOptions { format, size, replace, .. } = *options;
        if size == 0 || !size.is_multiple_of(512) {
            return Err(Error::new(ErrorKind::BadSize, Operation::Create).on(&options.path));
        }
        let failed = |error: io::Error| Error::from_io(Operation::Create, error).on(&options.path);
        let (path, old) = match fs::canonicalize(&options.path) {
            Ok(path) => {
                let old = fs::metadata(&path).map_err(failed)?;
                (path, Some(old))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => (options.path.clone(), None),
            Err(error) => return Err(failed(error)),
        };
        if old.is_some() && !replace {
            return Err(Error::new(ErrorKind::Exists, Operation::Create).on(&options.path));
        }
        if old.is_some() {
            // Whoever has it open would go on with a file that has lost its name.
            drop(FileStorage::open(FileOptions { cache: Cache::Buffered, ..FileOptions::new(&path) })?);
        }
        let device = old.as_ref().is_some_and(|old| old.file_type().is_block_device());
        let temporary = match device {
            true => None,
            false => Some(beside(&path, old.map(|old| old.permissions())).map_err(failed)?),
        };
        let place: &Path = temporary.as_deref().unwrap_or(&path);
        format_image(place, options, device)?;
        let image = Image::open(&ImageSpec::new(place, format).backing(BackingPolicy::Leave))?;
        if image.size() < size {
            return Err(Error::new(ErrorKind::NoSpace, Operation::Create).on(&options.path));
        }
        Ok(Self { image, temporary, path, replace })
    }

    /// The image, to be written.
    #[must_use]
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// Says whether all of it reads as zeros now. The old content of a block device does not go away by itself.
    #[must_use]
    pub fn is_zeroed(&self) -> bool {
        self.temporary.is_some() || self.image.format() != Format::Raw
    }

    /// Size and block sizes.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.image.geometry()
    }

    /// Brings the image to the medium and gives it its name, at once.
    ///
    /// # Errors
    /// The medium failed, or something has taken the name meanwhile.
    pub fn finish(self) -> Result<()> {
        self.image.close()?;
        let Some(temporary) = self.temporary else { return Ok(()) };
        let failed = |error: io::Error| Error::from_io(Operation::Create, error).on(&self.path);
        File::open(&temporary).and_then(|file| file.sync_all()).map_err(failed)?;
        let named = match self.replace {
            true => temporary.persist(&self.path),
            false => temporary.persist_noclobber(&self.path),
        };
        named.map_err(|error| failed(error.error))?;
        // The name itself is durable when its folder is.
        File::open(folder(&self.path)).and_then(|folder| folder.sync_all()).map_err(failed)
    }
}

/// An empty file in the folder of `path`, with the mode that a new file has, or that the old one had.
fn beside(path: &Path, mode: Option<Permissions>) -> io::Result<TempPath> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let file = tempfile::Builder::new()
        .prefix(&format!(".{name}."))
        .suffix(".partial")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder(path))
        .map_err(bare)?;
    if let Some(mode) = mode {
        file.as_file().set_permissions(mode)?;
    }
    Ok(file.into_temp_path())
}

/// The system's error out of one that has the name of the temporary file in it, which means nothing to anybody.
fn bare(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::NotFound => io::Error::from_raw_os_error(libc::ENOENT),
        io::ErrorKind::PermissionDenied => io::Error::from_raw_os_error(libc::EACCES),
        io::ErrorKind::ReadOnlyFilesystem => io::Error::from_raw_os_error(libc::EROFS),
        io::ErrorKind::StorageFull => io::Error::from_raw_os_error(libc::ENOSPC),
        io::ErrorKind::QuotaExceeded => io::Error::from_raw_os_error(libc::EDQUOT),
        _ => error,
    }
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes the empty file, or the device, an image.
fn format_image(place: &Path, options: &NewImageOptions, device: bool) -> Result<()> {
    let failed = |error: io::Error| Error::from_io(Operation::Create, error).on(&options.path);
    match options.format {
        Format::Raw if options.backing.is_some() || options.max_size.is_some() => {
            let why = "a raw image has neither a backing image nor a largest size";
            Err(Error::new(ErrorKind::Unsupported, Operation::Create).on(&options.path).because(why))
        }
        Format::Raw if device => Ok(()),
        Format::Raw => {
            let file = OpenOptions::new().write(true).open(place).map_err(failed)?;
            file.set_len(options.size).map_err(failed)
        }
        Format::Qcow2 => {
            let why = "qcow2 images can be read here, and not written";
            Err(Error::new(ErrorKind::Unsupported, Operation::Create).on(&options.path).because(why))
        }
        Format::Selfie => {
            let storage = FileStorage::open(FileOptions::new(place))?;
            let (max_size, backing) = (options.max_size, options.backing.clone());
            selfie::create(&storage, &CreateOptions { size: options.size, max_size, backing })
                .map_err(|error| error.on(&options.path))
        }
    }
}
