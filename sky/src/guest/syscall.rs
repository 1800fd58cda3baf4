//! Linux's x86-64 system calls by number (`arch/x86/entry/syscalls/syscall_64.tbl`), as far as Sky decodes them.

use std::fmt;

/// A system call with the arguments that matter here, in the units of its manual page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syscall {
    /// `write(fd, buf, count)`.
    Write {
        /// File descriptor.
        fd: u32,
        /// User address of the bytes.
        buffer: u64,
        /// How many.
        count: u64,
    },
    /// `pwrite64(fd, buf, count, offset)`.
    Pwrite64 {
        /// File descriptor.
        fd: u32,
        /// User address of the bytes.
        buffer: u64,
        /// How many.
        count: u64,
        /// Where in the file, in bytes.
        offset: u64,
    },
    /// `open(path, flags)`.
    Open {
        /// User address of the path.
        path: u64,
        /// `O_*`.
        flags: u32,
    },
    /// `openat(dirfd, path, flags)`.
    Openat {
        /// User address of the path.
        path: u64,
        /// `O_*`.
        flags: u32,
    },
    /// `close(fd)`.
    Close {
        /// File descriptor.
        fd: u32,
    },
    /// `execve(path, ...)`.
    Execve {
        /// User address of the path.
        path: u64,
    },
    /// `exit_group(status)`: never returns.
    ExitGroup {
        /// Exit status, low 8 bits seen by the parent.
        status: u32,
    },
    /// Any other number, passed through.
    Other(u64),
}

impl Syscall {
    /// Decodes a call from its number (RAX) and its first four arguments (RDI, RSI, RDX, R10).
    #[must_use]
    pub fn decode(number: u64, arguments: [u64; 4]) -> Self {
        let [first, second, third, fourth] = arguments;
        // The kernel takes int and flags arguments from the low half of the register.
        #[expect(clippy::cast_possible_truncation, reason = "the kernel looks at the low half, too")]
        let int = |value: u64| value as u32;
        match number {
            1 => Self::Write { fd: int(first), buffer: second, count: third },
            2 => Self::Open { path: first, flags: int(second) },
            3 => Self::Close { fd: int(first) },
            18 => Self::Pwrite64 { fd: int(first), buffer: second, count: third, offset: fourth },
            59 => Self::Execve { path: first },
            231 => Self::ExitGroup { status: int(first) },
            257 => Self::Openat { path: second, flags: int(third) },
            other => Self::Other(other),
        }
    }

    /// Whether the call is followed to its return; [`ExitGroup`](Self::ExitGroup) has none, `Other` is of no interest.
    #[must_use]
    pub fn result_matters(&self) -> bool {
        !matches!(self, Self::ExitGroup { .. } | Self::Other(_))
    }

    /// The number.
    #[must_use]
    pub fn number(&self) -> u64 {
        match *self {
            Self::Write { .. } => 1,
            Self::Open { .. } => 2,
            Self::Close { .. } => 3,
            Self::Pwrite64 { .. } => 18,
            Self::Execve { .. } => 59,
            Self::ExitGroup { .. } => 231,
            Self::Openat { .. } => 257,
            Self::Other(number) => number,
        }
    }
}

/// The name from the system-call table, or the number for one that is not decoded.
impl fmt::Display for Syscall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Write { .. } => "write",
            Self::Pwrite64 { .. } => "pwrite64",
            Self::Open { .. } => "open",
            Self::Openat { .. } => "openat",
            Self::Close { .. } => "close",
            Self::Execve { .. } => "execve",
            Self::ExitGroup { .. } => "exit_group",
            Self::Other(number) => return write!(f, "#{number}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_libc() {
        let all = [
            (libc::SYS_write, "write"),
            (libc::SYS_pwrite64, "pwrite64"),
            (libc::SYS_open, "open"),
            (libc::SYS_openat, "openat"),
            (libc::SYS_close, "close"),
            (libc::SYS_execve, "execve"),
            (libc::SYS_exit_group, "exit_group"),
            (libc::SYS_getpid, "#39"),
        ];
        for (number, name) in all {
            let number = u64::try_from(number).unwrap();
            let call = Syscall::decode(number, [1, 2, 3, 4]);
            assert_eq!((call.to_string().as_str(), call.number()), (name, number));
        }
    }

    #[test]
    fn int_arguments_are_taken_from_the_low_half() {
        let call = Syscall::decode(3, [0xdead_beef_0000_0005, 0, 0, 0]);
        assert_eq!(call, Syscall::Close { fd: 5 });
    }
}
