//! Things that are made once and kept: several test processes may ask for the same one at the same time.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// An advisory lock on a file, held until dropped. The kernel releases it when the holder dies.
#[derive(Debug)]
pub struct FileLock(File);

impl FileLock {
    /// Waits for the lock on `path`, creating the file if need be.
    pub fn wait(path: &Path) -> Result<FileLock> {
        let file = open_lock(path)?;
        file.lock().map_err(Error::file("lock", path))?;
        Ok(FileLock(file))
    }

    /// Takes the lock if nobody holds it.
    pub fn try_take(path: &Path) -> Result<Option<FileLock>> {
        let file = open_lock(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(FileLock(file))),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(source)) => Err(Error::file("lock", path)(source)),
        }
    }

    /// The locked file, for handing the lock on to a child process.
    pub fn into_file(self) -> File {
        self.0
    }
}

fn open_lock(path: &Path) -> Result<File> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(Error::file("create", parent))?;
    }
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .read(true)
        .open(path)
        .map_err(Error::file("open", path))
}

/// Returns `path`, made by `make` unless it is there already.
///
/// `make` is given a path beside it to fill, as a file or a directory. Only the finished thing is renamed into
/// place, so that what exists is complete.
pub fn once(path: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    if path.exists() {
        return Ok(path.to_path_buf());
    }
    let _lock = FileLock::wait(&beside(path, ".lock"))?;
    if path.exists() {
        return Ok(path.to_path_buf());
    }
    let partial = beside(path, ".partial");
    remove(&partial)?;
    make(&partial)?;
    fs::rename(&partial, path).map_err(Error::file("complete", path))?;
    Ok(path.to_path_buf())
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(suffix);
    path.with_file_name(name)
}

fn remove(path: &Path) -> Result<()> {
    let result = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match result {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::file("remove", path)(source))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn racing_makers_make_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("thing");
        let made = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let got = once(&path, |partial| {
                        made.fetch_add(1, Ordering::SeqCst);
                        fs::write(partial, "done").map_err(Error::file("write", partial))
                    });
                    assert_eq!(fs::read(got.unwrap()).unwrap(), b"done");
                });
            }
        });
        assert_eq!(made.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_failed_attempt_leaves_nothing_and_the_next_starts_clean() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("thing");
        let failed = once(&path, |partial| {
            fs::create_dir(partial).map_err(Error::file("create", partial))?;
            Err(Error::Missing("not today".into()))
        });
        assert!(failed.is_err());
        assert!(!path.exists());
        once(&path, |partial| fs::create_dir(partial).map_err(Error::file("create", partial))).unwrap();
        assert!(path.is_dir());
    }

    #[test]
    fn a_lock_excludes_and_is_released() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = FileLock::wait(&path).unwrap();
        assert!(FileLock::try_take(&path).unwrap().is_none());
        drop(held);
        assert!(FileLock::try_take(&path).unwrap().is_some());
    }
}
