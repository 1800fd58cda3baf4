//! Blocks that were written and have not reached the disk, by content; blocks of the disk whose content is known; and
//! those that were read from the disk and that nobody has named so far.
//!
//! Within one virtual machine's run a fast fingerprint will do (xxh3-128): it only names content, it never decides to
//! share storage. A block takes 64 bytes or less while it is on its way, and as many once it is on a disk.

mod counts;
mod disk;
mod files;
mod lifetimes;
mod origins;
mod pending;
mod place;
mod recent;
mod slab;
mod sorted;
mod stored;
mod tables;

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use serde::{Deserialize, Serialize};
use sky_devices::io_class::{BLOCK_SIZE, Source};
use sky_devices::policy::{ClassId, Policy};
use vm_memory::GuestAddress;
use xxhash_rust::xxh3::xxh3_128;

use super::UniqueRules;
use crate::config::Insight;
use crate::guest::{CachedBlock, Gpa, PageOwners};

pub use self::counts::{BlockCounts, ClassCount, FileSummary};
pub use self::disk::DiskBlocks;
pub(crate) use self::files::{Sharer, Sharing};
use self::lifetimes::Death;
pub use self::lifetimes::{ClassLifetimes, LIFETIME_BUCKETS};
use self::pending::low;
use self::place::{Address, Place};
pub use self::place::{FileId, MAX_FILES};
use self::tables::Tables;

/// A process that writes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
pub struct Prior(Fingerprint, Origin);

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

/// By what a guest's kernel tells files apart: the numbers of the device and of the inode.
type Identity = (u32, u64);

/// Somebody who knows what the guest keeps in the pages of its memory.
pub trait CachedPages: fmt::Debug + Send + Sync {
    /// What is in the page at `page`, if it is in the cache of a file.
    fn block(&self, page: GuestAddress) -> Option<CachedBlock>;
}

impl CachedPages for PageOwners {
    fn block(&self, page: GuestAddress) -> Option<CachedBlock> {
        self.find(Gpa(page.0))
    }
}

/// Classes are numbered up to [`ClassId::PREFETCH`].
const CLASSES: usize = ClassId::PREFETCH.get() as usize + 1;

type Fingerprint = u128;

/// The index of a virtual machine.
#[derive(Debug)]
pub struct BlockIndex {
    limit: usize,
    policy: Policy,
    assume: Assume,
    unique: UniqueRules,
    pages: OnceLock<Arc<dyn CachedPages>>,
    tables: Mutex<Tables>,
}

impl BlockIndex {
    /// Remembers as many pending blocks as the configuration says, and as many blocks of disks.
    #[must_use]
    pub fn new(config: &Insight) -> Self {
        Self {
            limit: config.pending_blocks.max(1),
            policy: config.policy.clone(),
            assume: config.assume,
            unique: config.unique(),
            pages: OnceLock::new(),
            tables: Mutex::new(Tables::new()),
        }
    }

    /// The classifier for disk `disk` of the machine; the same number is the same disk.
    #[must_use]
    pub fn disk(self: &Arc<Self>, disk: u16) -> DiskBlocks {
        DiskBlocks { index: Arc::clone(self), disk }
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        // Every update leaves the tables consistent at each step that could panic, so a poisoned lock is usable.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether anybody can say which files the pages of the guest's memory belong to.
    #[must_use]
    pub fn knows_pages(&self) -> bool {
        self.pages.get().is_some()
    }

    /// Asks `pages` from now on to which files pages belong. The first to be named is asked.
    pub fn set_pages(&self, pages: Arc<dyn CachedPages>) {
        let _ = self.pages.set(pages);
    }

    /// What the guest keeps in a page.
    fn cached(&self, page: Option<GuestAddress>) -> Option<CachedBlock> {
        self.pages.get()?.block(page?)
    }

    /// Takes up a file. Beyond [`MAX_FILES`] that exist all share one entry, so a guest cannot fill the host with names.
    pub fn add_file(&self, path: &str) -> FileId {
        let mut tables = self.lock();
        let (id, was_another) = tables.files.add(path);
        if was_another {
            // Nothing, since that was deleted; but for what was written to it afterwards.
            tables.gone(id, 0..u64::MAX, Death::Deleted);
        }
        id
    }

    /// The kernel tells a file from others so.
    pub fn identify(&self, file: FileId, identity: (u32, u64)) {
        self.lock().files.identify(file, identity);
    }

    /// Somebody may write to these parts of files, without a word, and to nothing else.
    pub(crate) fn share(&self, sharer: Sharer, sharings: Vec<Sharing>) {
        self.lock().files.share(sharer, sharings);
    }

    /// Whether a block has reached a disk that `sharer` may have written, and that was not expected as it is.
    pub(crate) fn has_arrived(&self, sharer: Sharer) -> bool {
        self.lock().files.has_arrived(sharer)
    }

    /// A process wrote `block` at byte `offset` of `file`. What it wrote there before will not reach the disk; if it had
    /// not yet, that is what this returns.
    pub fn wrote_block(&self, file: FileId, offset: u64, block: &[u8], origin: &Origin) -> Option<Prior> {
        let place = Place::new(file, offset)?;
        self.write(&mut self.lock(), place, xxh3_128(block), origin)
    }

    fn write(
        &self,
        tables: &mut Tables,
        place: Place,
        content: Fingerprint,
        origin: &Origin,
    ) -> Option<Prior> {
        let prior = match tables.copied_from(place, content, origin) {
            Some(source) => {
                let origin = Origin { copied_from: Some(source), ..origin.clone() };
                tables.expect(place, content, &origin)
            }
            None => tables.expect(place, content, origin),
        };
        if prior.as_ref().is_some_and(|prior| prior.0 == content) {
            return prior;
        }
        if prior.is_some() {
            tables.counts.superseded += 1;
        }
        if let Some(summary) = tables.files.summary(place.file()) {
            summary.blocks += 1;
        }
        tables.shrink(self.limit);
        prior
    }

    /// The block at `offset` of `file` was not written after all, and is what it was before. One that has reached the
    /// disk meanwhile stays.
    pub fn take_back_block(&self, file: FileId, offset: u64, prior: Option<Prior>) {
        let Some(place) = Place::new(file, offset) else { return };
        let mut tables = self.lock();
        let Some((content, _)) = tables.pending.get(place) else { return };
        match prior {
            Some(Prior(before, by)) => {
                tables.expect(place, before, &by);
                if before == content {
                    return;
                }
                tables.counts.superseded = tables.counts.superseded.saturating_sub(1);
            }
            None => {
                tables.take(place);
            }
        }
        if let Some(summary) = tables.files.summary(file) {
            summary.blocks = summary.blocks.saturating_sub(1);
        }
        tables.shrink(self.limit);
    }

    /// A write of `bytes` bytes to `file` ended, and left it `size` bytes long.
    pub fn wrote(&self, file: FileId, bytes: u64, size: u64) {
        if let Some(summary) = self.lock().files.summary(file) {
            summary.bytes = summary.bytes.saturating_add(bytes);
            summary.writes += 1;
            summary.size = size;
        }
    }

    /// A file has another path now.
    pub fn renamed(&self, file: FileId, path: &str) {
        self.lock().files.rename(file, path);
    }

    /// A file has `size` bytes now: what was beyond is gone. Says whether it was longer.
    pub fn resized(&self, file: FileId, size: u64) -> bool {
        let mut tables = self.lock();
        let Some(summary) = tables.files.summary(file) else { return false };
        let shorter = size < summary.size;
        summary.size = size;
        if shorter {
            let from = size.checked_next_multiple_of(BLOCK_SIZE as u64).unwrap_or(u64::MAX);
            tables.gone(file, from..u64::MAX, Death::Truncated);
        }
        shorter
    }

    /// The blocks at these byte offsets of a file, which are whole blocks, are gone.
    pub fn punched(&self, file: FileId, range: Range<u64>) {
        self.lock().gone(file, range, Death::Truncated);
    }

    /// A file is gone.
    pub fn deleted(&self, file: FileId) {
        let mut tables = self.lock();
        tables.gone(file, 0..u64::MAX, Death::Deleted);
        tables.files.delete(file);
    }

    /// How long blocks lived that have come to an end, by class.
    #[must_use]
    pub fn lifetimes(&self) -> Vec<ClassLifetimes> {
        self.lock().lifetimes.summary()
    }

    /// A read of `file` ended, which is `size` bytes long.
    pub fn read(&self, file: FileId, size: u64) {
        if let Some(summary) = self.lock().files.summary(file) {
            summary.reads += 1;
            summary.size = size;
        }
    }

    /// A process was given `block`, from byte `offset` of `file`. If a disk has just been read for it, its block there
    /// is known from now on.
    pub fn read_block(&self, file: FileId, offset: u64, block: &[u8], origin: &Origin) {
        self.given(file, offset, block, origin, true);
    }

    /// Whether blocks were read from disks that nobody has named.
    #[must_use]
    pub fn has_unnamed(&self) -> bool {
        self.lock().unnamed.len() > 0
    }

    /// A process has `block` of `file`, from byte `offset`, in its memory. If a disk was read for it, its block there is
    /// known from now on.
    pub fn name_block(&self, file: FileId, offset: u64, block: &[u8], origin: &Origin) {
        self.given(file, offset, block, origin, false);
    }

    fn given(&self, file: FileId, offset: u64, block: &[u8], origin: &Origin, might_copy: bool) {
        // Blocks of zeros are everywhere: they say nothing of where they came from.
        if is_zero(block) {
            return;
        }
        let Some(place) = Place::new(file, offset) else { return };
        let content = xxh3_128(block);
        let mut tables = self.lock();
        if might_copy && let Some((writer, source)) = origin.writer.as_ref().zip(tables.source(place)) {
            tables.seen.insert((writer.pid, content), source);
        }
        tables.name(place, content, origin, self.limit);
    }

    /// `block` at byte `offset` of `file` is what the guest has in memory there, and may have reached the disk already; if
    /// not, it will.
    pub fn found_block(&self, file: FileId, offset: u64, block: &[u8], origin: &Origin) {
        let Some(place) = Place::new(file, offset) else { return };
        let content = xxh3_128(block);
        let mut tables = self.lock();
        let expected = tables.pending.get(place).map(|(content, _)| content);
        if expected == Some(content) {
            return;
        }
        if tables.disks.find(place).is_none_or(|(_, stored)| stored.content != low(content)) {
            self.write(&mut tables, place, content, origin);
        } else if tables.take(place).is_some() {
            // What was expected is not in memory any more.
            tables.counts.superseded += 1;
        }
    }

    /// What was seen of each file that was written, or that blocks of a disk were read for.
    #[must_use]
    pub fn files(&self) -> Vec<FileSummary> {
        let used = |file: &FileSummary| file.writes + file.matched + file.named > 0;
        self.lock().files.summaries().filter(used).collect()
    }

    /// What became of the blocks.
    #[must_use]
    pub fn counts(&self) -> BlockCounts {
        let tables = self.lock();
        BlockCounts {
            pending: tables.pending.len() as u64,
            known: tables.disks.len() as u64,
            forgotten_origins: tables.origins.dropped(),
            ..tables.counts
        }
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

fn is_zero(block: &[u8]) -> bool {
    block.iter().all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests;
