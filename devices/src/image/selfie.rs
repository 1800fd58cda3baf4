//! Selfie images as one of the formats: their file, their engine, and what they were made over.

use std::path::Path;
use std::sync::Arc;

use super::Format;
use super::chain::{Chain, Closed};
use super::open::{BackingPolicy, Image, ImageSpec};
use crate::block::{BlockDevice, Cache, Error, ErrorKind, FileOptions, FileStorage, Operation, Result};
use crate::selfie::{
    Backing, BackingFormat, Extent, ExtentKind, Identity, OpenOptions, Selfie, Superblock, superblock,
};

use super::extent::Extents;

/// An open Selfie image with its file.
#[derive(Debug)]
pub(super) struct SelfieDisk {
    pub(super) selfie: Selfie,
    pub(super) storage: Arc<FileStorage>,
    /// As it was before the image was opened.
    pub(super) superblock: Superblock,
}

impl SelfieDisk {
    /// Opens the image, and what is below it as the specification says.
    pub(super) fn open(spec: &ImageSpec, chain: &mut Chain) -> Result<(Self, Option<Arc<Image>>)> {
        let named = |error: Error| if error.path().is_none() { error.on(&spec.path) } else { error };
        let storage = Arc::new(FileStorage::open(file_options(spec))?);
        let superblock = superblock(&*storage).map_err(named)?;
        let (below, backing) = match &superblock.backing {
            None => (None, None),
            Some(recorded) => open_below(spec, recorded, chain)?,
        };
        let options = OpenOptions {
            read_only: spec.read_only,
            background: !spec.read_only,
            tolerant: spec.tolerant,
            ..OpenOptions::default()
        };
        let selfie = Selfie::open(Arc::clone(&storage) as _, options, below).map_err(named)?;
        Ok((Self { selfie, storage, superblock }, backing))
    }

    /// What the image says of a range of its disk.
    pub(super) fn map(&self, offset: u64, length: u64) -> Vec<Extent> {
        let reach = self.superblock.backing.as_ref().map_or(0, |backing| backing.reach);
        let mut extents = Extents::default();
        for Extent { offset, length, kind } in self.selfie.map(offset, length) {
            // What the disk has grown by since is zeros, not what the backing image may hold there.
            let below =
                if kind == ExtentKind::Backing { reach.saturating_sub(offset).min(length) } else { length };
            extents.push(offset, below, kind);
            extents.push(offset.saturating_add(below), length - below, ExtentKind::Zero);
        }
        extents.into_vec()
    }

    /// Makes the disk larger, and closes the image.
    pub(super) fn grow(self, size: u64, path: &Path) -> Result<()> {
        self.selfie.resize(size).map_err(|error| error.on(path))?;
        self.selfie.close()
    }
}

pub(super) fn file_options(spec: &ImageSpec) -> FileOptions {
    let read_only = spec.read_only && !spec.exclusive;
    let cache = spec.cache.unwrap_or(Cache::Direct);
    FileOptions { read_only, cache, ..FileOptions::new(&spec.path) }
}

type Below = (Option<Arc<dyn BlockDevice>>, Option<Arc<Image>>);

fn open_below(spec: &ImageSpec, recorded: &Backing, chain: &mut Chain) -> Result<Below> {
    let Backing { path, format, identity, reach } = recorded;
    match spec.backing {
        BackingPolicy::Refuse => {
            let why = format!("it names {path:?}, and nobody asked to open it");
            Err(Error::new(ErrorKind::Backing, Operation::Open).on(&spec.path).because(why))
        }
        BackingPolicy::Leave => Ok((Some(Arc::new(Closed { size: *reach, child: spec.path.clone() })), None)),
        BackingPolicy::Open => {
            let image = chain.open_below(&spec.path, path, (*format).into(), spec.cache)?;
            check_identity(&spec.path, &image, identity)?;
            Ok((Some(Arc::clone(&image) as _), Some(image)))
        }
    }
}

/// Refuses an image that is not what `child` was made over.
pub(super) fn check_identity(child: &Path, image: &Image, expected: &Identity) -> Result<()> {
    let found = image.identity()?;
    let changed = if found.uuid != expected.uuid {
        "it is another image"
    } else if found.size != expected.size {
        "its size has changed"
    } else if found.content != expected.content {
        "it has been written"
    } else {
        return Ok(());
    };
    let why = format!(
        "{changed} since {} was put over it; if it is the right one all the same, `sky-img rebase --unsafe` says so",
        child.display()
    );
    Err(Error::new(ErrorKind::Backing, Operation::Open).on(image.path()).because(why))
}

impl From<BackingFormat> for Format {
    fn from(format: BackingFormat) -> Self {
        match format {
            BackingFormat::Raw => Self::Raw,
            BackingFormat::Selfie => Self::Selfie,
        }
    }
}
