//! The files that blocks belong to.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use super::{FileId, FileSummary, Identity, MAX_FILES, Place};
use crate::insight::Origin;

/// Mappings that are looked through for one block.
const MAX_SHARINGS: usize = 1 << 10;

/// Who may write to a file at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Sharer {
    /// A process that has mapped it.
    Process(u32),
    /// A call that is not over, by a number of its own.
    Call(u64),
}

/// A part of a file that somebody may write to.
#[derive(Clone, Debug)]
pub(crate) struct Sharing {
    pub(crate) file: FileId,
    /// Bytes of the file.
    pub(crate) range: Range<u64>,
    pub(crate) origin: Arc<Origin>,
}

#[derive(Debug)]
struct File {
    summary: FileSummary,
    /// The path again, to be shared with tags.
    path: Arc<str>,
    identity: Option<Identity>,
}

/// Bytes of a file, and who may write to them.
type Shared = (Range<u64>, Arc<Origin>);

/// The files by their numbers.
#[derive(Debug, Default)]
pub(super) struct Files {
    files: Vec<File>,
    numbers: HashMap<Identity, FileId>,
    /// Those that were deleted, in that order. Their numbers may be used again.
    deleted: VecDeque<FileId>,
    /// What was seen of files whose numbers are others' now.
    retired: FileSummary,
    /// Who may write to what of a file.
    sharings: BTreeMap<(FileId, Sharer), Vec<Shared>>,
    /// The files that somebody shares.
    shared_by: HashMap<Sharer, Vec<FileId>>,
    /// Those to whose places something came that was not expected there.
    arrived: HashSet<Sharer>,
}

impl Files {
    /// Takes up a file, and says whether its number was another's before.
    pub(super) fn add(&mut self, path: &str) -> (FileId, bool) {
        let last = FileId(u16::MAX);
        let (id, path) = match self.files.len() {
            MAX_FILES => match self.deleted.pop_front() {
                Some(id) => (id, path),
                None => return (last, false),
            },
            count if count == MAX_FILES - 1 => (last, "(more files)"),
            count => (FileId(u16::try_from(count).unwrap_or(u16::MAX)), path),
        };
        let summary = FileSummary { path: path.to_owned(), ..FileSummary::default() };
        let file = File { summary, path: path.into(), identity: None };
        match self.files.get_mut(usize::from(id.0)) {
            Some(old) => {
                let old = std::mem::replace(old, file);
                self.retired.add(&old.summary);
                self.unidentify(id, old.identity);
                (id, true)
            }
            None => {
                self.files.push(file);
                (id, false)
            }
        }
    }

    /// By what the kernel tells this file from others.
    pub(super) fn identify(&mut self, id: FileId, identity: Identity) {
        // Many files share the last number.
        if usize::from(id.0) == MAX_FILES - 1 {
            return;
        }
        let Some(file) = self.files.get_mut(usize::from(id.0)) else { return };
        let old = file.identity.replace(identity);
        if old != Some(identity) {
            self.unidentify(id, old);
        }
        self.numbers.insert(identity, id);
    }

    fn unidentify(&mut self, id: FileId, identity: Option<Identity>) {
        if let Some(identity) = identity
            && self.numbers.get(&identity) == Some(&id)
        {
            self.numbers.remove(&identity);
        }
    }

    /// The block at byte `offset` of the file that the kernel tells from others so.
    pub(super) fn place(&self, identity: Identity, offset: u64) -> Option<Place> {
        Place::new(*self.numbers.get(&identity)?, offset)
    }

    /// There is no such file any more.
    pub(super) fn delete(&mut self, id: FileId) {
        if usize::from(id.0) == MAX_FILES - 1 {
            return;
        }
        let identity = self.files.get_mut(usize::from(id.0)).and_then(|file| file.identity.take());
        self.unidentify(id, identity);
        if self.deleted.len() < MAX_FILES {
            self.deleted.push_back(id);
        }
    }

    pub(super) fn summary(&mut self, id: FileId) -> Option<&mut FileSummary> {
        self.files.get_mut(usize::from(id.0)).map(|file| &mut file.summary)
    }

    /// Its path, and its size in bytes.
    pub(super) fn get(&self, id: FileId) -> Option<(&Arc<str>, u64)> {
        self.files.get(usize::from(id.0)).map(|file| (&file.path, file.summary.size))
    }

    pub(super) fn rename(&mut self, id: FileId, path: &str) {
        if let Some(file) = self.files.get_mut(usize::from(id.0)) {
            path.clone_into(&mut file.summary.path);
            file.path = path.into();
        }
    }

    /// What was seen of each file, and of those together that are no longer told apart.
    pub(super) fn summaries(&self) -> impl Iterator<Item = FileSummary> {
        let retired = FileSummary { path: "(deleted files)".to_owned(), ..self.retired.clone() };
        self.files.iter().map(|file| file.summary.clone()).chain([retired])
    }

    /// What somebody may write to now, and nothing else.
    pub(super) fn share(&mut self, sharer: Sharer, sharings: Vec<Sharing>) {
        self.arrived.remove(&sharer);
        for file in self.shared_by.remove(&sharer).into_iter().flatten() {
            self.sharings.remove(&(file, sharer));
        }
        for Sharing { file, range, origin } in sharings {
            self.sharings.entry((file, sharer)).or_default().push((range, origin));
            self.shared_by.entry(sharer).or_default().push(file);
        }
    }

    /// A place comes to the disk, and not with what was expected there. Says who may have written that.
    pub(super) fn arrives(&mut self, place: Place) -> Option<Arc<Origin>> {
        let file = place.file();
        let all = self
            .sharings
            .range((file, Sharer::Process(0))..=(file, Sharer::Call(u64::MAX)))
            .flat_map(|(&(_, sharer), theirs)| theirs.iter().map(move |shared| (sharer, shared)));
        let mut first = None;
        for (sharer, (range, origin)) in all.take(MAX_SHARINGS) {
            if range.contains(&place.offset()) {
                first.get_or_insert_with(|| Arc::clone(origin));
                self.arrived.insert(sharer);
            }
        }
        first
    }

    /// Whether something came to a place that is shared so, other than what was expected there.
    pub(super) fn has_arrived(&self, sharer: Sharer) -> bool {
        self.arrived.contains(&sharer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_deleted_files_are_used_again() {
        let mut files = Files::default();
        for number in 0..MAX_FILES + 2 {
            let (id, again) = files.add(&format!("/{number}"));
            assert_eq!((usize::from(id.0), again), (number.min(MAX_FILES - 1), false));
            files.identify(id, (1, number as u64));
        }
        assert_eq!(&**files.get(FileId(u16::MAX)).unwrap().0, "(more files)");
        assert_eq!(files.place((1, 65_535), 0), None, "which of them is not known");
        for id in [FileId(7), FileId(5)] {
            files.summary(id).unwrap().writes = 3;
            files.delete(id);
        }
        assert_eq!(files.place((1, 7), 4096), None);
        assert_eq!(files.add("/new"), (FileId(7), true));
        files.identify(FileId(7), (1, 70_000));
        assert_eq!(files.place((1, 70_000), 4096), Place::new(FileId(7), 4096));
        assert_eq!((files.add("/b").0, files.add("/c").0), (FileId(5), FileId(u16::MAX)));
        let retired = files.summaries().last().unwrap();
        assert_eq!((&*retired.path, retired.writes), ("(deleted files)", 6));
    }

    /// An inode number comes again, with another file.
    #[test]
    fn the_last_file_of_an_identity_counts() {
        let mut files = Files::default();
        let (old, new) = (files.add("/old").0, files.add("/new").0);
        files.identify(old, (1, 5));
        files.identify(new, (1, 5));
        files.delete(old);
        assert_eq!(files.place((1, 5), 0), Place::new(new, 0));
        files.identify(new, (1, 6));
        assert_eq!((files.place((1, 5), 0), files.place((1, 6), 0)), (None, Place::new(new, 0)));
    }

    #[test]
    fn mappings_are_a_process_s_own() {
        let mut files = Files::default();
        let (a, b) = (files.add("/a").0, files.add("/b").0);
        let sharing = |file, range, hint| {
            let origin = Arc::new(Origin { hint: Some(hint), ..Origin::default() });
            Sharing { file, range, origin }
        };
        let [first, second] = [Sharer::Process(1), Sharer::Call(1)];
        files.share(first, vec![sharing(a, 0..4096, 1), sharing(a, 8192..12288, 2), sharing(b, 0..4096, 3)]);
        files.share(second, vec![sharing(a, 4096..8192, 4)]);
        let hints = |files: &mut Files| {
            [(a, 0), (a, 4096), (a, 8192), (a, 12288), (b, 0), (b, 4096)].map(|(file, offset)| {
                files.arrives(Place::new(file, offset).unwrap()).and_then(|origin| origin.hint)
            })
        };
        assert!(![first, second].into_iter().any(|sharer| files.has_arrived(sharer)));
        assert_eq!(hints(&mut files), [Some(1), Some(4), Some(2), None, Some(3), None]);
        assert!([first, second].into_iter().all(|sharer| files.has_arrived(sharer)));
        files.share(first, vec![sharing(b, 4096..8192, 5)]);
        assert_eq!([first, second].map(|sharer| files.has_arrived(sharer)), [false, true]);
        assert_eq!(hints(&mut files), [None, Some(4), None, None, None, Some(5)]);
        files.share(first, Vec::new());
        files.share(second, Vec::new());
        assert!(files.sharings.is_empty() && files.shared_by.is_empty() && files.arrived.is_empty());
    }
}
