//! How much of a file takes space, as its file system tells.

use vmm_sys_util::seek_hole::SeekHole;

use super::FileStorage;
use crate::block::range::check_range;
use crate::block::{Operation, Result, Storage};

impl FileStorage {
    /// Bytes of a range that are no hole. Nothing for a block device, which has none.
    ///
    /// Where the file system does not tell holes from data, all of it counts.
    pub(super) fn data_in(&self, offset: u64, length: u64) -> Result<Option<u64>> {
        check_range(Operation::Read, self.size(), offset, length).map_err(|error| error.on(&self.path))?;
        let failed = |error| self.failed(Operation::Read, offset, length, error);
        if !self.file.metadata().map_err(failed)?.is_file() {
            return Ok(None);
        }
        // Seeking moves the position of the open file, which nobody uses.
        let mut file = self.duplicate()?;
        let (mut position, end, mut bytes) = (offset, offset + length, 0);
        while position < end {
            // Behind the last of its data a file has nothing, and data ends where the file does at the latest.
            let Some(data) = file.seek_data(position).map_err(failed)?.filter(|&data| data < end) else {
                break;
            };
            let hole = file.seek_hole(data).map_err(failed)?.unwrap_or(end).min(end);
            bytes += hole.saturating_sub(data);
            // A hole that was made since the last line begins right there.
            position = hole.max(data + 1);
        }
        Ok(Some(bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::super::FileOptions;
    use super::*;
    use crate::block::ErrorKind;

    #[test]
    fn holes_are_not_counted_and_zeros_that_were_written_are() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        file.as_file().write_all_at(&[1; 4096], 256 << 10).unwrap();
        file.as_file().write_all_at(&[0; 65536], 512 << 10).unwrap();
        let storage = FileStorage::open(FileOptions::new(file.path())).unwrap();
        let counted = |offset, length| storage.allocated(offset, length).unwrap();
        assert_eq!(counted(0, 1 << 20), Some(4096 + 65536));
        assert_eq!(counted(0, 256 << 10), Some(0));
        assert_eq!(counted((512 << 10) + 4096, 65536), Some(65536 - 4096));
        assert_eq!(counted(768 << 10, 256 << 10), Some(0), "the hole at the end");
        assert!(storage.punch(512 << 10, 8192).unwrap());
        assert_eq!(counted(0, 1 << 20), Some(4096 + 65536 - 8192));
        let beyond = storage.allocated(1 << 20, 1).unwrap_err();
        assert_eq!(beyond.kind(), ErrorKind::OutOfRange);
    }
}
