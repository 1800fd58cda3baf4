//! What files there are, what is in them, and which descriptors refer to them.

use std::collections::{BTreeMap, BTreeSet};

/// The first descriptor that the model may use; those before are the program's standard ones.
pub(super) const FIRST_FD: i32 = 3;
/// The bytes of a block.
pub(super) const BLOCK: u64 = 4096;

/// A name that a file may have, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(u8);

impl Name {
    /// All names: four files, three in a directory, and one on another, small file system.
    pub const ALL: [Name; 8] = [Name(0), Name(1), Name(2), Name(3), Name(4), Name(5), Name(6), Name(7)];
    pub(super) const SMALL: Name = Name(7);
    /// Those of the large file system.
    pub(super) const LARGE: usize = 7;

    fn in_directory(self) -> bool {
        (4..7).contains(&self.0)
    }
}

/// What was done to a file through calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls that wrote something to it.
    pub writes: u64,
    /// Bytes that these wrote.
    pub bytes: u64,
}

/// A file.
#[derive(Clone, Debug, Default)]
pub struct File {
    /// What is in it.
    pub content: Vec<u8>,
    /// Its names; none when it has been deleted.
    pub names: BTreeSet<Name>,
    /// It had more than one at some time.
    pub linked: bool,
    /// It is on the small file system.
    pub small: bool,
    /// What was done to it.
    pub counts: Counts,
}

impl File {
    /// Bytes in it.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.content.len() as u64
    }

    pub(super) fn resize(&mut self, size: u64) {
        self.content.resize(usize::try_from(size).unwrap_or(0), 0);
    }

    pub(super) fn store(&mut self, at: u64, bytes: &[u8]) {
        let from = usize::try_from(at).unwrap_or(0);
        let end = from + bytes.len();
        if self.content.len() < end {
            self.content.resize(end, 0);
        }
        self.content[from..end].copy_from_slice(bytes);
    }

    pub(super) fn bytes(&self, at: u64, count: usize) -> &[u8] {
        let from = usize::try_from(at).unwrap_or(usize::MAX).min(self.content.len());
        &self.content[from..from.saturating_add(count).min(self.content.len())]
    }
}

/// What `open` makes; several descriptors may refer to one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opened {
    pub(super) file: usize,
    pub(super) position: u64,
    pub(super) flags: i32,
}

impl Opened {
    fn mode(&self) -> i32 {
        self.flags & libc::O_ACCMODE
    }

    pub(super) fn reads(&self) -> bool {
        self.mode() != libc::O_WRONLY
    }

    pub(super) fn writes(&self) -> bool {
        self.mode() != libc::O_RDONLY
    }

    pub(super) fn appends(&self) -> bool {
        self.flags & libc::O_APPEND != 0
    }

    pub(super) fn syncs(&self) -> bool {
        self.flags & libc::O_DSYNC != 0
    }

    pub(super) fn direct(&self) -> bool {
        self.flags & libc::O_DIRECT != 0
    }
}

/// What a descriptor is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) opened: usize,
    pub(super) cloexec: bool,
}

pub(super) type Table = BTreeMap<i32, Slot>;

/// Who makes the steps: a process, or a thread of the one below.
#[derive(Clone, Copy, Debug)]
pub(super) struct Task {
    pub(super) table: usize,
    pub(super) thread: bool,
}

/// What a descriptor says of itself and its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) fd: i32,
    /// `lseek` by nothing.
    pub(super) position: i64,
    /// `st_size`.
    pub(super) size: i64,
    /// `st_nlink`.
    pub(super) links: u64,
    /// `F_GETFD`.
    pub(super) cloexec: bool,
}

/// The model.
#[derive(Clone, Debug)]
pub struct Model {
    pub(super) seed: u64,
    pub(super) files: Vec<File>,
    pub(super) names: BTreeMap<Name, usize>,
    pub(super) opened: Vec<Opened>,
    pub(super) tables: Vec<Table>,
    pub(super) tasks: Vec<Task>,
    pub(super) directory_moved: bool,
}

impl Model {
    /// One process, no files.
    #[must_use]
    pub fn new(seed: u64) -> Model {
        Model {
            seed,
            files: Vec::new(),
            names: BTreeMap::new(),
            opened: Vec::new(),
            tables: vec![Table::new()],
            tasks: vec![Task { table: 0, thread: false }],
            directory_moved: false,
        }
    }

    /// All files there ever were, in the order in which they came to be.
    #[must_use]
    pub fn files(&self) -> &[File] {
        &self.files
    }

    /// The path of a name now, below the directory in which all of them are.
    #[must_use]
    pub fn path(&self, name: Name) -> String {
        match name {
            Name::SMALL => format!("s/s{}", name.0),
            name if name.in_directory() => format!("{}/g{}", self.directory(), name.0),
            name => format!("f{}", name.0),
        }
    }

    /// How many tasks there are: processes and threads that wait for one another.
    pub(super) fn depth(&self) -> usize {
        self.tasks.len()
    }

    pub(super) fn directory(&self) -> &'static str {
        if self.directory_moved { "e" } else { "d" }
    }

    pub(super) fn other_directory(&self) -> &'static str {
        if self.directory_moved { "d" } else { "e" }
    }

    pub(super) fn task(&self) -> Task {
        self.tasks.last().copied().unwrap_or(Task { table: 0, thread: false })
    }

    pub(super) fn table(&self) -> &Table {
        &self.tables[self.task().table]
    }

    pub(super) fn table_mut(&mut self) -> &mut Table {
        let table = self.task().table;
        &mut self.tables[table]
    }

    /// What a descriptor refers to.
    pub(super) fn opened(&self, fd: i32) -> Option<&Opened> {
        self.opened.get(self.table().get(&fd)?.opened)
    }

    /// What the current task's descriptors must say.
    pub(super) fn describe(&self) -> Vec<Described> {
        let described = |(&fd, slot): (&i32, &Slot)| {
            let opened = &self.opened[slot.opened];
            let file = &self.files[opened.file];
            Described {
                fd,
                position: opened.position.cast_signed(),
                size: file.size().cast_signed(),
                links: file.names.len() as u64,
                cloexec: slot.cloexec,
            }
        };
        self.table().iter().map(described).collect()
    }
}
