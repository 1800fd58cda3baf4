//! Blocks that were written and have not reached the disk, by content; and blocks of the disk whose content is known.
//!
//! Within one virtual machine's run a fast fingerprint will do (xxh3-128): it only names content, it never decides to
//! share storage.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use sky_devices::io_class::{BLOCK_SIZE, Classifier, IoClass, IoTag, Source};
use xxhash_rust::xxh3::xxh3_128;

/// A file that a monitored process writes, by its place in [`BlockIndex::files`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId(usize);

/// What was seen of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FileSummary {
    /// Path in the guest.
    pub path: String,
    /// Size in bytes after the last write.
    pub size: u64,
    /// Bytes that the guest's writes reported as written.
    pub bytes: u64,
    /// Writes.
    pub writes: u64,
    /// Whole 4 KiB blocks that were fingerprinted.
    pub blocks: u64,
    /// Disk blocks that were recognised as this file's.
    pub matched: u64,
}

/// What became of the blocks that the guest wrote to its disks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BlockCounts {
    /// Recognised as file data.
    pub data: u64,
    /// Not recognised.
    pub unknown: u64,
    /// Written by a process, and replaced before they reached the disk.
    pub superseded: u64,
    /// Written by a process, and not seen at the disk so far.
    pub pending: u64,
    /// Forgotten because too many were pending.
    pub forgotten: u64,
}

/// Files that are told apart, each with a path of at most 4 KiB.
pub const MAX_FILES: usize = 1 << 16;

type Fingerprint = u128;
type Place = (FileId, u64);

#[derive(Debug, Default)]
struct Inner {
    files: Vec<FileSummary>,
    /// The paths again, to be shared with tags.
    paths: Vec<Arc<str>>,
    /// Places whose content has not reached the disk. Files may hold the same block.
    by_content: HashMap<Fingerprint, Vec<Place>>,
    by_place: HashMap<Place, Fingerprint>,
    /// Oldest first; an entry whose place has another content by now is stale.
    order: VecDeque<(Place, Fingerprint)>,
    /// Content of disk blocks, by byte offset.
    on_disk: HashMap<u64, (Fingerprint, Place)>,
    counts: BlockCounts,
}

/// The index.
#[derive(Debug)]
pub struct BlockIndex {
    limit: usize,
    inner: Mutex<Inner>,
}

impl BlockIndex {
    /// Remembers up to `limit` pending blocks, and as many blocks of the disk.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), inner: Mutex::default() }
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

    /// A process wrote `block` at byte `offset` of `file`. What it wrote there before will not reach the disk.
    pub fn wrote_block(&self, file: FileId, offset: u64, block: &[u8]) {
        let content = xxh3_128(block);
        let place = (file, offset);
        let mut inner = self.lock();
        if let Some(old) = inner.by_place.insert(place, content) {
            if old == content {
                return;
            }
            inner.remove_content(old, place);
            inner.counts.superseded += 1;
        }
        inner.by_content.entry(content).or_default().push(place);
        inner.order.push_back((place, content));
        if let Some(summary) = inner.files.get_mut(file.0) {
            summary.blocks += 1;
        }
        inner.shrink(self.limit);
    }

    /// The block at `offset` of `file` was not written after all.
    pub fn forget_block(&self, file: FileId, offset: u64) {
        let mut inner = self.lock();
        let place = (file, offset);
        if let Some(content) = inner.by_place.remove(&place) {
            inner.remove_content(content, place);
            if let Some(summary) = inner.files.get_mut(file.0) {
                summary.blocks = summary.blocks.saturating_sub(1);
            }
        }
    }

    /// A write of `bytes` bytes to `file` ended, and left it `size` bytes long.
    pub fn wrote(&self, file: FileId, bytes: u64, size: u64) {
        if let Some(summary) = self.lock().files.get_mut(file.0) {
            summary.bytes = summary.bytes.saturating_add(bytes);
            summary.writes += 1;
            summary.size = size;
        }
    }

    /// What was seen of each file.
    #[must_use]
    pub fn files(&self) -> Vec<FileSummary> {
        self.lock().files.clone()
    }

    /// What became of the blocks.
    #[must_use]
    pub fn counts(&self) -> BlockCounts {
        let inner = self.lock();
        BlockCounts { pending: inner.by_place.len() as u64, ..inner.counts }
    }
}

impl Inner {
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
            if self.by_place.get(&place) == Some(&content) {
                self.by_place.remove(&place);
                self.remove_content(content, place);
                self.counts.forgotten += 1;
            }
        }
        if self.order.len() > 2 * self.by_place.len() + 1024 {
            let by_place = &self.by_place;
            self.order.retain(|(place, content)| by_place.get(place) == Some(content));
        }
    }

    fn tag(&self, (file, offset): Place) -> IoTag {
        let source = self.paths.get(file.0).zip(self.files.get(file.0)).map(|(path, summary)| Source {
            path: Arc::clone(path),
            file_size: summary.size,
            offset,
        });
        IoTag { class: IoClass::Data, source }
    }
}

impl Classifier for BlockIndex {
    fn classify_write(&self, offset: u64, block: &[u8]) -> IoTag {
        let mut inner = self.lock();
        if block.len() != BLOCK_SIZE {
            inner.counts.unknown += 1;
            return IoTag::default();
        }
        let content = xxh3_128(block);
        let pending = inner.by_content.get(&content).and_then(|places| places.first().copied());
        let place = match pending {
            Some(place) => {
                inner.by_place.remove(&place);
                inner.remove_content(content, place);
                if inner.on_disk.len() >= self.limit {
                    inner.on_disk.clear();
                }
                inner.on_disk.insert(offset, (content, place));
                place
            }
            // The page is written again, as it was.
            None => match inner.on_disk.get(&offset) {
                Some(&(known, place)) if known == content => place,
                _ => {
                    inner.on_disk.remove(&offset);
                    inner.counts.unknown += 1;
                    return IoTag::default();
                }
            },
        };
        inner.counts.data += 1;
        if let Some(summary) = inner.files.get_mut(place.0.0) {
            summary.matched += 1;
        }
        inner.tag(place)
    }

    fn classify_read(&self, offset: u64) -> IoTag {
        let inner = self.lock();
        inner.on_disk.get(&offset).map(|&(_, place)| inner.tag(place)).unwrap_or_default()
    }

    fn discarded(&self, offset: u64, length: u64) {
        let mut inner = self.lock();
        let end = offset.saturating_add(length);
        let block = BLOCK_SIZE as u64;
        // The shorter way round: a discard may cover the whole disk.
        if length / block > inner.on_disk.len() as u64 {
            inner.on_disk.retain(|&at, _| at < offset || at >= end);
        } else {
            for at in (offset - offset % block..end).step_by(BLOCK_SIZE) {
                inner.on_disk.remove(&at);
            }
        }
    }
}

#[cfg(test)]
mod tests;
