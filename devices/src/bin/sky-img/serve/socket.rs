//! Sockets in the file system: what a server that was killed leaves behind, and what we leave.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::Error;

/// The name of a socket, which goes when this does.
#[derive(Debug)]
pub(super) struct SocketName(PathBuf);

impl SocketName {
    /// Takes the name for a server that is about to listen there. What a dead server left is removed.
    ///
    /// # Errors
    /// A server listens there, or something else has that name.
    pub(super) fn claim(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Io { operation: path.display().to_string(), source };
        // nbdkit may change its directory.
        let absolute = std::path::absolute(path).map_err(failed)?;
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self(absolute)),
            Err(error) => return Err(failed(error)),
            Ok(metadata) if !metadata.file_type().is_socket() => return Err(Error::NotASocket(path.into())),
            Ok(_) => {}
        }
        match UnixStream::connect(path) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                fs::remove_file(path).map_err(failed)?;
                Ok(Self(absolute))
            }
            Err(error) => Err(failed(error)),
            Ok(_) => Err(Error::InUse(path.into())),
        }
    }

    /// The absolute path.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for SocketName {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0)
            && error.kind() != ErrorKind::NotFound
        {
            eprintln!("sky-img: {} stays behind: {error}", self.0.display());
        }
    }
}
