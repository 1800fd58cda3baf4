//! The range check that every device starts a request with.

use super::{Error, ErrorKind, Operation, Result};

/// Refuses `length` bytes from byte `offset` unless they all lie on a device of `size` bytes.
///
/// # Errors
/// [`ErrorKind::OutOfRange`], with the range.
pub fn check_range(operation: Operation, size: u64, offset: u64, length: u64) -> Result<()> {
    match offset.checked_add(length) {
        Some(end) if end <= size => Ok(()),
        _ => Err(Error::new(ErrorKind::OutOfRange, operation).at(offset, length)),
    }
}

/// Length of a buffer in bytes as the block stack counts it.
pub(crate) fn length_of(buffer: &[u8]) -> u64 {
    to_u64(buffer.len())
}

/// A number of things in memory, or an index of one, as the block stack counts.
pub(crate) fn to_u64(number: usize) -> u64 {
    // Nothing in memory exceeds isize::MAX bytes; the fallback only makes the range check fail.
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_and_overflow() {
        let check = |offset, length| check_range(Operation::Read, 1024, offset, length).is_ok();
        assert!(check(0, 1024) && check(1024, 0) && check(1023, 1));
        assert!(!check(1, 1024) && !check(1025, 0) && !check(u64::MAX, 2) && !check(512, u64::MAX));
    }
}
