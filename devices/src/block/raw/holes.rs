//! Which parts of a raw image take space.

use std::os::fd::AsFd;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::RawFile;
use crate::block::{Error, Operation, Result};

impl RawFile {
    /// The first range at or behind `offset` that takes space, as its first byte and the byte behind its last;
    /// nothing if all the rest is a hole, which reads as zeros. Where the file system does not say, all takes space.
    ///
    /// # Errors
    /// The medium failed.
    pub fn next_data(&self, offset: u64) -> Result<Option<(u64, u64)>> {
        let size = self.geometry.size;
        if offset >= size {
            return Ok(None);
        }
        // Nothing here uses the position of the descriptor otherwise.
        let find = |from| match seek(self.file.as_fd(), from) {
            Ok(found) => Ok(Some(found.min(size))),
            Err(Errno::NXIO) => Ok(None),
            Err(error) => Err(error),
        };
        let failed = |error: Errno| {
            Error::from_io(Operation::Read, error.into()).at(offset, size - offset).on(&self.path)
        };
        let begin = match find(SeekFrom::Data(offset)) {
            Ok(Some(begin)) if begin < size => begin.max(offset),
            Ok(_) => return Ok(None),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((offset, size))),
            Err(error) => return Err(failed(error)),
        };
        let end = find(SeekFrom::Hole(begin)).map_err(failed)?.unwrap_or(size);
        Ok(Some((begin, end.max(begin + 1))))
    }
}
