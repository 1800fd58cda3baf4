//! Follows the calls of monitored processes to files and blocks.
//!
//! Which file a descriptor means, where it stands and how long the file is, is read from the guest kernel at the call
//! itself: there is no table of descriptors that a missed call could make wrong.
//!
//! A whole block is fingerprinted when the call is entered, from the process's memory. What else becomes of blocks, the
//! guest's page cache tells when the call has returned: those that a write covered partly, and those that the kernel
//! copied without showing them to the process. What has to be on the disk *before* the call returns (`O_SYNC`) is put
//! together at entry, from the page cache and what is written over it.

mod blocks;
mod transfer;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sky_devices::io_class::{BLOCK_SIZE, Source};

use self::blocks::{BLOCK, partial_blocks, whole_blocks};
use self::transfer::{Buffers, Place, Supply, Transfer, WRITES};
use crate::guest::{Gva, Linux, OpenFile, View};
use crate::insight::{BlockIndex, FileId, MAX_FILES, Origin, Prior, Writer};
use crate::observer::{Call, CallId, CallSet, Inquiry, Observer, ProcessEvent};
use crate::syscall::Outcome;

const O_APPEND: u32 = 0o2000;
/// `O_SYNC` has this bit, too.
const O_DSYNC: u32 = 0o10000;
const O_DIRECT: u32 = 0o40000;
/// What Linux keeps of a program's name, `TASK_COMM_LEN` without its zero.
const NAME_BYTES: usize = 15;
/// More processes than any guest has at once.
const MAX_WRITERS: usize = 1 << 16;
/// More writes on their way than any guest has threads.
const MAX_NOTES: usize = 1 << 16;
/// Blocks that are remembered of one write on its way, of each kind.
const MAX_NOTED: usize = 1 << 12;
const OPEN: u64 = 2;
const OPENAT: u64 = 257;
const OPENAT2: u64 = 437;
const CREAT: u64 = 85;
const OPENS: [u64; 4] = [OPEN, CREAT, OPENAT, OPENAT2];

/// A write on its way, from entry to return.
#[derive(Clone, Debug)]
struct WriteNote {
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
}

impl WriteNote {
    fn expect(&mut self, index: &BlockIndex, block: u64, content: &[u8]) {
        let prior = index.wrote_block(self.file, block, content, &self.origin);
        if self.early.len() < MAX_NOTED {
            self.early.push((block, prior));
        }
    }

    /// Where the bytes end that are to be written.
    fn end(&self) -> u64 {
        self.offset.saturating_add(self.count)
    }
}

/// Counters of what could not be followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct TrackerCounts {
    /// Writes to something other than a regular file.
    pub not_a_file: u64,
    /// Writes whose file or buffers could not be read from the guest.
    pub unreadable: u64,
    /// Blocks that a write covered only partly, and whose other part is not known.
    pub partial_blocks: u64,
    /// Other blocks whose content could not be read, neither at entry nor at return.
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

/// A thread that stands still, and its kernel.
#[derive(Clone, Copy)]
struct Guest<'a> {
    view: &'a View<'a>,
    linux: &'a Linux,
    task: Gva,
}

impl<'a> Guest<'a> {
    fn of(call: &'a Call<'_>) -> Self {
        Self { view: &call.view, linux: call.linux, task: call.task }
    }

    /// The block at `offset` of a file as its page cache has it.
    fn cached(&self, file: &OpenFile, offset: u64) -> Option<[u8; BLOCK_SIZE]> {
        let mut content = [0; BLOCK_SIZE];
        let found = self.linux.cached_block(self.view, file, offset, &mut content);
        found.is_ok_and(|found| found).then_some(content)
    }
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
        WRITES.into_iter().chain(OPENS).collect()
    }

    fn entered(&self, call: &Call<'_>) -> Option<Inquiry> {
        if WRITES.contains(&call.raw.number) {
            let mut inner = self.lock();
            let origin = Origin {
                writer: inner.writers.get(&call.pid).cloned(),
                hint: call.raw.hint().map(|hint| hint.class),
                ..Origin::default()
            };
            let transfer = Transfer::decode(&call.view, &call.raw);
            if let Some(note) = inner.entered(Guest::of(call), transfer, origin) {
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
            (number, _) if WRITES.contains(&number) => {
                let note = inner.notes.remove(&call.id)?;
                let result = match outcome {
                    Outcome::Returned(result) => Some(result),
                    // Made again from the start, or not known.
                    Outcome::Restarts => Some(0),
                    Outcome::Unknown => None,
                };
                inner.returned(Guest::of(call), &note, result);
            }
            (number, Outcome::Returned(fd)) if OPENS.contains(&number) => {
                inner.opened(Guest::of(call), u32::try_from(fd).ok()?);
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
    fn opened(&mut self, guest: Guest<'_>, fd: u32) {
        let Ok(Some(file)) = guest.linux.open_file(guest.view, guest.task, fd) else { return };
        let Some(known) = self.files.get(&file.identity) else { return };
        if guest.linux.path(guest.view, &file).is_ok_and(|path| path != known.path) {
            self.files.remove(&file.identity);
        }
    }

    /// A thread is about to write.
    fn entered(&mut self, guest: Guest<'_>, transfer: Option<Transfer>, origin: Origin) -> Option<WriteNote> {
        let Some(transfer) = transfer else {
            self.counts.unreadable += 1;
            return None;
        };
        let file = match guest.linux.open_file(guest.view, guest.task, transfer.fd) {
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
        let mut note = WriteNote {
            file: self.file(guest, &file),
            offset,
            count,
            buffers,
            early: Vec::new(),
            absent: Vec::new(),
            origin: Arc::new(Origin { direct, copied_from, ..origin }),
            open: file,
        };
        self.whole_blocks(guest, &mut note);
        if transfer.sync || (note.open.flags & O_DSYNC != 0 && !direct) {
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
            let before = match guest.cached(&note.open, block) {
                None if block >= note.open.size => Some([0; BLOCK_SIZE]),
                cached => cached,
            };
            let Some(mut content) = before else { continue };
            let (from, to) = (note.offset.max(block), end.min(block.saturating_add(BLOCK)));
            let range = usize::try_from(from - block).ok().zip(usize::try_from(to - block).ok());
            let Some(part) = range.and_then(|(from, to)| content.get_mut(from..to)) else { continue };
            if buffers.copy(guest.view, from - note.offset, part) {
                note.expect(&self.index, block, &content);
            }
        }
        note.buffers = Some(buffers);
    }

    /// The call returned `result`; `None` when that is not known, as after a signal.
    fn returned(&mut self, guest: Guest<'_>, note: &WriteNote, result: Option<i64>) {
        let Some(result) = result else { return };
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
        let written = |block: u64| note.early.iter().any(|(early, _)| *early == block);
        for block in partial_blocks(note.offset, done) {
            // One that was to be whole may be partly written now.
            if short(block) || !written(block) {
                match guest.cached(&note.open, block) {
                    Some(content) => {
                        self.index.wrote_block(note.file, block, &content, &note.origin);
                    }
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
            Some(content) => {
                let mut origin = Arc::clone(&note.origin);
                if let Some(source) = &note.origin.copied_from {
                    let offset = source.offset.saturating_add(block - note.offset);
                    let copied_from = Some(Source { offset, ..source.clone() });
                    origin = Arc::new(Origin { copied_from, ..Origin::clone(&note.origin) });
                }
                self.index.wrote_block(note.file, block, &content, &origin);
            }
            None => self.counts.absent_blocks += 1,
        }
    }

    fn file(&mut self, guest: Guest<'_>, file: &OpenFile) -> FileId {
        if let Some(known) = self.files.get(&file.identity) {
            return known.id;
        }
        let path = path(guest, file);
        let id = self.index.add_file(&path);
        if self.files.len() < MAX_FILES {
            self.files.insert(file.identity, Known { id, path });
        }
        id
    }
}

fn path(guest: Guest<'_>, file: &OpenFile) -> String {
    guest.linux.path(guest.view, file).unwrap_or_else(|_| format!("(inode {})", file.identity.1))
}

/// The file that the kernel copies from; `None` when it is a pipe, a socket or such.
fn source(guest: Guest<'_>, fd: u32, place: Place) -> Option<Source> {
    let file = guest.linux.open_file(guest.view, guest.task, fd).ok().flatten()?;
    let offset = match place {
        Place::Offset(offset) => offset,
        Place::Position => file.position,
    };
    Some(Source { path: path(guest, &file).into(), file_size: file.size, offset })
}
