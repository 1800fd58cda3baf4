//! The plugin's parameters: what nbdkit found as `key=value` on its command line.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nbdkit::Result;
use sky_devices::block::Cache;
use sky_devices::image::{BackingPolicy, Format, ImageSpec};
use sky_devices::layers::{LayerKeys, StackSpec};

use crate::errors::{invalid, to_nbd};

/// What `nbdkit --help` says of the parameters.
pub(crate) const HELP: &str = "\
[file=]PATH                   (required) The image.
format=raw|selfie|qcow2       (required) Its format, which is never guessed. qcow2 needs readonly=true.
readonly=BOOL                 Refuse changes, and share the image with other readers.
backing=BOOL                  Open the backing images that it names.
direct=BOOL                   Bypass the host's page cache, or use it. Selfie images bypass it if not told.
layers=cache|dedup|cache+dedup  What is above the image.
cache=PATH                    The fast tier of the cache: a file or block device of its own.
cache-size=SIZE               Its size, if it is to be made.
cache-mode=through|back|around  What a write does.
cache-classes=PATH            Its classes, in a file as OpenCAS has them (ioclass.csv).
dedup-memory=SIZE             Memory for the index of a deduplicated disk.
grace=SECONDS                 How long clients may stay after a signal to end. nbdkit waits for them without.";

#[derive(Debug)]
struct Given {
    path: Option<PathBuf>,
    format: Option<Format>,
    read_only: bool,
    cache: Option<Cache>,
    backing: BackingPolicy,
    grace: Option<Duration>,
    layers: Option<LayerKeys>,
}

static GIVEN: Mutex<Given> = Mutex::new(Given {
    path: None,
    format: None,
    read_only: false,
    cache: None,
    backing: BackingPolicy::Refuse,
    grace: None,
    layers: None,
});

fn given() -> MutexGuard<'static, Given> {
    GIVEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes one parameter.
///
/// # Errors
/// It is unknown, or its value makes no sense.
pub(crate) fn set(key: &str, value: &str) -> Result<()> {
    let mut given = given();
    match (key, value) {
        // nbdkit changes its directory before the image is opened.
        ("file", path) => given.path = Some(std::path::absolute(Path::new(path))?),
        ("format", name) => given.format = Some(name.parse().map_err(|error| invalid(format!("{error}")))?),
        ("readonly", value) => given.read_only = nbdkit::parse_bool(value)?,
        ("backing", value) if nbdkit::parse_bool(value)? => given.backing = BackingPolicy::Open,
        ("backing", _) => given.backing = BackingPolicy::Refuse,
        ("direct", value) if nbdkit::parse_bool(value)? => given.cache = Some(Cache::Direct),
        ("direct", _) => given.cache = Some(Cache::Buffered),
        ("grace", seconds) => match seconds.parse() {
            Ok(seconds) => given.grace = Some(Duration::from_secs(seconds)),
            Err(_) => return Err(invalid(format!("grace={seconds}: not a number of seconds"))),
        },
        (key, value) => {
            let layers = given.layers.get_or_insert_default();
            if !layers.set(key, value).map_err(|error| invalid(error.to_string()))? {
                return Err(invalid(format!("there is no parameter {key}")));
            }
            *layers = std::mem::take(layers).absolute()?;
        }
    }
    Ok(())
}

/// Says what is missing, before nbdkit listens or forks.
///
/// # Errors
/// The image or its format was not named, or there is no such image.
pub(crate) fn check() -> Result<()> {
    if let Some(layers) = &given().layers {
        layers.check().map_err(|error| invalid(error.to_string()))?;
    }
    let StackSpec { image: ImageSpec { path, .. }, .. } = get()?;
    match std::fs::metadata(&path) {
        Ok(_) => Ok(()),
        Err(error) => Err(nbdkit::Error::new(libc::ENOENT, format!("{}: {error}", path.display()))),
    }
}

/// All parameters.
///
/// # Errors
/// One that is required is missing.
pub(crate) fn get() -> Result<StackSpec> {
    let given = given();
    let path = given.path.clone().ok_or_else(|| invalid("say which image to serve: file=PATH"))?;
    let format =
        given.format.ok_or_else(|| invalid("say which format the image has: format=raw or format=selfie"))?;
    let &Given { read_only, cache, backing, .. } = &*given;
    let image = ImageSpec { read_only, cache, backing, ..ImageSpec::new(path, format) };
    let layers = given.layers.clone().unwrap_or_default().build().map_err(to_nbd)?;
    Ok(StackSpec { image, layers })
}

/// How long clients may stay after a signal to end; as long as they like if nobody said.
pub(crate) fn grace() -> Option<Duration> {
    given().grace
}
