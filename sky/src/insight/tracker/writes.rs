//! Writes: which blocks of which file will be what.

use std::sync::Arc;

use sky_devices::io_class::{BLOCK_SIZE, Source};

use super::blocks::{BLOCK, partial_blocks, whole_blocks};
use super::transfer::{Buffers, Place, Supply, Transfer};
use super::{Guest, Inner, O_DIRECT, SharingCall};
use crate::guest::OpenFile;
use crate::insight::{BlockIndex, FileId, Origin, Prior, Sharing};

const O_APPEND: u32 = 0o2000;
/// `O_SYNC` has this bit, too.
const O_DSYNC: u32 = 0o10000;
/// Blocks that are remembered of one write on its way, of each kind.
const MAX_NOTED: usize = 1 << 10;

/// A write on its way, from entry to return.
#[derive(Clone, Debug)]
pub(super) struct WriteNote {
    file: FileId,
    open: OpenFile,
    /// Where in the file it begins, in bytes.
    offset: u64,
    count: u64,
    /// None when the kernel takes the bytes from another descriptor.
    buffers: Option<Buffers>,
    /// Blocks that were fingerprinted at entry, and what they were expected to be before.
    early: Vec<(u64, Option<Prior>)>,
    /// Whole blocks whose user pages were absent at entry; the kernel brings them in as it copies.
    absent: Vec<u64>,
    origin: Arc<Origin>,
    /// What it writes is on the disk when it returns.
    through: bool,
    call: Arc<SharingCall>,
}

impl WriteNote {
    fn expect(&mut self, index: &BlockIndex, block: u64, content: &[u8]) {
        let prior = index.wrote_block(self.file, block, content, &self.origin);
        if self.early.len() < MAX_NOTED {
            self.early.push((block, prior));
        }
    }

    /// Who wrote a block, and what it is a copy of.
    fn origin_of(&self, block: u64) -> Arc<Origin> {
        match (&self.origin.copied_from, block.checked_sub(self.offset)) {
            (Some(source), Some(inside)) => {
                let offset = source.offset.saturating_add(inside);
                let copied_from = Some(Source { offset, ..source.clone() });
                Arc::new(Origin { copied_from, ..Origin::clone(&self.origin) })
            }
            _ => Arc::clone(&self.origin),
        }
    }

    /// The result of a write that does all that is asked for.
    pub(super) fn whole(&self) -> i64 {
        i64::try_from(self.count).unwrap_or(i64::MAX)
    }

    /// Where the bytes end that are to be written.
    fn end(&self) -> u64 {
        self.offset.saturating_add(self.count)
    }
}

impl Inner {
    /// A thread is about to write.
    pub(super) fn write_entered(
        &mut self,
        guest: Guest<'_>,
        transfer: Transfer,
        origin: Origin,
    ) -> Option<WriteNote> {
        let file = self.regular_file(guest, transfer.fd)?;
        // With O_APPEND pwrite64 appends, too: BUGS in its manual page.
        let append = transfer.append.unwrap_or(file.flags & O_APPEND != 0);
        let offset = match transfer.place {
            _ if append => file.size,
            Place::Offset(offset) => offset,
            Place::Position => file.position,
        };
        let direct = file.flags & O_DIRECT != 0;
        let count = transfer.count();
        let (buffers, copied_from) = match transfer.from {
            Supply::Memory(buffers) => (Some(buffers), None),
            Supply::Descriptor { fd, place, .. } => (None, source(guest, fd, place)),
        };
        let sync = transfer.sync || file.flags & O_DSYNC != 0;
        let origin = Arc::new(Origin { direct, copied_from, ..origin });
        let id = self.file(guest, &file)?;
        // Whenever the kernel writes the pages back. Besides, a file system that is mounted so writes all of them through.
        let range = offset - offset % BLOCK..offset.saturating_add(count);
        let sharing = Sharing { file: id, range, origin: Arc::clone(&origin) };
        let mut note = WriteNote {
            file: id,
            offset,
            count,
            buffers,
            early: Vec::new(),
            absent: Vec::new(),
            origin,
            through: sync || direct,
            call: self.sharing(vec![sharing]),
            open: file,
        };
        self.whole_blocks(guest, &mut note);
        if transfer.sync || (sync && !direct) {
            self.merged_blocks(guest, &mut note);
        }
        Some(note)
    }

    /// Fingerprints what the process's memory says by itself: with O_SYNC or O_DIRECT blocks reach the disk before the
    /// call returns.
    fn whole_blocks(&mut self, guest: Guest<'_>, note: &mut WriteNote) {
        let Some(buffers) = note.buffers.take() else { return };
        let mut content = [0; BLOCK_SIZE];
        for block in whole_blocks(note.offset, note.count) {
            if buffers.copy(guest.view, block - note.offset, &mut content) {
                note.expect(&self.index, block, &content);
            } else if note.absent.len() < MAX_NOTED {
                note.absent.push(block);
            } else {
                self.counts.absent_blocks += 1;
            }
        }
        note.buffers = Some(buffers);
    }

    /// Puts together what partly written blocks will be: what the page cache has of them, or zeros beyond the end of the
    /// file, and over it what is written.
    fn merged_blocks(&mut self, guest: Guest<'_>, note: &mut WriteNote) {
        let Some(buffers) = note.buffers.take() else { return };
        let end = note.end();
        for block in partial_blocks(note.offset, note.count) {
            let draft = self.drafts.as_ref().and_then(|drafts| drafts.get(&(note.file, block)).copied());
            let before = match draft.or_else(|| guest.cached(&note.open, block)) {
                None if block >= note.open.size => Some([0; BLOCK_SIZE]),
                before => before,
            };
            let Some(mut content) = before else { continue };
            let (from, to) = (note.offset.max(block), end.min(block.saturating_add(BLOCK)));
            let range = usize::try_from(from - block).ok().zip(usize::try_from(to - block).ok());
            let Some(part) = range.and_then(|(from, to)| content.get_mut(from..to)) else { continue };
            if buffers.copy(guest.view, from - note.offset, part) {
                note.expect(&self.index, block, &content);
                if let Some(drafts) = &mut self.drafts {
                    drafts.insert((note.file, block), content);
                }
            }
        }
        note.buffers = Some(buffers);
    }

    /// The call returned `result`.
    pub(super) fn write_returned(&mut self, guest: Guest<'_>, note: &WriteNote, result: i64) {
        let done = u64::try_from(result).unwrap_or(0).min(note.count);
        let end = note.offset.saturating_add(done);
        // What the write fell short of.
        let short = |block: u64| block.saturating_add(BLOCK).min(note.end()) > end;
        for (block, prior) in note.early.iter().filter(|(block, _)| short(*block)) {
            self.index.take_back_block(note.file, *block, prior.clone());
        }
        if done == 0 {
            return;
        }
        self.learn_pages(guest, &note.open, note.offset);
        let written = |block: u64| note.early.iter().any(|(early, _)| *early == block);
        for block in partial_blocks(note.offset, done) {
            // One that was to be whole may be partly written now.
            if short(block) || !written(block) {
                match guest.cached(&note.open, block) {
                    Some(content) => self.is_now(note, block, &content),
                    None => self.counts.partial_blocks += 1,
                }
            }
        }
        if note.buffers.is_none() {
            for block in whole_blocks(note.offset, done) {
                self.late_block(guest, note, block);
            }
        }
        for &block in note.absent.iter().filter(|&&block| block.saturating_add(BLOCK) <= end) {
            self.late_block(guest, note, block);
        }
        self.index.wrote(note.file, done, note.open.size.max(end));
    }

    /// A block whose content can only be had now that it has been written.
    fn late_block(&mut self, guest: Guest<'_>, note: &WriteNote, block: u64) {
        let in_memory = || {
            let mut content = [0; BLOCK_SIZE];
            let buffers = note.buffers.as_ref()?;
            buffers.copy(guest.view, block - note.offset, &mut content).then_some(content)
        };
        match in_memory().or_else(|| guest.cached(&note.open, block)) {
            Some(content) => self.is_now(note, block, &content),
            None => self.counts.absent_blocks += 1,
        }
    }

    /// A block is what is in the page cache, after a write.
    fn is_now(&self, note: &WriteNote, block: u64, content: &[u8]) {
        let origin = note.origin_of(block);
        if note.through || note.call.has_arrived() {
            // It may be on the disk already.
            self.index.found_block(note.file, block, content, &origin);
        } else {
            self.index.wrote_block(note.file, block, content, &origin);
        }
    }
}

/// The file that the kernel copies from; `None` when it is a pipe, a socket or such.
fn source(guest: Guest<'_>, fd: u32, place: Place) -> Option<Source> {
    let file = guest.linux.open_file(guest.view, guest.task, fd).ok().flatten()?;
    let offset = match place {
        Place::Offset(offset) => offset,
        Place::Position => file.position,
    };
    Some(Source { path: guest.path(&file).into(), file_size: file.size, offset })
}
