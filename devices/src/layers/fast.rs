//! The fast tier of a cache: opened, or made where nothing is yet.

use std::fs::File;
use std::io;
use std::path::Path;

use super::CacheSpec;
use crate::block::{Error, ErrorKind, FileOptions, FileStorage, Operation, Result, Storage};
use crate::icache;

/// What a cache is made of: a rest of its size is not used.
const PAGE: u64 = 4096;

/// Opens and locks the fast tier for a disk of `slow` bytes. A file that is not there is made, if its size is given; what
/// is there is never overwritten.
pub(super) fn open(spec: &CacheSpec, slow: u64) -> Result<FileStorage> {
    let storage = match FileStorage::open(FileOptions::new(&spec.path)) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let Some(size) = spec.size else {
                return Err(error.because("`cache-size` makes one"));
            };
            create(&spec.path, size, slow)?;
            FileStorage::open(FileOptions::new(&spec.path))?
        }
        opened => opened?,
    };
    let Some(size) = spec.size else { return Ok(storage) };
    // One that was made smaller need not fill its file.
    let used = icache::size_of(&storage).map_err(|error| error.on(&spec.path))?;
    if size == storage.size() || size / PAGE == used / PAGE {
        return Ok(storage);
    }
    let why = format!("it has {used} bytes, not {size}; without `cache-size` it is taken as it is");
    Err(Error::new(ErrorKind::Invalid, Operation::Open).on(&spec.path).because(why))
}

/// Makes a cache in a new file, which gets its name when it is complete.
fn create(path: &Path, size: u64, slow: u64) -> Result<()> {
    let failed = |error: io::Error| Error::from_io(Operation::Create, error).on(path);
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file =
        tempfile::Builder::new().prefix(".icache.").suffix(".partial").tempfile_in(folder).map_err(failed)?;
    file.as_file().set_len(size).map_err(failed)?;
    let partial = file.into_temp_path();
    let storage = FileStorage::open(FileOptions::new(&partial))?;
    icache::create(&storage, slow).map_err(|error| error.on(path))?;
    drop(storage);
    partial.persist_noclobber(path).map_err(|error| failed(error.error))?;
    // The name itself is durable when its folder is.
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}
