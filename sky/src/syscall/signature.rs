//! What a system call takes: the words in which the [table](super::table) is written.

use super::flags::{Choice, FlagSet};

/// A system call as `SYSCALL_DEFINEn` declares it in the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Signature {
    /// Its name in `arch/x86/entry/syscalls/syscall_64.tbl`.
    pub name: &'static str,
    /// Its arguments, in the order of RDI, RSI, RDX, R10, R8, R9; at most six.
    pub args: &'static [Argument],
    /// How its result is written.
    pub result: ResultKind,
}

/// One argument.
#[derive(Clone, Copy, Debug)]
pub struct Argument {
    /// Its name, as in the kernel or the manual page.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
}

/// How a result that is not an error is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResultKind {
    /// A number.
    Number,
    /// A user address (`mmap`, `brk`).
    Address,
    /// A file mode (`umask`).
    Mode,
}

/// What the 64 bits of an argument are.
///
/// The kernel takes `int`, `unsigned int` and what is made of them from the low half of the register, and the high
/// half may hold anything. Fields called `length`, `count`, `flags` and `command` are positions of other arguments.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A file descriptor (32 bits).
    Fd,
    /// A directory's descriptor or `AT_FDCWD` (32 bits).
    DirFd,
    /// `int`.
    Int,
    /// `unsigned int`.
    UInt,
    /// `long`.
    Long,
    /// `unsigned long`.
    ULong,
    /// A number of bytes, `size_t`.
    Size,
    /// A position in a file or a length of one, in bytes, `loff_t`.
    Offset,
    /// A process, thread or process group (32 bits).
    Pid,
    /// A user or group; -1 for "leave it" (32 bits).
    Uid,
    /// `umode_t`: the low 16 bits.
    Mode,
    /// `umode_t` with the type of a file (`mknod`).
    FileMode,
    /// `umode_t` that counts only if argument `flags` has `O_CREAT` or `O_TMPFILE`; left out otherwise.
    CreateMode {
        /// Position of the `O_*` flags.
        flags: usize,
    },
    /// A device number as user space packs it (32 bits).
    Device,
    /// A signal (32 bits).
    Signal,
    /// 32 bits that mean nothing in decimal.
    Hex,
    /// 64 bits that mean nothing in decimal.
    HexLong,
    /// A user address, of what is not looked at.
    Address,
    /// A NUL-terminated path, read at entry.
    Path,
    /// A path that the call writes, NUL included in its result (`getcwd`).
    PathOut {
        /// Position of the buffer's size.
        length: usize,
    },
    /// A NUL-terminated string, read at entry.
    Str,
    /// A NULL-terminated array of strings (`argv`, `envp`), read at entry.
    Strings,
    /// Bytes for the kernel, read at entry.
    BytesIn {
        /// Position of how many.
        length: usize,
    },
    /// Bytes from the kernel: as many as the result says, read at return.
    BytesOut {
        /// Position of how many there may be.
        length: usize,
    },
    /// An array of `struct iovec`, and the bytes for the kernel, read at entry.
    IovecIn {
        /// Position of how many vectors.
        count: usize,
    },
    /// An array of `struct iovec`; the bytes, as many as the result says, are read at return.
    IovecOut {
        /// Position of how many vectors.
        count: usize,
    },
    /// An array of `struct iovec` whose bytes are not looked at: they lie in another process, or are given away.
    Iovec {
        /// Position of how many vectors.
        count: usize,
    },
    /// A structure for the kernel, read at entry.
    StructIn(Layout),
    /// A structure from the kernel, read at return if the call succeeded.
    StructOut(Layout),
    /// `struct sockaddr` for the kernel.
    SockaddrIn {
        /// Position of its size.
        length: usize,
    },
    /// `struct sockaddr` from the kernel.
    SockaddrOut {
        /// Position of the pointer to its size.
        length: usize,
    },
    /// `fcntl`'s argument, which depends on the command; left out for commands that have none.
    FcntlArgument {
        /// Position of the command.
        command: usize,
    },
    /// Flags joined by `|`.
    Flags(&'static FlagSet),
    /// One of several values.
    Enum(&'static Choice),
}

/// A structure in user memory that is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `int`.
    Int,
    /// `loff_t`.
    Offset,
    /// Two descriptors (`pipe`, `socketpair`).
    FdPair,
    /// `struct stat` of x86-64, 144 bytes.
    Stat,
    /// `struct statx`, 256 bytes.
    Statx,
    /// `struct timespec`.
    Timespec,
    /// Two of them: when accessed, when modified (`utimensat`).
    Timespecs,
    /// `struct timeval`.
    Timeval,
    /// `struct rlimit`, `struct rlimit64`.
    Rlimit,
    /// The status that `wait4` stores, if it found a process.
    WaitStatus,
    /// `struct open_how`, its first version.
    OpenHow,
    /// `struct clone_args`, as far as its first version goes.
    CloneArgs,
}

impl Layout {
    /// Its size in bytes.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Self::Int | Self::WaitStatus => 4,
            Self::Offset | Self::FdPair => 8,
            Self::Timespec | Self::Timeval | Self::Rlimit => 16,
            Self::OpenHow => 24,
            Self::Timespecs => 32,
            Self::CloneArgs => 64,
            Self::Stat => 144,
            Self::Statx => 256,
        }
    }
}

impl Kind {
    /// Whether the kernel fills it in: it can be read only when the call has returned.
    #[must_use]
    pub fn is_out(&self) -> bool {
        matches!(
            self,
            Self::PathOut { .. }
                | Self::BytesOut { .. }
                | Self::IovecOut { .. }
                | Self::StructOut(_)
                | Self::SockaddrOut { .. }
        )
    }
}
