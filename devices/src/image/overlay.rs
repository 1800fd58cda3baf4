//! Images that are put over others, and what is written back into those.

use std::fs;
use std::path::{Path, PathBuf};

use super::Format;
use super::chain::beside;
use super::copy::{Copied, CopyOptions, copy_pieces};
use super::open::{BackingPolicy, Image, ImageSpec};
use super::pieces::Pieces;
use super::selfie::{check_identity, file_options};
use super::work::Work;
use crate::block::{BlockDevice, Cache, Error, ErrorKind, FileStorage, Operation, Result};
use crate::selfie::{Backing, BackingFormat};

/// An image that another one is put over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// What the child records.
    pub backing: Backing,
}

impl Parent {
    /// Looks at the image `path`, with those below it, for an image at `child` that need not be there yet.
    ///
    /// The child will look for it in its own folder, or at its absolute path if it is not there.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for a format that nothing can be put over, or the image cannot be opened.
    pub fn find(path: &Path, format: Format, child: &Path) -> Result<Self> {
        let format = match format {
            Format::Raw => BackingFormat::Raw,
            Format::Selfie => BackingFormat::Selfie,
            Format::Qcow2 => {
                let why = "only raw and Selfie images can have others over them; convert it";
                return Err(Error::new(ErrorKind::Unsupported, Operation::Open).on(path).because(why));
            }
        };
        let spec = ImageSpec::new(path, format.into()).read_only().backing(BackingPolicy::Open);
        let identity = Image::open(&spec)?.identity()?;
        // The engine sees no more of it than its own disk has.
        let backing = Backing { path: name_for(path, child)?, format, identity, reach: identity.size };
        Ok(Self { backing })
    }

    /// Bytes of its disk.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.backing.identity.size
    }
}

/// What an image at `child` calls the file `path`.
fn name_for(path: &Path, child: &Path) -> Result<String> {
    let failed = |error| Error::from_io(Operation::Open, error).on(path);
    let path = fs::canonicalize(path).map_err(failed)?;
    let folder = match child.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let folder =
        fs::canonicalize(folder).map_err(|error| Error::from_io(Operation::Open, error).on(child))?;
    let name = path.strip_prefix(&folder).unwrap_or(&path);
    name.to_str().map(str::to_owned).ok_or_else(|| {
        Error::new(ErrorKind::Invalid, Operation::Open).on(&path).because("its path is no UTF-8")
    })
}

/// Says what lies below the image `path`, whatever the disk then is. With nothing below, what the image does not hold
/// reads as zeros.
///
/// # Errors
/// The image is in use or cannot be written.
pub fn reattach(path: &Path, parent: Option<&Parent>) -> Result<()> {
    let storage = FileStorage::open(file_options(&ImageSpec::new(path, Format::Selfie)))?;
    let named = |error: Error| if error.path().is_none() { error.on(path) } else { error };
    crate::selfie::rebase(&storage, parent.map(|parent| parent.backing.clone())).map_err(named)
}

/// Writes what the image `path` holds into its backing image, which grows if it is shorter. The disk over it stays
/// what it was; other images over that backing image are refused from then on.
///
/// If it is stopped in between, `path` still holds all of its part, and [`reattach`] makes it useful again.
///
/// # Errors
/// The image has no backing image, or not the one that it was made over; one of them is in use, or the medium failed.
pub fn commit(path: &Path, cache: Option<Cache>, work: Work<'_>) -> Result<Copied> {
    let spec = ImageSpec::new(path, Format::Selfie).read_only().backing(BackingPolicy::Leave);
    let child = Image::open(&ImageSpec { exclusive: true, cache, ..spec })?;
    let Some(recorded) = child.recorded_backing().cloned() else {
        let why = "it has no backing image";
        return Err(Error::new(ErrorKind::Backing, Operation::Open).on(path).because(why));
    };
    let below: PathBuf = beside(path, &recorded.path);
    let spec = ImageSpec::new(&below, recorded.format.into()).backing(BackingPolicy::Open);
    let spec = ImageSpec { cache, ..spec };
    let mut parent = Image::open(&spec)?;
    check_identity(path, &parent, &recorded.identity)?;
    if parent.size() < child.size() {
        parent.grow(child.size())?;
        parent = Image::open(&spec)?;
    }
    let pieces = Pieces::above(&child, child.size(), 1);
    let options = CopyOptions { granularity: parent.cluster_size(), zeroed: false };
    let copied = copy_pieces(&pieces, &child, &parent, options, work)?;
    parent.flush()?;
    parent.close()?;
    let parent = Parent::find(&below, recorded.format.into(), path)?;
    let backing = Backing { path: recorded.path, ..parent.backing };
    child.attach(Some(backing))?;
    Ok(copied)
}
