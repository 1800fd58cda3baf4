//! Errors of the block stack as NBD knows them: a number, and a text for nbdkit's log.

use sky_devices::block::{Error, ErrorKind};

/// The number that a client is told, and the text that is logged.
pub(crate) fn to_nbd(error: Error) -> nbdkit::Error {
    let number = match error.kind() {
        ErrorKind::NoSpace => libc::ENOSPC,
        ErrorKind::ReadOnly => libc::EROFS,
        ErrorKind::OutOfRange | ErrorKind::Invalid => libc::EINVAL,
        ErrorKind::Unsupported => libc::EOPNOTSUPP,
        _ => error.io_error().and_then(std::io::Error::raw_os_error).unwrap_or(libc::EIO),
    };
    nbdkit::Error::new(number, error.to_string())
}

/// A parameter is wrong, or nbdkit called out of turn.
pub(crate) fn invalid(message: impl Into<String>) -> nbdkit::Error {
    nbdkit::Error::new(libc::EINVAL, message.into())
}
