//! The one error of the block stack: what went wrong, in which operation, and where.
//!
//! Layers that wrap another device pass its errors on unchanged; only the layer that met the failure knows the place.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Shorthand for results of the block stack.
pub type Result<T> = std::result::Result<T, Error>;

/// What a device was doing when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Opening and checking the medium.
    Open,
    /// Making a new medium.
    Create,
    /// Locking the medium against other users.
    Lock,
    /// Reading blocks.
    Read,
    /// Writing blocks.
    Write,
    /// Making writes durable.
    Flush,
    /// Giving blocks back.
    Discard,
    /// Zeroing blocks.
    WriteZeroes,
    /// Making the medium larger.
    Grow,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Create => "create",
            Self::Lock => "lock",
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Discard => "discard",
            Self::WriteZeroes => "write zeroes",
            Self::Grow => "grow",
        })
    }
}

/// Why an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The range ends beyond the device, or beyond what an offset can say.
    OutOfRange,
    /// The device refuses changes.
    ReadOnly,
    /// Another instance holds the medium.
    Locked,
    /// Nothing exists at the path.
    NotFound,
    /// Something exists at the path where it must not.
    Exists,
    /// The path names neither a regular file nor a block device.
    NotAFile,
    /// The size of the medium is no multiple of 512 bytes, or is zero.
    BadSize,
    /// The user may not access the medium this way.
    Permission,
    /// The medium has no room left.
    NoSpace,
    /// The medium cannot do this at all.
    Unsupported,
    /// An earlier flush failed, so nothing is known of what the medium holds.
    Poisoned,
    /// The image is none of this format.
    NotThisFormat,
    /// The image needs something that this version does not know.
    TooNew,
    /// What the image says of itself is wrong.
    Corrupt,
    /// The backing image is missing, or is not the one that the image was made over.
    Backing,
    /// The request makes no sense, whatever the image holds.
    Invalid,
    /// Somebody asked to stop.
    Interrupted,
    /// The medium failed.
    Io,
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OutOfRange => "the range is not on the device",
            Self::ReadOnly => "the device is read-only",
            Self::Locked => "the image is open in another instance",
            Self::NotFound => "there is no such file",
            Self::Exists => "it exists already",
            Self::NotAFile => "not a regular file or block device",
            Self::BadSize => "the size must be a multiple of 512 bytes and not zero",
            Self::Permission => "permission denied",
            Self::NoSpace => "no space is left on the medium",
            Self::Unsupported => "the medium does not support this",
            Self::Poisoned => "refused, because an earlier flush failed and unflushed writes may be lost",
            Self::NotThisFormat => "the image is not of this format",
            Self::TooNew => "the image needs a newer version",
            Self::Corrupt => "the image is corrupt",
            Self::Backing => "the backing image does not fit",
            Self::Invalid => "the request makes no sense",
            Self::Interrupted => "it was stopped",
            Self::Io => "the medium failed",
        })
    }
}

/// A failed operation of the block stack.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    operation: Operation,
    range: Option<(u64, u64)>,
    path: Option<PathBuf>,
    detail: Option<String>,
    cause: Option<io::Error>,
}

impl Error {
    /// An error of `kind` in `operation`, without a place or a cause.
    #[must_use]
    pub fn new(kind: ErrorKind, operation: Operation) -> Self {
        Self { kind, operation, range: None, path: None, detail: None, cause: None }
    }

    /// The error of a system call in `operation`; its number decides the kind.
    #[must_use]
    pub fn from_io(operation: Operation, cause: io::Error) -> Self {
        let kind = match cause.raw_os_error() {
            Some(libc::ENOENT) => ErrorKind::NotFound,
            Some(libc::EEXIST) => ErrorKind::Exists,
            Some(libc::EISDIR) => ErrorKind::NotAFile,
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => ErrorKind::Permission,
            Some(libc::ENOSPC | libc::EDQUOT) => ErrorKind::NoSpace,
            Some(libc::EOPNOTSUPP | libc::ENOSYS) => ErrorKind::Unsupported,
            _ => ErrorKind::Io,
        };
        Self { cause: Some(cause), ..Self::new(kind, operation) }
    }

    /// Adds the place: `length` bytes from byte `offset`.
    #[must_use]
    pub fn at(mut self, offset: u64, length: u64) -> Self {
        self.range = Some((offset, length));
        self
    }

    /// Adds the file.
    #[must_use]
    pub fn on(mut self, path: &Path) -> Self {
        self.path = Some(path.to_owned());
        self
    }

    /// Adds what exactly is wrong.
    #[must_use]
    pub fn because(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Why the operation failed.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What failed.
    #[must_use]
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// First byte of the range that the operation asked for.
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        self.range.map(|(offset, _)| offset)
    }

    /// Length in bytes of the range that the operation asked for.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        self.range.map(|(_, length)| length)
    }

    /// The file that the operation was about.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The system's own error, where there was one.
    #[must_use]
    pub fn io_error(&self) -> Option<&io::Error> {
        self.cause.as_ref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}", self.operation)?;
        if let Some((offset, length)) = self.range {
            write!(f, " {length} bytes at offset {offset}")?;
        }
        match &self.path {
            Some(path) if self.range.is_some() => write!(f, " ({})", path.display())?,
            Some(path) => write!(f, " {}", path.display())?,
            None => {}
        }
        write!(f, ": {}", self.kind)?;
        if let Some(detail) = &self.detail {
            write!(f, ": {detail}")?;
        }
        match &self.cause {
            Some(cause) => write!(f, ": {cause}"),
            None => Ok(()),
        }
    }
}

// `source` stays empty because the message above ends with the cause: a printed chain would name it twice.
impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_names_operation_place_and_cause() {
        let error = Error::from_io(Operation::Write, io::Error::from_raw_os_error(libc::ENOSPC))
            .at(8192, 4096)
            .on(Path::new("/images/a.img"));
        assert_eq!(
            error.to_string(),
            "cannot write 4096 bytes at offset 8192 (/images/a.img): no space is left on the medium: \
             No space left on device (os error 28)"
        );
        assert_eq!((error.kind(), error.operation()), (ErrorKind::NoSpace, Operation::Write));
        assert_eq!((error.offset(), error.length()), (Some(8192), Some(4096)));
        assert_eq!(error.io_error().and_then(io::Error::raw_os_error), Some(libc::ENOSPC));
    }

    #[test]
    fn message_without_a_range_names_the_file_as_its_object() {
        let error = Error::new(ErrorKind::Locked, Operation::Lock).on(Path::new("a.img"));
        assert_eq!(error.to_string(), "cannot lock a.img: the image is open in another instance");
    }

    #[test]
    fn message_without_a_place_is_short() {
        let error = Error::new(ErrorKind::Poisoned, Operation::Flush);
        assert!(error.to_string().starts_with("cannot flush: refused"));
    }
}
