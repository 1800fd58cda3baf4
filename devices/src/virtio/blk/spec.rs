//! What a VMM says about a block device that it wants, and what is wrong with it.

use thiserror::Error;

use crate::block::Geometry;

/// Bytes of the serial number in a GET_ID answer (section 5.2.6).
pub const SERIAL_SIZE: usize = 20;
/// The most queues a device may have.
pub const MAX_QUEUES: u16 = 256;
/// The largest queue, in entries.
pub const MAX_QUEUE_SIZE: u16 = 1024;
/// The smallest queue, in entries: a request with data needs three.
pub const MIN_QUEUE_SIZE: u16 = 4;

/// A block device as the VMM wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlkSpec {
    /// Serial number that the guest sees: up to 20 printable ASCII characters.
    pub serial: String,
    /// Number of queues, and of worker threads: 1 to [`MAX_QUEUES`]. One per vCPU is a good choice.
    pub num_queues: u16,
    /// Entries of each queue: a power of two from [`MIN_QUEUE_SIZE`] to [`MAX_QUEUE_SIZE`].
    pub queue_size: u16,
}

impl Default for BlkSpec {
    fn default() -> Self {
        Self { serial: String::new(), num_queues: 1, queue_size: 256 }
    }
}

/// A block device cannot be built as specified.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SpecError {
    /// The serial number does not fit.
    #[error("serial number {0:?} is not up to 20 printable ASCII characters")]
    Serial(String),
    /// Too few or too many queues.
    #[error("{0} queues are not between 1 and {MAX_QUEUES}")]
    QueueCount(u16),
    /// The queues have an impossible size.
    #[error("queue size {0} is not a power of two between {MIN_QUEUE_SIZE} and {MAX_QUEUE_SIZE}")]
    QueueSize(u16),
    /// The backing device has block sizes that virtio-blk cannot express.
    #[error("a disk with the geometry {0:?} cannot be offered over virtio-blk")]
    Geometry(Geometry),
}

impl BlkSpec {
    /// Checks everything that does not depend on the backing device.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), SpecError> {
        let printable = self.serial.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        if self.serial.len() > SERIAL_SIZE || !printable {
            return Err(SpecError::Serial(self.serial.clone()));
        }
        if !(1..=MAX_QUEUES).contains(&self.num_queues) {
            return Err(SpecError::QueueCount(self.num_queues));
        }
        let size = self.queue_size;
        if !size.is_power_of_two() || !(MIN_QUEUE_SIZE..=MAX_QUEUE_SIZE).contains(&size) {
            return Err(SpecError::QueueSize(size));
        }
        Ok(())
    }

    /// The serial number as GET_ID answers it: padded with zero bytes, without a terminator when it fills the field.
    pub(super) fn serial_field(&self) -> [u8; SERIAL_SIZE] {
        let mut field = [0; SERIAL_SIZE];
        field.iter_mut().zip(self.serial.bytes()).for_each(|(to, from)| *to = from);
        field
    }
}

/// Refuses a backing device whose block sizes make no sense.
pub(super) fn check_geometry(geometry: Geometry) -> Result<(), SpecError> {
    let Geometry { size, logical_block_size: logical, physical_block_size: physical, .. } = geometry;
    let sane = matches!(logical, 512 | 4096)
        && physical.is_power_of_two()
        && physical >= logical
        && size.is_multiple_of(u64::from(logical));
    if sane { Ok(()) } else { Err(SpecError::Geometry(geometry)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_each_field() {
        let check = |change: fn(&mut BlkSpec)| {
            let mut spec = BlkSpec::default();
            change(&mut spec);
            spec.check()
        };
        assert_eq!(check(|_| {}), Ok(()));
        assert_eq!(check(|spec| spec.serial = "x".repeat(20)), Ok(()));
        assert!(matches!(check(|spec| spec.serial = "x".repeat(21)), Err(SpecError::Serial(_))));
        assert!(matches!(check(|spec| spec.serial = "a\n".into()), Err(SpecError::Serial(_))));
        assert_eq!(check(|spec| spec.num_queues = 0), Err(SpecError::QueueCount(0)));
        assert_eq!(check(|spec| spec.queue_size = 100), Err(SpecError::QueueSize(100)));
        assert_eq!(check(|spec| spec.queue_size = 2), Err(SpecError::QueueSize(2)));
    }

    #[test]
    fn checks_the_backing_device() {
        let good =
            Geometry { size: 8192, logical_block_size: 4096, physical_block_size: 4096, read_only: false };
        assert_eq!(check_geometry(good), Ok(()));
        assert!(check_geometry(Geometry { size: 8704, ..good }).is_err());
        assert!(check_geometry(Geometry { logical_block_size: 1024, ..good }).is_err());
        assert!(check_geometry(Geometry { physical_block_size: 512, ..good }).is_err());
    }
}
