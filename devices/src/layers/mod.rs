//! A disk as a guest gets it: an image, and layers above it.
//!
//! ```text
//!   guest ──▶ iCache ──▶ iDedup ──▶ image (raw, Selfie)
//!                │          └─ the image holds what iDedup makes of the disk
//!                └─ fast tier: a file or block device of its own
//! ```
//!
//! The order is fixed. The cache is on top: what it has answers without a look into the map of iDedup, and classes are
//! known of the guest's blocks, not of those that iDedup stores. Selfie is at the bottom, because what makes its writes
//! cheap is that it alone decides where they go.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::block::{BlockDevice, Error, ErrorKind, FileStorage, Geometry, Operation, Result, StorageCounts};
use crate::icache::{self, DiskState, ICache};
use crate::idedup::{self, Idedup};
use crate::image::{Format, Image, ImageSpec, Located, modified};
use crate::io_class::IoTag;
use crate::selfie::Identity;

mod create;
mod fast;
mod options;
mod stats;
mod tending;
mod under;

pub use create::{NewDedup, create_dedup};
pub use options::{CacheSpec, LayerError, LayerKeys, Layers};
pub use stats::{CacheClass, CacheStats, DedupStats, LayerStats};
use tending::Tending;
pub use under::DeviceStorage;

/// Which disk to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackSpec {
    /// The image at the bottom.
    pub image: ImageSpec,
    /// What is above it.
    pub layers: Layers,
}

/// An open disk with its layers.
pub struct Stack {
    image: Arc<Image>,
    dedup: Option<Arc<Idedup>>,
    cache: Option<Cache>,
}

struct Cache {
    /// Ends before the cache does.
    tending: Tending,
    cache: Arc<ICache>,
    fast: Arc<FileStorage>,
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack")
            .field("image", &self.image.path())
            .field("dedup", &self.dedup.is_some())
            .field("cache", &self.cache.is_some())
            .finish()
    }
}

impl Stack {
    /// Opens and locks the image and the fast tier. A fast tier that is not there is made, if its size is given.
    ///
    /// # Errors
    /// As [`Image::open`], [`Idedup::open`] and [`ICache::open`]; [`ErrorKind::Invalid`] for a fast tier that has another
    /// size than it should.
    pub fn open(spec: &StackSpec) -> Result<Self> {
        let image = Arc::new(Image::open(&spec.image)?);
        // Before anybody writes to it.
        let state = state_of(&image)?;
        let on = |path: &Path, error: Error| if error.path().is_none() { error.on(path) } else { error };
        let dedup = match spec.layers.dedup {
            None => None,
            Some(options) => {
                let storage = Arc::new(DeviceStorage(Arc::clone(&image)));
                let options = idedup::OpenOptions { read_only: spec.image.read_only, ..options };
                let opened = Idedup::open(storage, options).map_err(|error| match error.kind() {
                    ErrorKind::NotThisFormat => error.because(NOT_DEDUP),
                    _ => error,
                });
                Some(Arc::new(opened.map_err(|error| on(&spec.image.path, error))?))
            }
        };
        let mut stack = Self { image, dedup, cache: None };
        if let Some(cache) = &spec.layers.cache {
            let slow = stack.top();
            let fast = Arc::new(fast::open(cache, slow.geometry().size)?);
            let options = icache::OpenOptions { disk: Some(state), ..cache.options.clone() };
            let opened = ICache::open(Arc::clone(&fast) as _, slow, options);
            let opened = opened.map_err(|error| on(&cache.path, error))?;
            let opened = Arc::new(opened);
            stack.cache = Some(Cache { tending: Tending::start(Arc::clone(&opened)), cache: opened, fast });
        }
        Ok(stack)
    }

    /// The topmost layer, or the image.
    fn top(&self) -> Arc<dyn BlockDevice> {
        match (&self.cache, &self.dedup) {
            (Some(cache), _) => Arc::clone(&cache.cache) as _,
            (None, Some(dedup)) => Arc::clone(dedup) as _,
            (None, None) => Arc::clone(&self.image) as _,
        }
    }

    fn device(&self) -> &dyn BlockDevice {
        match (&self.cache, &self.dedup) {
            (Some(cache), _) => &*cache.cache,
            (None, Some(dedup)) => &**dedup,
            (None, None) => &*self.image,
        }
    }

    /// The image at the bottom.
    #[must_use]
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// The cache, if there is one.
    #[must_use]
    pub fn cache(&self) -> Option<&ICache> {
        self.cache.as_ref().map(|cache| &*cache.cache)
    }

    /// The deduplication, if there is one.
    #[must_use]
    pub fn dedup(&self) -> Option<&Idedup> {
        self.dedup.as_deref()
    }

    /// Bytes of the disk.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.geometry().size
    }

    /// Where `length` bytes from byte `offset` of the disk are; what is above an image does not say, so all of it
    /// counts as data then.
    ///
    /// # Errors
    /// As [`Image::locate`].
    pub fn locate(&self, offset: u64, length: u64) -> Result<Vec<Located>> {
        if self.cache.is_none() && self.dedup.is_none() {
            return self.image.locate(offset, length);
        }
        Ok(vec![Located { offset, length, depth: 0, zero: false }])
    }

    /// What the file of the image was asked to do.
    #[must_use]
    pub fn counts(&self) -> StorageCounts {
        self.image.counts()
    }

    /// What the layers have done.
    #[must_use]
    pub fn stats(&self) -> LayerStats {
        LayerStats::of(self.dedup(), self.cache())
    }

    /// Brings everything to the medium and leaves every layer as one that nobody uses, from the top down, whatever
    /// becomes of each.
    ///
    /// # Errors
    /// The first that was met. What could not be closed is recovered when it is opened next.
    pub fn close(self) -> Result<()> {
        let Self { image, dedup, cache } = self;
        let path = image.path().to_owned();
        let used = || Error::new(ErrorKind::Locked, Operation::Flush).on(&path).because("it is still in use");
        let raw = image.format() == Format::Raw;
        let parts = |Cache { tending, cache, fast }| {
            drop(tending);
            (cache, fast)
        };
        let (cache, fast) = cache.map(parts).unzip();
        let cache = cache.map(|cache| Arc::into_inner(cache).ok_or_else(used).and_then(ICache::close));
        let dedup = dedup.map(|dedup| Arc::into_inner(dedup).ok_or_else(used).and_then(Idedup::close));
        let image = Arc::into_inner(image).ok_or_else(used).and_then(Image::close);
        cache.unwrap_or(Ok(())).and(dedup.unwrap_or(Ok(()))).and(image)?;
        match fast {
            // What was written last has set the time of modification.
            Some(fast) if raw => icache::seal(&*fast, modified(&path)?),
            _ => Ok(()),
        }
    }
}

/// What a cache is told of the disk before which it is put.
fn state_of(image: &Image) -> Result<DiskState> {
    let Identity { uuid, content, .. } = image.identity()?;
    // Opening a Selfie image for writing counts; a raw image has its number when it is closed.
    let now = match image.format() {
        Format::Selfie if !image.geometry().read_only => content + 1,
        Format::Raw if !image.geometry().read_only => 0,
        _ => content,
    };
    Ok(DiskState { id: uuid, before: content, now })
}

const NOT_DEDUP: &str = "it holds no deduplicated disk; `sky-img create --dedup` makes one";

impl BlockDevice for Stack {
    fn geometry(&self) -> Geometry {
        self.device().geometry()
    }

    fn read(&self, offset: u64, buffer: &mut [u8], tags: &[IoTag]) -> Result<()> {
        self.device().read(offset, buffer, tags)
    }

    fn write(&self, offset: u64, data: &[u8], tags: &[IoTag]) -> Result<()> {
        self.device().write(offset, data, tags)
    }

    fn flush(&self) -> Result<()> {
        self.device().flush()
    }

    fn discard(&self, offset: u64, length: u64) -> Result<()> {
        self.device().discard(offset, length)
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> Result<()> {
        self.device().write_zeroes(offset, length, unmap)
    }
}

#[cfg(test)]
mod tests;
