//! Which parts of a raw image hold data, as its file system tells.

use std::ops::Range;

use vmm_sys_util::seek_hole::SeekHole;

use super::RawFile;
use crate::block::{Error, ErrorKind, Operation, Result};

impl RawFile {
    /// The piece of the image that begins at byte `offset` and is all data, or all a hole, which reads as zeros.
    ///
    /// Returns whether it is data, and its range. Where the file system cannot tell, everything is data. The answer is
    /// of this moment: a write may fill the hole.
    ///
    /// # Errors
    /// `offset` is not on the device, or no descriptor is left.
    pub fn extent(&self, offset: u64) -> Result<(bool, Range<u64>)> {
        let size = self.geometry.size;
        if offset >= size {
            return Err(Error::new(ErrorKind::OutOfRange, Operation::Read)
                .at(offset, 0)
                .on(self.file.path()));
        }
        // Seeking moves the position of the open file, which nobody uses.
        let mut file = self.file.duplicate()?;
        let end = |found: std::io::Result<Option<u64>>| found.map(|end| end.unwrap_or(size).min(size));
        Ok(match end(file.seek_data(offset)) {
            Err(_) => (true, offset..size),
            Ok(data) if data > offset => (false, offset..data),
            // A hole that was punched since the last line begins right here: then the whole rest is called data.
            Ok(_) => match end(file.seek_hole(offset)) {
                Ok(hole) if hole > offset => (true, offset..hole),
                _ => (true, offset..size),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::super::RawOptions;
    use super::*;

    #[test]
    fn data_and_holes_alternate_and_end_with_the_image() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        file.as_file().write_all_at(&[1; 4096], 256 << 10).unwrap();
        file.as_file().write_all_at(&[1; 8192], 512 << 10).unwrap();
        let raw = RawFile::open(RawOptions::new(file.path())).unwrap();
        let (mut pieces, mut offset) = (Vec::new(), 0);
        while offset < 1 << 20 {
            let (data, range) = raw.extent(offset).unwrap();
            assert_eq!(range.start, offset);
            offset = range.end;
            pieces.push((data, range.end >> 10));
        }
        assert_eq!(pieces, [(false, 256), (true, 260), (false, 512), (true, 520), (false, 1024)]);
        assert_eq!(raw.extent(1 << 20).unwrap_err().kind(), ErrorKind::OutOfRange);
    }
}
