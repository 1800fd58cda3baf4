//! Follows the calls of monitored processes to files and blocks.
//!
//! Which file a descriptor means, where it stands and how long the file is, is read from the guest kernel at the call
//! itself: there is no table of descriptors that a missed call could make wrong.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sky_devices::io_class::BLOCK_SIZE;

use crate::guest::{Gva, Linux, OpenFile, Syscall, View};
use crate::insight::{BlockIndex, FileId, MAX_FILES, Origin, Writer};
use crate::observer::{Call, CallId, CallSet, Inquiry, Observer, ProcessEvent};
use crate::syscall::Outcome;

const O_APPEND: u32 = 0o2000;
const O_DIRECT: u32 = 0o40000;
/// What Linux keeps of a program's name, `TASK_COMM_LEN` without its zero.
const NAME_BYTES: usize = 15;
/// More processes than any guest has at once.
const MAX_WRITERS: usize = 1 << 16;
/// What one write may transfer, `MAX_RW_COUNT` of Linux.
const MAX_RW_COUNT: u64 = 0x7fff_f000;
const BLOCK: u64 = BLOCK_SIZE as u64;
/// More writes on their way than any guest has threads.
const MAX_NOTES: usize = 1 << 16;
const WRITE: u64 = 1;
const OPEN: u64 = 2;
const PWRITE64: u64 = 18;
const OPENAT: u64 = 257;

/// A write on its way, from entry to return.
#[derive(Clone, Debug)]
struct WriteNote {
    file: FileId,
    /// Where in the file it begins, in bytes.
    offset: u64,
    count: u64,
    buffer: Gva,
    size: u64,
    /// Whole blocks whose user pages were absent at entry; the kernel brings them in as it copies.
    absent: Vec<u64>,
    origin: Origin,
}

/// Counters of what could not be followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct TrackerCounts {
    /// Writes to something other than a regular file.
    pub not_a_file: u64,
    /// Writes whose file could not be read from the guest.
    pub unreadable: u64,
    /// Blocks that a write covered only partly, which are not fingerprinted.
    pub partial_blocks: u64,
    /// Whole blocks whose content could not be read, neither at entry nor at return.
    pub absent_blocks: u64,
}

/// A file that was seen, and by what name.
#[derive(Clone, Debug)]
struct Known {
    id: FileId,
    path: String,
}

/// The tracker.
#[derive(Debug)]
pub struct Tracker(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    index: Arc<BlockIndex>,
    files: HashMap<(u32, u64), Known>,
    counts: TrackerCounts,
    /// Writes on their way.
    notes: HashMap<CallId, WriteNote>,
    /// Monitored processes by their numbers.
    writers: HashMap<u32, Arc<Writer>>,
}

impl Tracker {
    /// Files what it finds in `index`.
    #[must_use]
    pub fn new(index: Arc<BlockIndex>) -> Self {
        Self(Mutex::new(Inner {
            index,
            files: HashMap::new(),
            counts: TrackerCounts::default(),
            notes: HashMap::new(),
            writers: HashMap::new(),
        }))
    }

    /// What could not be followed.
    #[must_use]
    pub fn counts(&self) -> TrackerCounts {
        self.lock().counts
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every update leaves the tables consistent at each step that could panic, so a poisoned lock is usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Tracker {
    fn wants(&self) -> CallSet {
        [WRITE, OPEN, PWRITE64, OPENAT].into_iter().collect()
    }

    fn entered(&self, call: &Call<'_>) -> Option<Inquiry> {
        if let WRITE | PWRITE64 = call.raw.number {
            let mut inner = self.lock();
            let [first, second, third, fourth, ..] = call.raw.args;
            let decoded = Syscall::decode(call.raw.number, [first, second, third, fourth]);
            let origin = Origin {
                writer: inner.writers.get(&call.pid).cloned(),
                hint: call.raw.hint().map(|hint| hint.class),
                direct: false,
            };
            if let Some(note) = inner.entered(&call.view, call.linux, call.task, &decoded, origin) {
                if inner.notes.len() >= MAX_NOTES {
                    inner.notes.clear();
                }
                inner.notes.insert(call.id, note);
            }
        }
        None
    }

    fn returned(&self, call: &Call<'_>, outcome: Outcome) -> Option<Inquiry> {
        let mut inner = self.lock();
        match (call.raw.number, outcome) {
            (WRITE | PWRITE64, _) => {
                let note = inner.notes.remove(&call.id)?;
                let result = match outcome {
                    Outcome::Returned(result) => Some(result),
                    // Made again from the start, or not known.
                    Outcome::Restarts => Some(0),
                    Outcome::Unknown => None,
                };
                inner.returned(&call.view, note, result);
            }
            (OPEN | OPENAT, Outcome::Returned(fd)) => {
                let fd = u32::try_from(fd).ok()?;
                inner.opened(&call.view, call.linux, call.task, fd);
            }
            _ => {}
        }
        None
    }

    fn abandoned(&self, id: CallId) {
        self.lock().notes.remove(&id);
    }

    fn process(&self, event: &ProcessEvent) {
        let writers = &mut self.lock().writers;
        match event {
            ProcessEvent::Begins { pid, executable } => {
                if writers.len() >= MAX_WRITERS {
                    writers.clear();
                }
                let name = executable.rsplit('/').next().unwrap_or_default();
                let name = name.get(..name.floor_char_boundary(NAME_BYTES)).unwrap_or_default().to_owned();
                writers.insert(*pid, Arc::new(Writer { pid: *pid, name }));
            }
            ProcessEvent::Ends { pid } => {
                writers.remove(pid);
            }
        }
    }
}

impl Inner {
    /// A thread has opened `fd`. Inode numbers are used again: a file that has another path by now is another file.
    fn opened(&mut self, view: &View<'_>, linux: &Linux, task: Gva, fd: u32) {
        let Ok(Some(file)) = linux.open_file(view, task, fd) else { return };
        let Some(known) = self.files.get(&file.identity) else { return };
        if linux.path(view, &file).is_ok_and(|path| path != known.path) {
            self.files.remove(&file.identity);
        }
    }

    /// A thread enters `call`. Whole blocks are fingerprinted now: with O_SYNC or O_DIRECT they reach the disk before
    /// the call returns.
    fn entered(
        &mut self,
        view: &View<'_>,
        linux: &Linux,
        task: Gva,
        call: &Syscall,
        origin: Origin,
    ) -> Option<WriteNote> {
        let (fd, buffer, count, at) = match *call {
            Syscall::Write { fd, buffer, count } => (fd, buffer, count, None),
            Syscall::Pwrite64 { fd, buffer, count, offset } => (fd, buffer, count, Some(offset)),
            _ => return None,
        };
        let file = match linux.open_file(view, task, fd) {
            Ok(Some(file)) => file,
            Ok(None) => {
                self.counts.not_a_file += 1;
                return None;
            }
            Err(_) => {
                self.counts.unreadable += 1;
                return None;
            }
        };
        // With O_APPEND pwrite64 appends, too: BUGS in its manual page.
        let offset = match at {
            _ if file.flags & O_APPEND != 0 => file.size,
            Some(offset) => offset,
            None => file.position,
        };
        let mut note = WriteNote {
            file: self.file(view, linux, &file),
            offset,
            count: count.min(MAX_RW_COUNT),
            buffer: Gva(buffer),
            size: file.size,
            absent: Vec::new(),
            origin: Origin { direct: file.flags & O_DIRECT != 0, ..origin },
        };
        self.fingerprint(view, &mut note);
        Some(note)
    }

    /// The call returned `result`; `None` when that is not known, as after a signal.
    fn returned(&mut self, view: &View<'_>, note: WriteNote, result: Option<i64>) {
        let Some(result) = result else { return };
        let done = u64::try_from(result).unwrap_or(0).min(note.count);
        let end = note.offset.saturating_add(done);
        for block in whole_blocks(note.offset, note.count) {
            if block.saturating_add(BLOCK) > end {
                self.index.forget_block(note.file, block);
            }
        }
        let mut content = [0; BLOCK_SIZE];
        for &block in note.absent.iter().filter(|&&block| block.saturating_add(BLOCK) <= end) {
            match view.read(note.buffer.offset(block - note.offset), &mut content) {
                Ok(()) => self.index.wrote_block(note.file, block, &content, &note.origin),
                Err(_) => self.counts.absent_blocks += 1,
            }
        }
        if done > 0 {
            self.counts.partial_blocks += partial_blocks(note.offset, done);
            self.index.wrote(note.file, done, note.size.max(end));
        }
    }

    fn fingerprint(&mut self, view: &View<'_>, note: &mut WriteNote) {
        let mut content = [0; BLOCK_SIZE];
        for block in whole_blocks(note.offset, note.count) {
            match view.read(note.buffer.offset(block - note.offset), &mut content) {
                Ok(()) => self.index.wrote_block(note.file, block, &content, &note.origin),
                Err(_) => note.absent.push(block),
            }
        }
    }

    fn file(&mut self, view: &View<'_>, linux: &Linux, file: &OpenFile) -> FileId {
        if let Some(known) = self.files.get(&file.identity) {
            return known.id;
        }
        let path = linux.path(view, file).unwrap_or_else(|_| format!("(inode {})", file.identity.1));
        let id = self.index.add_file(&path);
        if self.files.len() < MAX_FILES {
            self.files.insert(file.identity, Known { id, path });
        }
        id
    }
}

/// Offsets of the blocks that lie wholly within `count` bytes from `offset`.
fn whole_blocks(offset: u64, count: u64) -> impl Iterator<Item = u64> {
    let end = offset.saturating_add(count);
    let first = offset.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX);
    let last = end - end % BLOCK;
    (first..last.max(first)).step_by(BLOCK_SIZE)
}

/// How many blocks are touched, but not covered.
fn partial_blocks(offset: u64, count: u64) -> u64 {
    let end = offset.saturating_add(count);
    let touched = end.div_ceil(BLOCK) - offset / BLOCK;
    let whole = (end / BLOCK).saturating_sub(offset.div_ceil(BLOCK));
    touched - whole
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn blocks_of_a_write() {
        assert_eq!(whole_blocks(0, 8192).collect::<Vec<_>>(), [0, 4096]);
        assert_eq!(whole_blocks(1, 8192).collect::<Vec<_>>(), [4096]);
        assert_eq!(whole_blocks(4095, 4096).count(), 0);
        assert_eq!((partial_blocks(0, 8192), partial_blocks(1, 8192), partial_blocks(4095, 2)), (0, 2, 2));
    }

    proptest! {
        #[test]
        fn blocks_agree_with_counting_bytes(offset in 0u64..20_000, count in 0u64..20_000) {
            let covered = |block: u64| {
                (0..BLOCK).filter(|byte| (offset..offset + count).contains(&(block * BLOCK + byte))).count()
            };
            let whole: Vec<u64> = (0..11).filter(|&block| covered(block) == BLOCK_SIZE).map(|block| block * BLOCK).collect();
            let partial = (0..11).filter(|&block| (1..BLOCK_SIZE).contains(&covered(block))).count() as u64;
            prop_assert_eq!(whole_blocks(offset, count).collect::<Vec<_>>(), whole);
            if count > 0 {
                prop_assert_eq!(partial_blocks(offset, count), partial);
            }
        }

        #[test]
        fn offsets_that_a_guest_may_choose_do_not_overflow(offset: u64, count in 0u64..=MAX_RW_COUNT) {
            prop_assert!(whole_blocks(offset, count).take(3).all(|block| block % BLOCK == 0));
            let _ = partial_blocks(offset, count.max(1));
        }
    }
}
