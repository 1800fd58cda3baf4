//! The plugin's parameters: what nbdkit found as `key=value` on its command line.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nbdkit::Result;

use crate::errors::invalid;

/// What `nbdkit --help` says of the parameters.
pub(crate) const HELP: &str = "\
[file=]PATH                  (required) The image.
format=raw|selfie            (required) Its format, which is never guessed.
readonly=BOOL                Refuse changes, and share the image with other readers.
cache=direct|buffered        Bypass the host's page cache, or use it. Default: direct for selfie, buffered for raw.";

/// How the image's bytes are read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// The image's bytes are the disk's.
    Raw,
    /// Selfie.
    Selfie,
}

/// Which image to serve, and how.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) path: PathBuf,
    pub(crate) format: Format,
    pub(crate) read_only: bool,
    /// What was asked for; each format has its own default.
    pub(crate) direct: Option<bool>,
}

#[derive(Debug)]
struct Given {
    path: Option<PathBuf>,
    format: Option<Format>,
    read_only: bool,
    direct: Option<bool>,
}

static GIVEN: Mutex<Given> = Mutex::new(Given { path: None, format: None, read_only: false, direct: None });

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
        ("format", "raw") => given.format = Some(Format::Raw),
        ("format", "selfie") => given.format = Some(Format::Selfie),
        ("readonly", value) => given.read_only = nbdkit::parse_bool(value)?,
        ("cache", "direct") => given.direct = Some(true),
        ("cache", "buffered") => given.direct = Some(false),
        ("format", other) => return Err(invalid(format!("format={other}: only raw and selfie can be served"))),
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
    let settings = get()?;
    std::fs::metadata(&settings.path)
        .map(|_| ())
        .map_err(|error| nbdkit::Error::new(libc::ENOENT, format!("{}: {error}", settings.path.display())))
}

/// All parameters.
///
/// # Errors
/// One that is required is missing.
pub(crate) fn get() -> Result<Settings> {
    let given = given();
    let path = given.path.clone().ok_or_else(|| invalid("say which image to serve: file=PATH"))?;
    let format = given.format.ok_or_else(|| {
        invalid("say which format the image has, format=raw or format=selfie: it is never guessed")
    })?;
    Ok(Settings { path, format, read_only: given.read_only, direct: given.direct })
}
