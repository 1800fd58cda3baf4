//! Follows the calls of monitored processes to files and blocks.
//!
//! Which file a descriptor means, where it stands and how long the file is, is read from the guest kernel at the call
//! itself: there is no table of descriptors that a missed call could make wrong.
//!
//! A whole block is fingerprinted when the call is entered, from the process's memory. What else becomes of blocks, the
//! guest's page cache tells when the call has returned: those that a write covered partly, and those that the kernel
//! copied without showing them to the process. What a process has read names the blocks of the disk that were read for
//! it, and a block that is written as it was read is a copy. What has to be on the disk *before* the call returns
//! (`O_SYNC`) is put together at entry, from the page cache and what is written over it. What is written through a
//! shared mapping is found in the process's page table when the process has it synced.

mod batches;
mod blocks;
mod mappings;
mod names;
mod reads;
mod transfer;
mod writes;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sky_devices::io_class::BLOCK_SIZE;

use self::batches::{BATCHES, Batch, IO_URING_SETUP};
use self::mappings::{MAPS, Mappings};
use self::names::{CHANGES, Files};
use self::reads::ReadNote;
use self::transfer::{READS, Transfer, WRITES};
use self::writes::WriteNote;
use crate::guest::{Gva, Linux, OpenFile, View};
use crate::insight::{BlockIndex, FileId, FilePattern, Origin, Sharer, Sharing, Writer};
use crate::observer::{Call, CallId, CallSet, Inquiry, Observer, ProcessEvent};
use crate::syscall::Outcome;

const O_DIRECT: u32 = 0o40000;
/// What Linux keeps of a program's name, `TASK_COMM_LEN` without its zero.
const NAME_BYTES: usize = 15;
/// More processes than any guest has at once.
const MAX_WRITERS: usize = 1 << 16;
/// More calls on their way than any guest has threads.
const MAX_NOTES: usize = 1 << 16;

/// Counters of what could not be followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct TrackerCounts {
    /// Reads and writes of something other than a regular file.
    pub not_a_file: u64,
    /// Reads and writes of files that are not to be followed.
    pub excluded: u64,
    /// Reads and writes whose file or buffers could not be read from the guest.
    pub unreadable: u64,
    /// Blocks that a write covered only partly, and whose other part is not known.
    pub partial_blocks: u64,
    /// Entries of io_uring that read or write something that they do not name, rings that could not be read, and entries
    /// beyond 2 GiB of one call.
    pub unclear_submissions: u64,
    /// Rings of io_uring whose entries a thread of the kernel takes (`IORING_SETUP_SQPOLL`): what goes through them is
    /// unknown.
    pub polled_rings: u64,
    /// Times that not all pages of a process's mappings were looked at.
    pub unwalked_mappings: u64,
    /// Other blocks whose content could not be read, neither at entry nor at return.
    pub absent_blocks: u64,
}

/// What a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    /// Several of them at once.
    Batch,
    /// The names, sizes and existence of files.
    Change,
    /// What is mapped, and what is to be on the disk.
    Map,
    RingSetup,
}

impl Kind {
    fn of(number: u64) -> Option<Self> {
        let kinds = [
            (&READS[..], Self::Read),
            (&WRITES, Self::Write),
            (&BATCHES, Self::Batch),
            (&CHANGES, Self::Change),
            (&MAPS, Self::Map),
            (&[IO_URING_SETUP], Self::RingSetup),
        ];
        kinds.into_iter().find(|(numbers, _)| numbers.contains(&number)).map(|(_, kind)| kind)
    }
}

/// A call on its way, from entry to return.
#[derive(Clone, Debug)]
enum Note {
    Read(ReadNote),
    Write(WriteNote),
    Batch(Batch),
    Change {
        /// Held until it is over.
        _call: Arc<SharingCall>,
    },
}

/// A call during which blocks of files may reach the disk: what it writes, and what was there before and is on its way.
/// Over when nobody has it any more.
#[derive(Debug)]
struct SharingCall {
    index: Arc<BlockIndex>,
    number: u64,
}

impl SharingCall {
    fn sharer(&self) -> Sharer {
        Sharer::Call(self.number)
    }

    /// Whether a block has reached a disk already that was not expected as it is.
    fn has_arrived(&self) -> bool {
        self.index.has_arrived(self.sharer())
    }
}

impl Drop for SharingCall {
    fn drop(&mut self) {
        self.index.share(self.sharer(), Vec::new());
    }
}

/// The tracker.
#[derive(Debug)]
pub struct Tracker(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    index: Arc<BlockIndex>,
    files: Files,
    mappings: Mappings,
    /// While a batch is looked at: parts of blocks that its entries so far have put together.
    drafts: Option<HashMap<(FileId, u64), [u8; BLOCK_SIZE]>>,
    counts: TrackerCounts,
    /// Reads and writes on their way.
    notes: HashMap<CallId, Note>,
    /// Calls that shared files, so far.
    calls: u64,
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

    fn path(&self, file: &OpenFile) -> String {
        self.linux.path(self.view, file).unwrap_or_else(|_| format!("(inode {})", file.identity.1))
    }
}

impl Tracker {
    /// Files what it finds in `index`, of files that one of `patterns` contains, or of all if there is none.
    #[must_use]
    pub fn new(index: Arc<BlockIndex>, patterns: Vec<FilePattern>) -> Self {
        Self(Mutex::new(Inner {
            index,
            files: Files::new(patterns),
            mappings: Mappings::default(),
            drafts: None,
            counts: TrackerCounts::default(),
            notes: HashMap::new(),
            calls: 0,
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
        (0..CallSet::SIZE as u64).filter(|&number| Kind::of(number).is_some()).collect()
    }

    fn entered(&self, call: &Call<'_>) -> Option<Inquiry> {
        let kind = Kind::of(call.raw.number)?;
        let mut inner = self.lock();
        let guest = Guest::of(call);
        let origin = inner.origin(call);
        let note = match kind {
            Kind::Read | Kind::Write => {
                let Some(transfer) = Transfer::decode(&call.view, &call.raw) else {
                    inner.counts.unreadable += 1;
                    return None;
                };
                match kind {
                    Kind::Read => Note::Read(inner.read_entered(guest, transfer, origin)?),
                    _ => Note::Write(inner.write_entered(guest, transfer, origin)?),
                }
            }
            Kind::Batch => Note::Batch(inner.batch_entered(guest, &call.raw, &origin)?),
            Kind::Map => {
                inner.before_mapping(guest, call.pid, &call.raw, origin);
                return None;
            }
            Kind::Change => Note::Change { _call: inner.change_entered(guest, &call.raw, &origin)? },
            Kind::RingSetup => return None,
        };
        inner.remember(call.id, note);
        None
    }

    fn returned(&self, call: &Call<'_>, outcome: Outcome) -> Option<Inquiry> {
        let kind = Kind::of(call.raw.number)?;
        let mut inner = self.lock();
        let guest = Guest::of(call);
        let note = inner.notes.remove(&call.id);
        if let Kind::Read | Kind::Write | Kind::Batch = kind {
            let note = note?;
            let result = match outcome {
                Outcome::Returned(result) => result,
                // Made again from the start.
                Outcome::Restarts => 0,
                // Not known, as after a signal.
                Outcome::Unknown => return None,
            };
            match note {
                Note::Read(note) => inner.read_returned(guest, &note, result),
                Note::Write(note) => inner.write_returned(guest, &note, result),
                Note::Batch(batch) => inner.batch_returned(guest, &batch, result),
                Note::Change { .. } => {}
            }
            return None;
        }
        let Outcome::Returned(result) = outcome else { return None };
        let result = u64::try_from(result).ok()?;
        match kind {
            Kind::Change => {
                let origin = inner.origin(call);
                inner.changed(guest, &call.raw, result, origin);
            }
            Kind::Map => inner.after_mapping(guest, call.pid, &call.raw, result),
            Kind::RingSetup => inner.ring_made(guest, &call.raw),
            Kind::Read | Kind::Write | Kind::Batch => {}
        }
        None
    }

    fn abandoned(&self, id: CallId) {
        self.lock().notes.remove(&id);
    }

    fn process(&self, event: &ProcessEvent) {
        let mut inner = self.lock();
        let (ProcessEvent::Begins { pid, .. } | ProcessEvent::Ends { pid }) = event;
        inner.forget_mappings(*pid);
        let writers = &mut inner.writers;
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
    fn remember(&mut self, call: CallId, note: Note) {
        if self.notes.len() >= MAX_NOTES {
            self.notes.clear();
        }
        self.notes.insert(call, note);
    }

    /// Until the call is over, what comes to the disk from these pages of files is the call's.
    fn sharing(&mut self, sharings: Vec<Sharing>) -> Arc<SharingCall> {
        self.calls += 1;
        let call = SharingCall { index: Arc::clone(&self.index), number: self.calls };
        self.index.share(call.sharer(), sharings);
        Arc::new(call)
    }

    /// Who makes a call.
    fn origin(&self, call: &Call<'_>) -> Origin {
        Origin {
            writer: self.writers.get(&call.pid).cloned(),
            hint: call.raw.hint().map(|hint| hint.class),
            ..Origin::default()
        }
    }

    /// Learns which file each page of the guest belongs to, once there is a file whose block at `offset` has one.
    fn learn_pages(&self, guest: Guest<'_>, file: &OpenFile, offset: u64) {
        if !self.index.knows_pages()
            && let Ok(Some(owners)) = guest.linux.page_owners(guest.view, file, offset)
        {
            self.index.set_pages(Arc::new(owners));
        }
    }

    /// What a descriptor means, if it is a regular file.
    fn regular_file(&mut self, guest: Guest<'_>, fd: u32) -> Option<OpenFile> {
        match guest.linux.open_file(guest.view, guest.task, fd) {
            Ok(Some(file)) => return Some(file),
            Ok(None) => self.counts.not_a_file += 1,
            Err(_) => self.counts.unreadable += 1,
        }
        None
    }

    /// The file that a call is about, if it is to be followed.
    fn file(&mut self, guest: Guest<'_>, file: &OpenFile) -> Option<FileId> {
        let id = match self.files.id(file.identity) {
            Some(id) => id,
            None => {
                let path = guest.path(file);
                let id = self.files.follows(&path).then(|| self.index.add_file(&path));
                if let Some(id) = id {
                    self.index.identify(id, file.identity);
                    self.index.resized(id, file.size);
                }
                self.files.add(id, path, file);
                id
            }
        };
        self.counts.excluded += u64::from(id.is_none());
        id
    }
}
