//! One operation with all its arguments.

use super::model::Name;

/// By which call a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenCall {
    /// `open`, by the whole path.
    Open,
    /// `creat`, which has flags of its own.
    Creat,
    /// `openat` from the working directory.
    Openat,
    /// `openat2` from the working directory.
    Openat2,
}

/// A write from memory: `write`, `pwrite64`, `writev`, `pwritev` or `pwritev2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// To which descriptor.
    pub fd: i32,
    /// Where in the file; none is where the descriptor stands.
    pub at: Option<i64>,
    /// In several pieces.
    pub vector: bool,
    /// Flags of `pwritev2`; none is another call.
    pub flags: Option<i32>,
    /// Bytes.
    pub count: usize,
    /// The greatest size that a file may have (`RLIMIT_FSIZE`).
    pub limit: Option<u64>,
    /// Bytes that can be read of the buffer, if that is not all.
    pub readable: Option<usize>,
}

/// How the kernel is told to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyForm {
    /// `copy_file_range`.
    CopyFileRange,
    /// `sendfile`.
    Sendfile,
    /// `splice` into a pipe, and from there into the file.
    Splice,
}

/// A copy that the kernel makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copy {
    /// How.
    pub form: CopyForm,
    /// From which descriptor, and where in its file; none is where the descriptor stands.
    pub from: (i32, Option<u64>),
    /// To which, as above.
    pub to: (i32, Option<u64>),
    /// Bytes, at most.
    pub count: usize,
}

/// How a shared mapping ends that was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapEnd {
    /// `msync`, then `munmap`.
    Msync,
    /// `fsync` of the file, then `munmap`.
    Fsync,
    /// `munmap` only.
    Munmap,
}

/// What is asked to be on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncForm {
    /// `fsync`.
    Fsync,
    /// `fdatasync`.
    Fdatasync,
    /// `sync_file_range` of the whole file.
    Range,
    /// `syncfs`.
    Syncfs,
    /// `sync`.
    Sync,
}

/// What begins and goes on with the next steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// A process with a copy of the descriptors, which share their positions with the old ones.
    Fork,
    /// A thread, to which the descriptors belong as well.
    Thread,
}

/// An operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Opens a file with these flags.
    Open(Name, OpenCall, i32),
    /// `close`.
    Close(i32),
    /// `close_range` from one to another, with these flags.
    CloseRange(i32, i32, u32),
    /// `dup`.
    Dup(i32),
    /// `dup2`.
    Dup2(i32, i32),
    /// `dup3`, with these flags.
    Dup3(i32, i32, i32),
    /// `F_DUPFD` or `F_DUPFD_CLOEXEC` of `fcntl`: the command, and the lowest number that will do.
    Fcntl(i32, i32, i32),
    /// Something begins, and goes on.
    Begin(Begin),
    /// What began last ends, and who began it goes on.
    End,
    /// The program is executed anew, and goes on.
    Exec,
    /// `lseek` to an offset, counted from where the last argument says.
    Seek(i32, i64, i32),
    /// `read`, `pread64`, `readv` or `preadv` of so many bytes.
    Read {
        /// From which descriptor.
        fd: i32,
        /// Where in the file; none is where the descriptor stands.
        at: Option<i64>,
        /// In several pieces.
        vector: bool,
        /// Bytes.
        count: usize,
    },
    /// A write from memory.
    Write(Write),
    /// A copy that the kernel makes.
    Copy(Copy),
    /// `ftruncate`.
    Ftruncate(i32, i64),
    /// `truncate`.
    Truncate(Name, i64),
    /// `fallocate`: mode, offset and length.
    Allocate(i32, i32, i64, i64),
    /// So many bytes from an offset of the file are written through a shared mapping.
    Map(i32, u64, usize, MapEnd),
    /// Something is to be on the disk.
    Sync(i32, SyncForm),
    /// `rename`.
    Rename(Name, Name),
    /// `link`.
    Link(Name, Name),
    /// `unlink`.
    Unlink(Name),
    /// `rename` of the directory in which some of the files are.
    RenameDirectory,
}
