//! Files that processes have mapped: what they wrote there without a call, and what the disk was read for.
//!
//! A page that was written through a shared mapping is dirty in the process's page table until it has been written back.
//! The mapped pages are looked at whenever the process makes a call after which that may happen, or after which they can
//! no longer be seen: msync, fsync and their kin, munmap, execve, exit.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use sky_devices::io_class::BLOCK_SIZE;
use vm_memory::{Bytes, GuestAddress};

use super::blocks::BLOCK;
use super::names::open_file;
use super::{Guest, Inner};
use crate::guest::Gva;
use crate::insight::{FileId, Origin, Sharer, Sharing};
use crate::syscall::RawCall;

const MMAP: u64 = 9;
const MUNMAP: u64 = 11;
const MREMAP: u64 = 25;
const MSYNC: u64 = 26;
const EXECVE: u64 = 59;
const FSYNC: u64 = 74;
const FDATASYNC: u64 = 75;
const SYNC: u64 = 162;
const EXIT_GROUP: u64 = 231;
const SYNC_FILE_RANGE: u64 = 277;
const SYNCFS: u64 = 306;
const EXECVEAT: u64 = 322;

/// The calls that are looked at here, by number.
pub(super) const MAPS: [u64; 12] = [
    MMAP,
    MUNMAP,
    MREMAP,
    MSYNC,
    EXECVE,
    FSYNC,
    FDATASYNC,
    SYNC,
    EXIT_GROUP,
    SYNC_FILE_RANGE,
    SYNCFS,
    EXECVEAT,
];

/// Flags of `mmap` (include/uapi/linux/mman.h).
const MAP_SHARED: u64 = 1;
const MAP_ANONYMOUS: u64 = 0x20;
/// Mappings of files that are remembered of one process.
const MAX_MAPPINGS: usize = 4096;
/// Pages that one call looks at: 256 MiB.
const MAX_PAGES: u64 = 1 << 16;
/// Flags of `open` (include/uapi/asm-generic/fcntl.h).
const O_ACCMODE: u32 = 3;
const O_RDWR: u32 = 2;

/// A file, or a part of it, in a process's address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mapping {
    start: u64,
    end: u64,
    /// Byte offset in the file of what is at `start`.
    offset: u64,
    identity: (u32, u64),
    file: FileId,
    /// Writes go to the file.
    shared: bool,
    /// Whether there may be writes: the descriptor was open for it.
    writable: bool,
}

/// The mappings of all monitored processes.
#[derive(Debug, Default)]
pub(super) struct Mappings {
    /// By process id.
    all: HashMap<u32, Vec<Mapping>>,
    /// Processes of which the index knows that they share something.
    sharing: HashSet<u32>,
}

impl Mappings {
    /// Nothing of what was mapped in `range` is any more.
    fn carve(&mut self, pid: u32, range: &Range<u64>) {
        let Some(mappings) = self.all.get_mut(&pid) else { return };
        let mut left = Vec::with_capacity(mappings.len() + 1);
        for mapping in mappings.drain(..) {
            let before = Mapping { end: mapping.end.min(range.start), ..mapping };
            let start = mapping.start.max(range.end);
            let offset = mapping.offset.saturating_add(start.saturating_sub(mapping.start));
            let behind = Mapping { start, offset, ..mapping };
            left.extend([before, behind].into_iter().filter(|part| part.start < part.end));
        }
        *mappings = left;
    }

    fn add(&mut self, pid: u32, mapping: Mapping) {
        self.carve(pid, &(mapping.start..mapping.end));
        let mappings = self.all.entry(pid).or_default();
        if mappings.len() < MAX_MAPPINGS && mapping.start < mapping.end {
            mappings.push(mapping);
        }
    }

    /// What was mapped in `from` is at `to` now, in another length maybe.
    fn relocate(&mut self, pid: u32, from: &Range<u64>, to: &Range<u64>) {
        let moved = self.all.get(&pid).and_then(|all| {
            all.iter().find(|mapping| mapping.start <= from.start && from.start < mapping.end).copied()
        });
        self.carve(pid, from);
        self.carve(pid, to);
        if let Some(mapping) = moved {
            let offset = mapping.offset.saturating_add(from.start - mapping.start);
            self.add(pid, Mapping { start: to.start, end: to.end, offset, ..mapping });
        }
    }

    /// The parts of mappings that lie in `range`.
    fn within(&self, pid: u32, range: &Range<u64>) -> Vec<Mapping> {
        let part = |mapping: &Mapping| {
            let start = mapping.start.max(range.start);
            let offset = mapping.offset.saturating_add(start - mapping.start);
            Mapping { start, end: mapping.end.min(range.end), offset, ..*mapping }
        };
        let all = self.all.get(&pid).into_iter().flatten().map(part);
        all.filter(|part| part.start < part.end).collect()
    }
}

/// A range of whole pages, from an address and a length.
fn pages(start: u64, length: u64) -> Range<u64> {
    let start = start - start % BLOCK;
    start..start.saturating_add(length.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX))
}

impl Inner {
    /// A process has another address space, or none.
    pub(super) fn forget_mappings(&mut self, pid: u32) {
        self.mappings.all.remove(&pid);
        self.share(pid);
    }

    /// Tells the index what a process may write without a call.
    fn share(&mut self, pid: u32) {
        let Mappings { all, sharing } = &mut self.mappings;
        let of_process = all.get(&pid).into_iter().flatten();
        let shared: Vec<&Mapping> = of_process.filter(|mapping| mapping.shared && mapping.writable).collect();
        if shared.is_empty() && !sharing.remove(&pid) {
            return;
        }
        if !shared.is_empty() {
            sharing.insert(pid);
        }
        let origin = Arc::new(Origin { writer: self.writers.get(&pid).cloned(), ..Origin::default() });
        let part = |mapping: &Mapping| {
            let end = mapping.offset.saturating_add(mapping.end - mapping.start);
            Sharing { file: mapping.file, range: mapping.offset..end, origin: Arc::clone(&origin) }
        };
        self.index.share(Sharer::Process(pid), shared.into_iter().map(part).collect());
    }

    /// A call is about to be made after which mapped pages may be written back, or be gone.
    pub(super) fn before_mapping(&mut self, guest: Guest<'_>, pid: u32, call: &RawCall, origin: Origin) {
        let origin = Arc::new(origin);
        let [a, b, ..] = call.args;
        let everything = 0..u64::MAX;
        let (range, only_shared) = match call.number {
            MUNMAP => (pages(a, b), false),
            MSYNC => (pages(a, b), true),
            FSYNC | FDATASYNC | SYNC_FILE_RANGE | SYNC | SYNCFS => (everything, true),
            EXECVE | EXECVEAT | EXIT_GROUP => (everything, false),
            _ => return,
        };
        let mut mappings = self.mappings.within(pid, &range);
        mappings.retain(|mapping| mapping.shared || !only_shared);
        if let FSYNC | FDATASYNC | SYNC_FILE_RANGE = call.number {
            if mappings.is_empty() {
                return;
            }
            let Some(file) = open_file(guest, a) else { return };
            mappings.retain(|mapping| mapping.identity == file.identity);
        }
        self.look_at_pages(guest, &mappings, &origin);
        if let EXECVE | EXECVEAT | EXIT_GROUP = call.number {
            self.executable(guest, &origin);
        }
    }

    /// A call has returned, without an error, that changes what is mapped.
    pub(super) fn after_mapping(&mut self, guest: Guest<'_>, pid: u32, call: &RawCall, result: u64) {
        let [a, b, c, flags, fd, offset] = call.args;
        match call.number {
            MMAP => {
                let range = pages(result, b);
                self.mappings.carve(pid, &range);
                if flags & MAP_ANONYMOUS == 0
                    && let Some(open) = open_file(guest, fd)
                    && let Some(file) = self.file(guest, &open)
                {
                    let (identity, shared) = (open.identity, flags & MAP_SHARED != 0);
                    let writable = open.flags & O_ACCMODE == O_RDWR;
                    let Range { start, end } = range;
                    self.mappings.add(pid, Mapping { start, end, offset, identity, file, shared, writable });
                }
            }
            MUNMAP => self.mappings.carve(pid, &pages(a, b)),
            MREMAP => self.mappings.relocate(pid, &pages(a, b), &pages(result, c)),
            _ => return,
        }
        self.share(pid);
    }

    /// Looks at the pages that are there: dirty ones of shared mappings will be written, others have been read, maybe
    /// from a disk.
    fn look_at_pages(&mut self, guest: Guest<'_>, mappings: &[Mapping], origin: &Arc<Origin>) {
        let mut left = MAX_PAGES;
        let mut content = [0; BLOCK_SIZE];
        let has_unnamed = self.index.has_unnamed();
        for mapping in mappings {
            let mut at = mapping.start;
            while at < mapping.end {
                if left == 0 {
                    self.counts.unwalked_mappings += 1;
                    return;
                }
                left -= 1;
                let offset = mapping.offset.saturating_add(at - mapping.start);
                if let Ok(page) = guest.view.translate(Gva(at))
                    && let is_written = page.dirty
                    && mapping.shared
                    && (is_written || has_unnamed)
                    && guest.view.physical().read_slice(&mut content, GuestAddress(page.gpa.0)).is_ok()
                {
                    if is_written {
                        self.index.found_block(mapping.file, offset, &content, origin);
                    } else {
                        self.index.name_block(mapping.file, offset, &content, origin);
                    }
                }
                at = at.saturating_add(BLOCK);
            }
        }
    }

    /// The executable was mapped by the kernel.
    fn executable(&mut self, guest: Guest<'_>, origin: &Arc<Origin>) {
        if !self.index.has_unnamed() {
            return;
        }
        let Ok(Some(open)) = guest.linux.executable_file(guest.view, guest.task) else { return };
        let Some(file) = self.file(guest, &open) else { return };
        for offset in (0..open.size).step_by(BLOCK_SIZE).take(usize::try_from(MAX_PAGES).unwrap_or(0)) {
            if let Some(content) = guest.cached(&open, offset) {
                self.index.name_block(file, offset, &content, origin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::config::Insight;
    use crate::insight::BlockIndex;

    #[derive(Clone, Debug)]
    enum Step {
        Map { at: u64, pages: u64, offset: u64, file: usize },
        Unmap { at: u64, pages: u64 },
        Move { at: u64, pages: u64, to: u64, new: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..20u64, 1..8u64, 0..50u64, 0..2usize).prop_map(|(at, pages, offset, file)| Step::Map {
                at,
                pages,
                offset,
                file
            }),
            (0..20u64, 1..8u64).prop_map(|(at, pages)| Step::Unmap { at, pages }),
            (0..20u64, 1..4u64, 30..40u64, 1..4u64).prop_map(|(at, pages, to, new)| Step::Move {
                at,
                pages,
                to,
                new
            }),
        ]
    }

    proptest! {
        /// Against a map from pages to pages of files.
        #[test]
        fn every_page_is_where_it_was_mapped(steps in proptest::collection::vec(step(), 1..40)) {
            let index = BlockIndex::new(&Insight::default());
            let files = [index.add_file("/a"), index.add_file("/b")];
            let mut mappings = Mappings::default();
            let mut model: BTreeMap<u64, (FileId, u64)> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Map { at, pages, offset, file } => {
                        let identity = (0, file as u64);
                        let (start, end, offset_bytes) = (at * BLOCK, (at + pages) * BLOCK, offset * BLOCK);
                        let file = files[file];
                        mappings.add(7, Mapping { start, end, offset: offset_bytes, identity, file, shared: true, writable: true });
                        model.extend((0..pages).map(|page| (at + page, (file, offset + page))));
                    }
                    Step::Unmap { at, pages: count } => {
                        mappings.carve(7, &pages(at * BLOCK, count * BLOCK - 1));
                        model.retain(|&page, _| page < at || page >= at + count);
                    }
                    Step::Move { at, pages: count, to, new } => {
                        mappings.relocate(7, &pages(at * BLOCK, count * BLOCK), &pages(to * BLOCK, new * BLOCK));
                        let first = model.get(&at).copied();
                        model.retain(|&page, _| page < at || page >= at + count);
                        model.retain(|&page, _| page < to || page >= to + new);
                        if let Some((file, offset)) = first {
                            model.extend((0..new).map(|page| (to + page, (file, offset + page))));
                        }
                    }
                }
                for page in 0..60 {
                    let found = mappings.within(7, &pages(page * BLOCK, 1));
                    let found: Vec<_> = found.iter().map(|part| (part.file, part.offset / BLOCK)).collect();
                    prop_assert_eq!(found, Vec::from_iter(model.get(&page).copied()), "page {}", page);
                }
                prop_assert!(mappings.within(8, &(0..u64::MAX)).is_empty());
            }
        }

        #[test]
        fn any_addresses_are_taken(a: u64, b: u64, c: u64, d: u64) {
            let mut mappings = Mappings::default();
            let file = BlockIndex::new(&Insight::default()).add_file("/a");
            let Range { start, end } = pages(a, b);
            mappings.add(1, Mapping { start, end, offset: c, identity: (0, 0), file, shared: false, writable: false });
            mappings.carve(1, &pages(c, d));
            mappings.relocate(1, &pages(a, d), &pages(b, c));
            prop_assert!(mappings.within(1, &(0..u64::MAX)).iter().all(|part| part.start < part.end));
        }
    }
}
