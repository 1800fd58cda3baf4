//! The plugin's parameters: what nbdkit found as `key=value` on its command line.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nbdkit::Result;
use sky_devices::block::Cache;
use sky_devices::image::{BackingPolicy, Format, ImageSpec};

use crate::errors::invalid;

/// What `nbdkit --help` says of the parameters.
pub(crate) const HELP: &str = "\
[file=]PATH                   (required) The image.
format=raw|selfie|qcow2       (required) Its format, which is never guessed. qcow2 needs readonly=true.
readonly=BOOL                 Refuse changes, and share the image with other readers.
backing=BOOL                  Open the backing images that it names.
cache=direct|buffered         Bypass the host's page cache, or use it. Selfie images bypass it if not told.
grace=SECONDS                 How long clients may stay after a signal to end. nbdkit waits for them without.";

#[derive(Debug)]
struct Given {
    path: Option<PathBuf>,
    format: Option<Format>,
    read_only: bool,
    cache: Option<Cache>,
    backing: BackingPolicy,
    grace: Option<Duration>,
}

static GIVEN: Mutex<Given> = Mutex::new(Given {
    path: None,
    format: None,
    read_only: false,
    cache: None,
    backing: BackingPolicy::Refuse,
    grace: None,
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
        ("cache", "direct") => given.cache = Some(Cache::Direct),
        ("cache", "buffered") => given.cache = Some(Cache::Buffered),
        ("grace", seconds) => match seconds.parse() {
            Ok(seconds) => given.grace = Some(Duration::from_secs(seconds)),
            Err(_) => return Err(invalid(format!("grace={seconds}: not a number of seconds"))),
        },
        ("cache", other) => return Err(invalid(format!("cache={other}: neither direct nor buffered"))),
        (other, _) => return Err(invalid(format!("there is no parameter {other}"))),
    }
    Ok(())
}

/// Says what is missing, before nbdkit listens or forks.
///
/// # Errors
/// The image or its format was not named, or there is no such image.
pub(crate) fn check() -> Result<()> {
    let ImageSpec { path, .. } = get()?;
    match std::fs::metadata(&path) {
        Ok(_) => Ok(()),
        Err(error) => Err(nbdkit::Error::new(libc::ENOENT, format!("{}: {error}", path.display()))),
    }
}

/// All parameters.
///
/// # Errors
/// One that is required is missing.
pub(crate) fn get() -> Result<ImageSpec> {
    let given = given();
    let path = given.path.clone().ok_or_else(|| invalid("say which image to serve: file=PATH"))?;
    let format =
        given.format.ok_or_else(|| invalid("say which format the image has: format=raw or format=selfie"))?;
    let &Given { read_only, cache, backing, .. } = &*given;
    Ok(ImageSpec { read_only, cache, backing, ..ImageSpec::new(path, format) })
}

/// How long clients may stay after a signal to end; as long as they like if nobody said.
pub(crate) fn grace() -> Option<Duration> {
    given().grace
}
