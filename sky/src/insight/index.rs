//! Blocks that were written and have not reached the disk, by content; blocks of the disk whose content is known; and
//! those that were read from the disk and that nobody has named so far.
//!
//! Within one virtual machine's run a fast fingerprint will do (xxh3-128): it only names content, it never decides to
//! share storage.

mod disk;
mod lifetimes;
mod recent;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use sky_devices::io_class::{BLOCK_SIZE, IoClass, IoTag, Source, Unique};
use sky_devices::policy::{ClassId, Facts, Policy};
use xxhash_rust::xxh3::xxh3_128;

use super::{UniqueCounts, UniqueRules};
use crate::config::Insight;

pub use self::disk::DiskBlocks;
pub use self::lifetimes::{ClassLifetimes, LIFETIME_BUCKETS};
use self::lifetimes::{Death, Lifetimes};
use self::recent::{Recent, Unnamed};

/// A file that a monitored process reads or writes, by its place in [`BlockIndex::files`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(usize);

/// What was seen of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FileSummary {
    /// Path in the guest.
    pub path: String,
    /// Size in bytes when it was last read or written.
    pub size: u64,
    /// Bytes that the guest's writes reported as written.
    pub bytes: u64,
    /// Writes.
    pub writes: u64,
    /// Whole 4 KiB blocks that were fingerprinted.
    pub blocks: u64,
    /// Written disk blocks that were recognised as this file's.
    pub matched: u64,
    /// Of these, known to be copies of other blocks.
    pub copied: u64,
    /// Of these, encrypted by what the program or the file is called.
    pub encrypted: u64,
    /// Of these, with a hint.
    pub hinted: u64,
    /// Reads.
    pub reads: u64,
    /// Disk blocks that were read and turned out to be this file's.
    pub named: u64,
}

/// A process that writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Writer {
    /// Process id in the guest's initial namespace.
    pub pid: u32,
    /// Its name as Linux keeps it: of the executable, at most 15 bytes.
    pub name: String,
}

/// Who wrote a block, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The process, when it is known.
    pub writer: Option<Arc<Writer>>,
    /// The class that the call itself gave the data.
    pub hint: Option<u32>,
    /// Past the guest's page cache (`O_DIRECT`).
    pub direct: bool,
    /// What it is a copy of.
    pub copied_from: Option<Source>,
}

/// What a block was expected to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prior(Fingerprint, Arc<Origin>);

/// How many blocks a class of the policy got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClassCount {
    /// The class.
    pub id: u8,
    /// Its rule, or `unclassified`.
    pub name: String,
    /// Blocks, or pieces of blocks, that the guest wrote to its disks.
    pub blocks: u64,
}

/// What became of the blocks that the guest wrote to its disks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BlockCounts {
    /// Recognised as file data.
    pub data: u64,
    /// Of these, known to be copies of other blocks.
    pub copied: u64,
    /// Of these, with signals that they are like no other block.
    pub unique: UniqueCounts,
    /// Not recognised, and metadata therefore: [`Assume::Complete`].
    pub metadata: u64,
    /// Not recognised.
    pub unknown: u64,
    /// Written by a process, and replaced before they reached the disk.
    pub superseded: u64,
    /// Written by a process, and not seen at the disk so far.
    pub pending: u64,
    /// Forgotten because too many were pending.
    pub forgotten: u64,
    /// Read from a disk, not known there, and recognised in what a process then read from a file.
    pub named: u64,
}

/// What a written block is that no monitored process has written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Assume {
    /// Anything: there are other processes.
    #[default]
    Partial,
    /// Metadata: every process that writes is monitored (section 3.2 of the Sky paper).
    Complete,
}

/// Files that are told apart, each with a path of at most 4 KiB.
pub const MAX_FILES: usize = 1 << 16;

/// Classes are numbered up to [`ClassId::PREFETCH`].
const CLASSES: usize = ClassId::PREFETCH.get() as usize + 1;

/// Blocks read from disks that can be named later: what a guest reads ahead, and then some.
const MAX_READ: usize = 1 << 16;
/// Blocks that processes have read, and might write somewhere else.
const MAX_SEEN: usize = 1 << 16;

type Fingerprint = u128;
/// A disk's number, and a byte offset.
type Address = (u16, u64);
type Place = (FileId, u64);

/// A block that was written.
#[derive(Clone, Debug)]
struct Written {
    content: Fingerprint,
    place: Place,
    origin: Arc<Origin>,
    unique: Unique,
    /// When it came to the disk, and in which class; unless it was there before.
    born: Option<(Instant, ClassId)>,
}

#[derive(Debug)]
struct Inner {
    files: Vec<FileSummary>,
    /// The paths again, to be shared with tags.
    paths: Vec<Arc<str>>,
    /// Places whose content has not reached the disk. Files may hold the same block.
    by_content: HashMap<Fingerprint, Vec<Place>>,
    by_place: BTreeMap<Place, (Fingerprint, Arc<Origin>)>,
    /// Oldest first; an entry whose place has another content by now is stale.
    order: VecDeque<(Place, Fingerprint)>,
    /// What blocks of disks hold, by the disk's number and the byte offset.
    on_disk: HashMap<Address, Written>,
    /// Where places of files are on disks, as far as that is known.
    addresses: BTreeMap<Place, Address>,
    /// Blocks that nobody can have written but the file system, in the mode that knows such.
    metadata: Recent<Address, ()>,
    lifetimes: Lifetimes,
    /// What was read from disks and is nobody's so far.
    unnamed: Unnamed,
    /// Files whose blocks go through a journal as they are.
    journalled: HashSet<FileId>,
    /// Blocks of those that have come to the journal, and will be written to their places.
    in_journal: Recent<Fingerprint, Place>,
    /// Where in files processes, by their ids, have read what.
    seen: Recent<(u32, Fingerprint), Source>,
    counts: BlockCounts,
    /// Written blocks by the number of their class.
    classes: [u64; CLASSES],
}

/// The index of a virtual machine.
#[derive(Debug)]
pub struct BlockIndex {
    limit: usize,
    policy: Policy,
    assume: Assume,
    unique: UniqueRules,
    inner: Mutex<Inner>,
}

impl BlockIndex {
    /// Remembers as many pending blocks as the configuration says, and as many blocks of disks.
    #[must_use]
    pub fn new(config: &Insight) -> Self {
        let limit = config.pending_blocks.max(1);
        let inner = Inner {
            files: Vec::new(),
            paths: Vec::new(),
            by_content: HashMap::new(),
            by_place: BTreeMap::new(),
            order: VecDeque::new(),
            on_disk: HashMap::new(),
            addresses: BTreeMap::new(),
            metadata: Recent::new(limit),
            lifetimes: Lifetimes::new(),
            unnamed: Unnamed::new(MAX_READ),
            journalled: HashSet::new(),
            in_journal: Recent::new(limit),
            seen: Recent::new(MAX_SEEN),
            counts: BlockCounts::default(),
            classes: [0; CLASSES],
        };
        Self {
            limit,
            policy: config.policy.clone(),
            assume: config.assume,
            unique: config.unique(),
            inner: Mutex::new(inner),
        }
    }

    /// The classifier for disk `disk` of the machine; the same number is the same disk.
    #[must_use]
    pub fn disk(self: &Arc<Self>, disk: u16) -> DiskBlocks {
        DiskBlocks { index: Arc::clone(self), disk }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every update leaves the tables consistent at each step that could panic, so a poisoned lock is usable.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up a file. Beyond [`MAX_FILES`] all share one entry, so a guest cannot fill the host with names.
    pub fn add_file(&self, path: &str) -> FileId {
        let mut inner = self.lock();
        let path = match inner.files.len() {
            MAX_FILES => return FileId(MAX_FILES - 1),
            count if count == MAX_FILES - 1 => "(more files)",
            _ => path,
        };
        inner.files.push(FileSummary { path: path.to_owned(), ..FileSummary::default() });
        inner.paths.push(path.into());
        FileId(inner.files.len() - 1)
    }

    /// The file system writes what is in this file twice: into its journal first.
    pub fn journals_data(&self, file: FileId) {
        self.lock().journalled.insert(file);
    }

    /// A process wrote `block` at byte `offset` of `file`. What it wrote there before will not reach the disk; if it had
    /// not yet, that is what this returns.
    pub fn wrote_block(
        &self,
        file: FileId,
        offset: u64,
        block: &[u8],
        origin: &Arc<Origin>,
    ) -> Option<Prior> {
        let content = xxh3_128(block);
        let mut inner = self.lock();
        let origin = inner.with_source(file, offset, content, origin);
        let prior = inner.expect((file, offset), content, origin);
        if prior.as_ref().is_some_and(|prior| prior.0 == content) {
            return prior;
        }
        if prior.is_some() {
            inner.counts.superseded += 1;
        }
        if let Some(summary) = inner.files.get_mut(file.0) {
            summary.blocks += 1;
        }
        inner.shrink(self.limit);
        prior
    }

    /// The block at `offset` of `file` was not written after all, and is what it was before. One that has reached the
    /// disk meanwhile stays.
    pub fn take_back_block(&self, file: FileId, offset: u64, prior: Option<Prior>) {
        let mut inner = self.lock();
        let place = (file, offset);
        let Some((content, origin)) = inner.by_place.get_mut(&place) else { return };
        let content = *content;
        match prior {
            Some(Prior(before, by)) if before == content => {
                *origin = by;
                return;
            }
            Some(Prior(before, by)) => {
                inner.counts.superseded = inner.counts.superseded.saturating_sub(1);
                inner.expect(place, before, by);
            }
            None => {
                inner.by_place.remove(&place);
                inner.remove_content(content, place);
            }
        }
        if let Some(summary) = inner.files.get_mut(file.0) {
            summary.blocks = summary.blocks.saturating_sub(1);
        }
        inner.shrink(self.limit);
    }

    /// A write of `bytes` bytes to `file` ended, and left it `size` bytes long.
    pub fn wrote(&self, file: FileId, bytes: u64, size: u64) {
        if let Some(summary) = self.lock().files.get_mut(file.0) {
            summary.bytes = summary.bytes.saturating_add(bytes);
            summary.writes += 1;
            summary.size = size;
        }
    }

    /// A file has another path now.
    pub fn renamed(&self, file: FileId, path: &str) {
        let mut inner = self.lock();
        if let Some(summary) = inner.files.get_mut(file.0) {
            path.clone_into(&mut summary.path);
        }
        if let Some(shared) = inner.paths.get_mut(file.0) {
            *shared = path.into();
        }
    }

    /// A file has `size` bytes now: what was beyond is gone. Says whether it was longer.
    pub fn resized(&self, file: FileId, size: u64) -> bool {
        let mut inner = self.lock();
        let Some(summary) = inner.files.get_mut(file.0) else { return false };
        let shorter = size < summary.size;
        summary.size = size;
        if shorter {
            let from = size.checked_next_multiple_of(BLOCK_SIZE as u64).unwrap_or(u64::MAX);
            inner.gone(file, from..u64::MAX, Death::Truncated);
        }
        shorter
    }

    /// The blocks at these byte offsets of a file, which are whole blocks, are gone.
    pub fn punched(&self, file: FileId, range: Range<u64>) {
        self.lock().gone(file, range, Death::Truncated);
    }

    /// A file is gone.
    pub fn deleted(&self, file: FileId) {
        self.lock().gone(file, 0..u64::MAX, Death::Deleted);
    }

    /// How long blocks lived that have come to an end, by class.
    #[must_use]
    pub fn lifetimes(&self) -> Vec<ClassLifetimes> {
        self.lock().lifetimes.summary()
    }

    /// A read of `file` ended, which is `size` bytes long.
    pub fn read(&self, file: FileId, size: u64) {
        if let Some(summary) = self.lock().files.get_mut(file.0) {
            summary.reads += 1;
            summary.size = size;
        }
    }

    /// A process was given `block`, from byte `offset` of `file`. If a disk has just been read for it, its block there
    /// is known from now on.
    pub fn read_block(&self, file: FileId, offset: u64, block: &[u8], origin: &Arc<Origin>) {
        if is_zero(block) {
            return;
        }
        let content = xxh3_128(block);
        let mut inner = self.lock();
        let place = (file, offset);
        if let Some((writer, source)) = origin.writer.as_ref().zip(inner.source(place)) {
            inner.seen.insert((writer.pid, content), source);
        }
        inner.name(place, content, origin, self.limit);
    }

    /// Whether blocks were read from disks that nobody has named.
    #[must_use]
    pub fn has_unnamed(&self) -> bool {
        self.lock().unnamed.len() > 0
    }

    /// A process has `block` of `file`, from byte `offset`, in its memory. If a disk was read for it, its block there is
    /// known from now on.
    pub fn name_block(&self, file: FileId, offset: u64, block: &[u8], origin: &Arc<Origin>) {
        if !is_zero(block) {
            self.lock().name((file, offset), xxh3_128(block), origin, self.limit);
        }
    }

    /// A process has changed `block` at byte `offset` of `file` in its memory, perhaps; if so, that will reach the disk.
    pub fn mapped_block(&self, file: FileId, offset: u64, block: &[u8], origin: &Arc<Origin>) {
        let content = xxh3_128(block);
        let known = {
            let inner = self.lock();
            let place = (file, offset);
            let pending = inner.by_place.get(&place).map(|(content, _)| *content);
            let stored = || inner.on_disk.get(inner.addresses.get(&place)?).map(|written| written.content);
            pending.or_else(stored)
        };
        if known != Some(content) {
            self.wrote_block(file, offset, block, origin);
        }
    }

    /// What was seen of each file that was written, or that blocks of a disk were read for.
    #[must_use]
    pub fn files(&self) -> Vec<FileSummary> {
        let inner = self.lock();
        let used = |file: &&FileSummary| file.writes + file.matched + file.named > 0;
        inner.files.iter().filter(used).cloned().collect()
    }

    /// What became of the blocks.
    #[must_use]
    pub fn counts(&self) -> BlockCounts {
        let inner = self.lock();
        BlockCounts { pending: inner.by_place.len() as u64, ..inner.counts }
    }

    /// How many blocks each class of the policy got.
    #[must_use]
    pub fn classes(&self) -> Vec<ClassCount> {
        let counts = self.lock().classes;
        let count = |id: ClassId| counts.get(usize::from(id.get())).copied().unwrap_or(0);
        let classes = self.policy.classes();
        classes
            .map(|class| ClassCount {
                id: class.id().get(),
                name: class.name().to_owned(),
                blocks: count(class.id()),
            })
            .collect()
    }
}

impl Inner {
    /// From now on `content` is what the place's block on the disk will be. Returns what was expected before.
    fn expect(&mut self, place: Place, content: Fingerprint, origin: Arc<Origin>) -> Option<Prior> {
        let prior = self.by_place.insert(place, (content, origin)).map(|(old, origin)| Prior(old, origin));
        match &prior {
            Some(Prior(old, _)) if *old == content => return prior,
            Some(Prior(old, _)) => self.remove_content(*old, place),
            None => {}
        }
        self.by_content.entry(content).or_default().push(place);
        self.order.push_back((place, content));
        prior
    }

    /// The origin of a block that a process writes, and of which it may have read the same before, elsewhere.
    fn with_source(
        &self,
        file: FileId,
        offset: u64,
        content: Fingerprint,
        origin: &Arc<Origin>,
    ) -> Arc<Origin> {
        let writer = origin.writer.as_ref().filter(|_| origin.copied_from.is_none());
        let source = writer.and_then(|writer| self.seen.get(&(writer.pid, content)));
        let elsewhere = |source: &&Source| {
            source.offset != offset || self.paths.get(file.0).is_none_or(|path| *path != source.path)
        };
        match source.filter(elsewhere) {
            Some(source) => Arc::new(Origin { copied_from: Some(source.clone()), ..Origin::clone(origin) }),
            None => Arc::clone(origin),
        }
    }

    /// If a disk gave this content and nobody knows whose it is, it is this place's; unless it is known where the place has
    /// it: then somebody else has the same.
    fn name(&mut self, place: Place, content: Fingerprint, origin: &Arc<Origin>, limit: usize) {
        let stored = self.addresses.get(&place).and_then(|address| self.on_disk.get(address));
        if stored.is_some_and(|stored| stored.content == content) {
            return;
        }
        if let Some(address) = self.unnamed.take(content) {
            let origin = Arc::clone(origin);
            self.store(
                address,
                Written { content, place, origin, unique: Unique::default(), born: None },
                limit,
            );
            self.counts.named += 1;
            if let Some(summary) = self.files.get_mut(place.0.0) {
                summary.named += 1;
            }
        }
    }

    /// What a block of a disk holds is known.
    fn store(&mut self, address: Address, written: Written, limit: usize) {
        self.remove_stored(address, Death::Overwritten);
        if self.on_disk.len() >= limit {
            self.on_disk.clear();
            self.addresses.clear();
        }
        // A file system that never writes in place has it elsewhere so far.
        if let Some(before) = self.addresses.insert(written.place, address)
            && let Some(old) = self.on_disk.remove(&before)
        {
            self.ended(&old, Death::Overwritten);
        }
        self.on_disk.insert(address, written);
    }

    /// A block of a disk holds something else now, or nothing.
    fn remove_stored(&mut self, address: Address, death: Death) {
        if let Some(old) = self.on_disk.remove(&address) {
            if self.addresses.get(&old.place) == Some(&address) {
                self.addresses.remove(&old.place);
            }
            self.ended(&old, death);
        }
        self.unnamed.remove(address);
        self.metadata.remove(&address);
    }

    fn ended(&mut self, written: &Written, death: Death) {
        if let Some((born, class)) = written.born {
            self.lifetimes.ended(class, born.elapsed(), death);
        }
    }

    /// These bytes of a file are no more, neither on their way to the disk nor there.
    fn gone(&mut self, file: FileId, range: Range<u64>, death: Death) {
        if range.is_empty() {
            return;
        }
        let places = (file, range.start)..(file, range.end);
        let pending: Vec<(Place, Fingerprint)> =
            self.by_place.range(places.clone()).map(|(place, (content, _))| (*place, *content)).collect();
        for (place, content) in pending {
            self.by_place.remove(&place);
            self.remove_content(content, place);
        }
        let stored: Vec<Address> = self.addresses.range(places).map(|(_, address)| *address).collect();
        for address in stored {
            self.remove_stored(address, death);
        }
    }

    fn remove_content(&mut self, content: Fingerprint, place: Place) {
        if let Some(places) = self.by_content.get_mut(&content) {
            places.retain(|&other| other != place);
            if places.is_empty() {
                self.by_content.remove(&content);
            }
        }
    }

    fn shrink(&mut self, limit: usize) {
        while self.by_place.len() > limit {
            let Some((place, content)) = self.order.pop_front() else { return };
            if self.by_place.get(&place).is_some_and(|(now, _)| *now == content) {
                self.by_place.remove(&place);
                self.remove_content(content, place);
                self.counts.forgotten += 1;
            }
        }
        if self.order.len() > 2 * self.by_place.len() + 1024 {
            let by_place = &self.by_place;
            self.order.retain(|(place, content)| by_place.get(place).is_some_and(|(now, _)| now == content));
        }
    }

    fn source(&self, (file, offset): Place) -> Option<Source> {
        let (path, summary) = self.paths.get(file.0).zip(self.files.get(file.0))?;
        Some(Source { path: Arc::clone(path), file_size: summary.size, offset })
    }

    /// What is known of a written block, now that it is at `facts.lba`.
    fn tag(&self, policy: &Policy, written: &Written, facts: Facts<'_>) -> IoTag {
        let source = self.source(written.place);
        let writer = written.origin.writer.as_deref();
        let facts = Facts {
            class: IoClass::Data,
            direct: Some(written.origin.direct),
            file_size: source.as_ref().map(|source| source.file_size),
            file_offset: source.as_ref().map(|source| source.offset),
            path: source.as_ref().map(|source| &*source.path),
            process_name: writer.map(|writer| writer.name.as_str()),
            pid: writer.map(|writer| writer.pid),
            hint: written.origin.hint,
            ..facts
        };
        let class_id = policy.classify(&facts);
        let copied_from = written.origin.copied_from.clone();
        IoTag { class: IoClass::Data, source, class_id, copied_from, unique: written.unique }
    }

    fn written(&mut self, disk: u16, offset: u64, block: &[u8], limit: usize) -> Option<Written> {
        if block.len() != BLOCK_SIZE {
            return None;
        }
        let content = xxh3_128(block);
        let pending = self.by_content.get(&content).and_then(|places| places.first().copied());
        if let Some(place) = pending {
            let (_, origin) = self.by_place.remove(&place).unwrap_or_default();
            self.remove_content(content, place);
            if self.journalled.contains(&place.0) {
                self.in_journal.insert(content, place);
            }
            let written = Written { content, place, origin, unique: Unique::default(), born: None };
            self.store((disk, offset), written.clone(), limit);
            return Some(written);
        }
        if let Some(written) = self.leaves_journal(content, (disk, offset)) {
            self.store((disk, offset), written.clone(), limit);
            return Some(written);
        }
        // The page may be written again, as it was.
        let known = self.on_disk.get(&(disk, offset)).filter(|known| known.content == content).cloned();
        if known.is_none() {
            self.remove_stored((disk, offset), Death::Overwritten);
        }
        known
    }
}

impl Inner {
    /// The block with this content that is in the journal, if it is written to another address now. It lives on there.
    fn leaves_journal(&mut self, content: Fingerprint, address: Address) -> Option<Written> {
        let journal = *self.addresses.get(self.in_journal.get(&content)?)?;
        let same = self.on_disk.get(&journal).is_some_and(|written| written.content == content);
        if !same || journal == address || journal.0 != address.0 {
            return None;
        }
        self.in_journal.remove(&content);
        self.on_disk.remove(&journal)
    }
}

/// Blocks of zeros are everywhere: they say nothing of where they came from.
fn is_zero(block: &[u8]) -> bool {
    block.iter().all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests;
