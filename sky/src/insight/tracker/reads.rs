//! Reads: which blocks of which file a process was given.

use std::sync::Arc;

use sky_devices::io_class::BLOCK_SIZE;

use super::blocks::{BLOCK, partial_blocks, whole_blocks};
use super::transfer::{Buffers, Place, Supply, Transfer};
use super::{Guest, Inner, O_DIRECT};
use crate::guest::OpenFile;
use crate::insight::{FileId, Origin};

/// A read on its way, from entry to return.
#[derive(Clone, Debug)]
pub(super) struct ReadNote {
    file: FileId,
    open: OpenFile,
    /// Where in the file it begins, in bytes.
    offset: u64,
    buffers: Buffers,
    origin: Arc<Origin>,
}

impl ReadNote {
    /// The result of a read that is given all that is asked for, as far as the file goes.
    pub(super) fn whole(&self) -> i64 {
        let there = self.open.size.saturating_sub(self.offset);
        i64::try_from(self.buffers.length().min(there)).unwrap_or(i64::MAX)
    }
}

impl Inner {
    /// A thread is about to read.
    pub(super) fn read_entered(
        &mut self,
        guest: Guest<'_>,
        transfer: Transfer,
        origin: Origin,
    ) -> Option<ReadNote> {
        let file = self.regular_file(guest, transfer.fd)?;
        let Supply::Memory(buffers) = transfer.from else { return None };
        let offset = match transfer.place {
            Place::Offset(offset) => offset,
            Place::Position => file.position,
        };
        let origin = Arc::new(Origin { direct: file.flags & O_DIRECT != 0, ..origin });
        Some(ReadNote { file: self.file(guest, &file)?, open: file, offset, buffers, origin })
    }

    /// The call returned `result`. Whole blocks are in the process's memory, parts of blocks in the page cache.
    pub(super) fn read_returned(&mut self, guest: Guest<'_>, note: &ReadNote, result: i64) {
        let Ok(done) = u64::try_from(result) else { return };
        let done = done.min(note.buffers.length());
        self.index.read(note.file, note.open.size);
        self.learn_pages(guest, &note.open, note.offset);
        let mut content = [0; BLOCK_SIZE];
        for block in whole_blocks(note.offset, done) {
            if note.buffers.copy(guest.view, block - note.offset, &mut content) {
                self.index.read_block(note.file, block, &content, &note.origin);
            }
        }
        for block in partial_blocks(note.offset, done) {
            // A program that reads byte by byte need not be followed at each of them.
            let last = note.offset.saturating_add(done);
            let begins = note.offset <= block;
            let ends = last >= block.saturating_add(BLOCK).min(note.open.size);
            if (begins || ends)
                && let Some(content) = guest.cached(&note.open, block)
            {
                self.index.read_block(note.file, block, &content, &note.origin);
            }
        }
    }
}
