//! Calls that change which files there are, what they are called, and how long they are.
//!
//! The kernel has done it when the call returns. So nothing is concluded from the arguments but which files to look
//! at: those that are known by a name that the call names. What has become of them their inodes and dentries say.
//! Blocks that are filled with zeros in part may have reached the disk by then, so they are the call's from its entry.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use super::blocks::{BLOCK, partial_blocks};
use super::{Guest, Inner, SharingCall};
use crate::guest::{Fate, Gva, OpenFile};
use crate::insight::{FileId, FilePattern, MAX_FILES, Origin, Sharing};
use crate::syscall::RawCall;

const OPEN: u64 = 2;
const TRUNCATE: u64 = 76;
const FTRUNCATE: u64 = 77;
const RENAME: u64 = 82;
const CREAT: u64 = 85;
const LINK: u64 = 86;
const UNLINK: u64 = 87;
const OPENAT: u64 = 257;
const UNLINKAT: u64 = 263;
const RENAMEAT: u64 = 264;
const LINKAT: u64 = 265;
const FALLOCATE: u64 = 285;
const RENAMEAT2: u64 = 316;
const OPENAT2: u64 = 437;

/// The calls that are looked at here, by number.
pub(super) const CHANGES: [u64; 14] = [
    OPEN, TRUNCATE, FTRUNCATE, RENAME, CREAT, LINK, UNLINK, OPENAT, UNLINKAT, RENAMEAT, LINKAT, FALLOCATE,
    RENAMEAT2, OPENAT2,
];

/// Modes of `fallocate` (include/uapi/linux/falloc.h).
const FALLOC_FL_PUNCH_HOLE: u64 = 0x02;
const FALLOC_FL_COLLAPSE_RANGE: u64 = 0x08;
const FALLOC_FL_ZERO_RANGE: u64 = 0x10;
const FALLOC_FL_INSERT_RANGE: u64 = 0x20;
/// A flag of `linkat`: the descriptor itself gets a name.
const AT_EMPTY_PATH: u64 = 0x1000;
const PATH_MAX: usize = 4096;
/// Other names of a file that are remembered: the last ones.
const MAX_ALIASES: usize = 8;
/// Files with one last part of their paths that a call by such a name may be about. What is kept for a call is bounded so.
const MAX_NAMESAKES: usize = 64;
/// Files without a name that are remembered, and that are looked at again at one call.
const MAX_ORPHANS: usize = 1 << 10;
const ORPHANS_AT_ONCE: usize = 16;

type Identity = (u32, u64);

/// A file that was seen, and by what name.
#[derive(Clone, Debug)]
struct Known {
    /// None if it is not to be followed.
    id: Option<FileId>,
    path: String,
    /// The last parts of other paths that it was given.
    aliases: Vec<String>,
    open: OpenFile,
}

/// The files that are known.
#[derive(Debug, Default)]
pub(super) struct Files {
    known: HashMap<Identity, Known>,
    /// The same by the last part of their paths, and by their aliases.
    names: HashMap<String, BTreeSet<Identity>>,
    /// Those without a name that are still used. They end without a call that names them.
    orphans: VecDeque<Identity>,
    /// Which are followed; all if there is none.
    patterns: Vec<FilePattern>,
}

impl Files {
    pub(super) fn new(patterns: Vec<FilePattern>) -> Self {
        Self { patterns, ..Self::default() }
    }

    /// Whether a file of this path is to be followed.
    pub(super) fn follows(&self, path: &str) -> bool {
        self.patterns.is_empty() || self.patterns.iter().any(|pattern| pattern.contains(path))
    }

    /// None if it is not known; and none in it if it is not to be followed.
    pub(super) fn id(&self, identity: Identity) -> Option<Option<FileId>> {
        self.known.get(&identity).map(|known| known.id)
    }

    pub(super) fn add(&mut self, id: Option<FileId>, path: String, open: &OpenFile) {
        if self.known.len() >= MAX_FILES {
            return;
        }
        self.names.entry(name(&path).to_owned()).or_default().insert(open.identity);
        self.known.insert(open.identity, Known { id, path, aliases: Vec::new(), open: open.clone() });
    }

    fn remove(&mut self, identity: Identity) -> Option<Known> {
        let known = self.known.remove(&identity)?;
        for name in known.aliases.iter().map(String::as_str).chain([name(&known.path)]) {
            self.forget_name(identity, name);
        }
        Some(known)
    }

    /// A file may be looked for by this name, too.
    fn alias(&mut self, identity: Identity, alias: &str) {
        let Some(known) = self.known.get_mut(&identity) else { return };
        let is_new = name(&known.path) != alias && !known.aliases.iter().any(|other| other == alias);
        if !is_new {
            return;
        }
        known.aliases.push(alias.to_owned());
        let oldest = (known.aliases.len() > MAX_ALIASES).then(|| known.aliases.remove(0));
        self.names.entry(alias.to_owned()).or_default().insert(identity);
        if let Some(oldest) = oldest {
            self.forget_name(identity, &oldest);
        }
    }

    /// A file is not looked for by this name any more.
    fn forget_name(&mut self, identity: Identity, name: &str) {
        let of_name = self.names.get_mut(name);
        if of_name.is_some_and(|of_name| of_name.remove(&identity) && of_name.is_empty()) {
            self.names.remove(name);
        }
    }

    fn named(&self, name: &str) -> Vec<Identity> {
        self.names.get(name).into_iter().flatten().copied().collect()
    }

    /// Those that are in a directory of this name, at any depth.
    fn below(&self, name: &str) -> Vec<Identity> {
        let is_below = |path: &str| path.split('/').rev().skip(1).any(|part| part == name);
        self.known.iter().filter(|(_, known)| is_below(&known.path)).map(|(&identity, _)| identity).collect()
    }
}

/// What a descriptor in an argument means, if it is a regular file.
pub(super) fn open_file(guest: Guest<'_>, fd: u64) -> Option<OpenFile> {
    let fd = u32::try_from(fd & u64::from(u32::MAX)).ok()?;
    guest.linux.open_file(guest.view, guest.task, fd).ok().flatten()
}

/// The last part of a path.
fn name(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}

/// Whether `fallocate` in this mode fills a range with zeros.
fn zeroes(mode: u64) -> bool {
    mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE) != 0
}

/// From where a file of this size ends to the end of that block: the offset and the length.
fn rest_of_block(size: u64) -> (u64, u64) {
    (size, size.wrapping_neg() % BLOCK)
}

impl Inner {
    /// A call that changes files is about to. With `O_SYNC`, and on some file systems always, what it fills with zeros in
    /// part is on the disk before it returns (`ext4_zero_range`, `xfs_setattr_size`).
    pub(super) fn change_entered(
        &mut self,
        guest: Guest<'_>,
        call: &RawCall,
        origin: &Origin,
    ) -> Option<Arc<SharingCall>> {
        let [a, b, c, d, ..] = call.args;
        let known = || Some(vec![self.known_file(guest, a)?.0]);
        let (files, (offset, length)) = match call.number {
            TRUNCATE => (self.ids(guest, a)?, rest_of_block(b)),
            FTRUNCATE => (known()?, rest_of_block(b)),
            FALLOCATE if zeroes(b) => (known()?, (c, d)),
            _ => return None,
        };
        let origin = Arc::new(origin.clone());
        let sharing = |file: FileId| {
            let origin = &origin;
            partial_blocks(offset, length).map(move |block| {
                let range = block..block.saturating_add(BLOCK);
                Sharing { file, range, origin: Arc::clone(origin) }
            })
        };
        let sharings: Vec<Sharing> = files.into_iter().flat_map(sharing).collect();
        (!sharings.is_empty()).then(|| self.sharing(sharings))
    }

    /// The files that are known by the last part of the path at `path`.
    fn ids(&self, guest: Guest<'_>, path: u64) -> Option<Vec<FileId>> {
        let path = guest.view.read_string(Gva(path), PATH_MAX).ok()?;
        let files = self.files.named(name(&path)).into_iter().take(MAX_NAMESAKES);
        Some(files.filter_map(|identity| self.files.id(identity)?).collect())
    }

    /// A call that changes files has returned, without an error.
    pub(super) fn changed(&mut self, guest: Guest<'_>, call: &RawCall, result: u64, origin: Origin) {
        let [a, b, c, d, ..] = call.args;
        let origin = Arc::new(origin);
        let orphans = self.files.orphans.len().min(ORPHANS_AT_ONCE);
        let orphans = self.files.orphans.drain(..orphans).collect();
        self.look_at_each(guest, orphans, &origin);
        match call.number {
            OPEN | CREAT | OPENAT | OPENAT2 => self.opened(guest, result, &origin),
            UNLINK | TRUNCATE => self.look_at(guest, a, &origin),
            UNLINKAT => self.look_at(guest, b, &origin),
            RENAME => self.moved(guest, a, b, &origin),
            LINK => self.linked(guest, a, b),
            LINKAT if call.args[4] & AT_EMPTY_PATH != 0 => {
                let path = self.path(guest, d);
                if let Some((file, path)) = open_file(guest, a).zip(path) {
                    self.files.alias(file.identity, name(&path));
                }
            }
            LINKAT => self.linked(guest, b, d),
            RENAMEAT | RENAMEAT2 => self.moved(guest, b, d, &origin),
            FTRUNCATE => {
                if let Some((id, file)) = self.known_file(guest, a) {
                    self.resized(guest, id, &file, file.size, &origin);
                }
            }
            FALLOCATE => self.allocated(guest, a, b, (c, d), &origin),
            _ => {}
        }
    }

    /// A file was opened. If it is known, it may have become another one: inode numbers are used again. It may have been
    /// renamed by somebody whom nobody watches, and truncated by this very call.
    fn opened(&mut self, guest: Guest<'_>, fd: u64, origin: &Arc<Origin>) {
        let Some(file) = open_file(guest, fd) else { return };
        let Some(known) = self.files.known.get_mut(&file.identity) else { return };
        let id = known.id;
        if known.open.generation != file.generation {
            self.files.remove(file.identity);
            if let Some(id) = id {
                self.index.deleted(id);
            }
            return;
        }
        // The kernel may have had another inode and dentry in memory for it before.
        known.open = file.clone();
        let path = guest.path(&file);
        // One with several names keeps the first that was seen.
        if known.path != path && file.links == 1 {
            self.rename(file.identity, path);
        }
        if let Some(id) = id {
            self.resized(guest, id, &file, file.size, origin);
        }
    }

    /// A known file goes by another name now.
    fn rename(&mut self, identity: Identity, path: String) {
        let Some(known) = self.files.remove(identity) else { return };
        // One that was followed still is; one that was not may be from now on.
        if let Some(id) = known.id {
            self.index.renamed(id, &path);
            self.files.add(known.id, path, &known.open);
            known.aliases.iter().for_each(|alias| self.files.alias(identity, alias));
        }
    }

    /// An open file that is known.
    fn known_file(&self, guest: Guest<'_>, fd: u64) -> Option<(FileId, OpenFile)> {
        let file = open_file(guest, fd)?;
        Some((self.files.id(file.identity)??, file))
    }

    /// Looks at the files that are known by the last part of the path at `path`.
    fn look_at(&mut self, guest: Guest<'_>, path: u64, origin: &Arc<Origin>) {
        if let Some(path) = self.path(guest, path) {
            let files = self.files.named(name(&path));
            self.look_at_each(guest, files, origin);
        }
    }

    /// Something was renamed, and something may have been replaced.
    fn moved(&mut self, guest: Guest<'_>, from: u64, to: u64, origin: &Arc<Origin>) {
        let (Some(from), Some(to)) = (self.path(guest, from), self.path(guest, to)) else { return };
        let (from, to) = (name(&from), name(&to));
        for identity in self.files.named(from) {
            let known = self.files.known.get(&identity);
            if known.is_some_and(|known| known.aliases.iter().any(|alias| alias == from)) {
                self.files.alias(identity, to);
            }
        }
        for name in [from, to] {
            // A directory takes what is in it along.
            let files = [self.files.named(name), self.files.below(name)].concat();
            self.look_at_each(guest, files, origin);
        }
    }

    /// A file has one more name.
    fn linked(&mut self, guest: Guest<'_>, from: u64, to: u64) {
        let (Some(from), Some(to)) = (self.path(guest, from), self.path(guest, to)) else { return };
        for identity in self.files.named(name(&from)).into_iter().take(MAX_NAMESAKES) {
            self.files.alias(identity, name(&to));
        }
    }

    fn path(&mut self, guest: Guest<'_>, at: u64) -> Option<String> {
        let path = guest.view.read_string(Gva(at), PATH_MAX).ok();
        self.counts.unreadable += u64::from(path.is_none());
        path
    }

    fn look_at_each(&mut self, guest: Guest<'_>, files: Vec<Identity>, origin: &Arc<Origin>) {
        for identity in files {
            let Some(known) = self.files.known.get(&identity).cloned() else { continue };
            match guest.linux.fate(guest.view, &known.open) {
                Ok(Fate::Orphaned) if self.files.orphans.len() < MAX_ORPHANS => {
                    if !self.files.orphans.contains(&identity) {
                        self.files.orphans.push_back(identity);
                    }
                }
                Ok(Fate::Gone | Fate::Orphaned) | Err(_) => {
                    self.files.remove(identity);
                    if let Some(id) = known.id {
                        self.index.deleted(id);
                    }
                }
                Ok(Fate::There { path, size }) => {
                    if let Some(id) = known.id {
                        self.resized(guest, id, &known.open, size, origin);
                    }
                    if let Some(path) = path.filter(|path| *path != known.path) {
                        self.rename(identity, path);
                    }
                }
            }
        }
    }

    /// The file has `size` bytes. If that is less than before, its last block ends with zeros now.
    fn resized(&mut self, guest: Guest<'_>, id: FileId, file: &OpenFile, size: u64, origin: &Arc<Origin>) {
        if self.index.resized(id, size) {
            self.zeroed(guest, id, file, rest_of_block(size), origin);
        }
    }

    fn allocated(&mut self, guest: Guest<'_>, fd: u64, mode: u64, range: (u64, u64), origin: &Arc<Origin>) {
        let Some((id, file)) = self.known_file(guest, fd) else { return };
        let (offset, length) = range;
        if mode & (FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE) != 0 {
            // What follows has moved, and nobody has read or written it.
            self.index.punched(id, offset - offset % BLOCK..u64::MAX);
        } else if zeroes(mode) {
            let end = offset.saturating_add(length);
            let first = offset.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX);
            self.index.punched(id, first..end - end % BLOCK);
            self.zeroed(guest, id, &file, range, origin);
        }
        self.index.resized(id, file.size);
    }

    /// The blocks that a range covers in part hold something else now, and may have reached the disk.
    fn zeroed(
        &mut self,
        guest: Guest<'_>,
        id: FileId,
        file: &OpenFile,
        (offset, length): (u64, u64),
        origin: &Arc<Origin>,
    ) {
        for block in partial_blocks(offset, length) {
            if let Some(content) = guest.cached(file, block) {
                self.index.found_block(id, block, &content, origin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_part_of_a_path_is_its_name() {
        assert_eq!(["/a/b", "b", "b/", "/a/b//", "/"].map(name), ["b", "b", "b", "b", ""]);
    }
}
