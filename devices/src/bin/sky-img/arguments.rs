//! Arguments that several commands have.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::thread::available_parallelism;

use clap::Args;
use sky_devices::block::{Cache, ErrorKind};
use sky_devices::image::{BackingPolicy, Format, Image, ImageSpec, Work};
use sky_devices::layers::LayerKeys;

use crate::failure::{Failure, Result};
use crate::progress::Progress;

/// Threads that are used where nobody says how many.
const THREADS: usize = 8;

/// The image that a command is about.
#[derive(Debug, Args)]
pub(crate) struct Source {
    /// Format of the image: raw, qcow2 (to be read only) or selfie
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) format: Option<Format>,
    /// Open the images that it names as its backing images, too
    #[arg(long)]
    pub(crate) with_backing: bool,
    /// Use the host's page cache
    #[arg(long)]
    pub(crate) buffered: bool,
}

impl Source {
    /// The format, which must be given.
    pub(crate) fn format(&self, path: &Path) -> Result<Format> {
        required(self.format, "-f", path)
    }

    pub(crate) fn spec(&self, path: &Path) -> Result<ImageSpec> {
        let mut spec = ImageSpec::new(path, self.format(path)?);
        if self.with_backing {
            spec.backing = BackingPolicy::Open;
        }
        if self.buffered {
            spec.cache = Some(Cache::Buffered);
        }
        Ok(spec)
    }

    /// Opens the image to be read only.
    pub(crate) fn open(&self, path: &Path) -> Result<Image> {
        open(&self.spec(path)?.read_only())
    }
}

/// Opens an image; the message of a failure knows the arguments of this program.
pub(crate) fn open(spec: &ImageSpec) -> Result<Image> {
    Image::open(spec).map_err(|error| match error.kind() {
        ErrorKind::Backing if spec.backing == BackingPolicy::Refuse => {
            Failure::Refused(format!("{error}; --with-backing opens it"))
        }
        _ => error.into(),
    })
}

/// A format that must be given by `option` for `path`.
pub(crate) fn required(format: Option<Format>, option: &str, path: &Path) -> Result<Format> {
    format.ok_or_else(|| {
        Failure::Usage(format!(
            "the format of {} must be given: {option} raw, {option} qcow2 or {option} selfie; it is not guessed from \
             the content, which a guest may have written",
            path.display()
        ))
    })
}

/// What is above an image.
#[derive(Debug, Args)]
pub(crate) struct LayerArgs {
    /// Layers above the image: cache, dedup, or cache+dedup
    #[arg(long, value_name = "LAYERS")]
    layers: Option<String>,
    /// File or block device of the cache's fast tier
    #[arg(long, value_name = "PATH")]
    cache: Option<String>,
    /// Size of the fast tier, if it is to be made
    #[arg(long, value_name = "SIZE")]
    cache_size: Option<String>,
    /// What a write does: through, back or around
    #[arg(long, value_name = "MODE")]
    cache_mode: Option<String>,
    /// Classes of the cache, in a file as OpenCAS has them (ioclass.csv)
    #[arg(long, value_name = "PATH")]
    cache_classes: Option<String>,
    /// Memory for the index of a deduplicated disk [default: 32M]
    #[arg(long, value_name = "SIZE")]
    dedup_memory: Option<String>,
}

impl LayerArgs {
    pub(crate) fn keys(&self) -> Result<LayerKeys> {
        let given = [
            ("layers", &self.layers),
            ("cache", &self.cache),
            ("cache-size", &self.cache_size),
            ("cache-mode", &self.cache_mode),
            ("cache-classes", &self.cache_classes),
            ("dedup-memory", &self.dedup_memory),
        ];
        let mut keys = LayerKeys::default();
        for (key, value) in given {
            if let Some(value) = value {
                keys.set(key, value).map_err(|error| Failure::Usage(error.to_string()))?;
            }
        }
        keys.check().map_err(|error| Failure::Usage(error.to_string()))?;
        Ok(keys)
    }
}

/// How long work is done.
#[derive(Debug, Args)]
pub(crate) struct Working {
    /// Threads that share the work [default: one per processor, at most 8]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
    /// Tell the progress even if standard error is no terminal
    #[arg(long)]
    pub(crate) progress: bool,
}

impl Working {
    /// Does `total` bytes of work that is called `what`.
    pub(crate) fn run<T, E>(
        &self,
        what: &str,
        total: u64,
        stop: &AtomicBool,
        work: impl FnOnce(Work<'_>) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let processors = || available_parallelism().map_or(1, NonZeroUsize::get).min(THREADS);
        let threads = self.threads.or_else(|| NonZeroUsize::new(processors())).unwrap_or(NonZeroUsize::MIN);
        let progress = Progress::new(what, total, self.progress);
        let result = work(Work { threads, stop, progress: &|bytes| progress.add(bytes) });
        progress.end();
        result
    }
}
