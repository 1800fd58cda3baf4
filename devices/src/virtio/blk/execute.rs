//! What a request does: checks it against the disk, asks the classifier block by block, calls the block stack.

use std::sync::Arc;

use thiserror::Error;
use virtio_bindings::virtio_blk::VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
use vm_memory::{GuestMemoryError, GuestMemoryMmap};

use super::bounce::Bounce;
use super::chain::Buffers;
use super::config::{MAX_DISCARD_SECTORS, MAX_WRITE_ZEROES_SECTORS, SECTOR_SIZE};
use super::request::{Completion, Kind, Range, Request, Status};
use super::spec::SERIAL_SIZE;
use super::stats::Stats;
use crate::block::{self, BlockDevice, Geometry};
use crate::io_class::{BLOCK_SIZE, Classifier, IoTag};

/// Why a well-formed request failed.
#[derive(Debug, Error)]
enum Failure {
    #[error("reserved or unsupported flags, or an unknown type")]
    Unsupported,
    #[error("the range is not on the disk")]
    OutOfRange,
    #[error("the range is no multiple of the disk's block size")]
    Misaligned,
    #[error("the disk is read-only")]
    ReadOnly,
    #[error("guest memory: {0}")]
    Memory(#[from] GuestMemoryError),
    #[error(transparent)]
    Device(#[from] block::Error),
}

impl Failure {
    fn status(&self) -> Status {
        match self {
            Self::Unsupported => Status::Unsupported,
            _ => Status::IoError,
        }
    }
}

/// The disk that all workers of a device share.
#[derive(Clone)]
pub(super) struct Disk {
    pub(super) device: Arc<dyn BlockDevice>,
    pub(super) classifier: Arc<dyn Classifier>,
    pub(super) geometry: Geometry,
    pub(super) serial: [u8; SERIAL_SIZE],
    pub(super) stats: Arc<Stats>,
}

/// Executes requests, one at a time, with buffers that it keeps.
pub(super) struct Executor {
    disk: Disk,
    bounce: Bounce,
    tags: Vec<IoTag>,
    /// The device has failed before: a guest that tries again and again must not fill the host's log.
    has_failed: bool,
}

impl Executor {
    pub(super) fn new(disk: Disk) -> Self {
        Self { disk, bounce: Bounce::default(), tags: Vec::new(), has_failed: false }
    }

    /// Does what the request asks for and says how it went.
    pub(super) fn execute(&mut self, request: Request, memory: &GuestMemoryMmap) -> Completion {
        let result = match request.kind() {
            Kind::Read { sector, data } => self.read(*sector, data, memory),
            Kind::Write { sector, data } => self.write(*sector, data, memory),
            Kind::Flush => self.flush(),
            Kind::GetId { data } => self.get_id(data, memory),
            Kind::Discard(ranges) => self.discard(ranges),
            Kind::WriteZeroes(ranges) => self.write_zeroes(ranges),
            Kind::Unknown(_) => Err(Failure::Unsupported),
        };
        match result {
            Ok(written) => request.complete(Status::Ok, written),
            Err(failure) => {
                self.report(&failure);
                request.complete(failure.status(), 0)
            }
        }
    }

    /// Counts a failure, and says so: the host's administrator can do something about a failing device, but nothing
    /// about the guest's mistakes.
    fn report(&mut self, failure: &Failure) {
        self.disk.stats.error();
        match failure {
            Failure::Device(error) if !self.has_failed => {
                self.has_failed = true;
                tracing::error!(%error, "a disk request failed; this queue's further failures are only counted");
            }
            failure => tracing::debug!(%failure, "a disk request was refused"),
        }
    }

    /// A chain was no request at all.
    pub(super) fn count_malformed(&self) {
        self.disk.stats.error();
    }

    fn read(&mut self, sector: u64, data: &Buffers, memory: &GuestMemoryMmap) -> Result<u64, Failure> {
        let (offset, length) = self.locate(sector, data.len())?;
        let buffer = self.bounce.first(length);
        self.tags.clear();
        let mut pages = data.pages();
        for (block, length) in pieces(offset, length) {
            let page = pages.next(length);
            self.tags.push(self.disk.classifier.classify_read(block - block % BLOCK_SIZE as u64, page));
        }
        if length > 0 {
            self.disk.device.read(offset, buffer, &self.tags)?;
            let mut rest = &*buffer;
            let mut pages = data.pages();
            for (at, length) in pieces(offset, length) {
                let (piece, later) = rest.split_at(length);
                let page = pages.next(length);
                if length == BLOCK_SIZE {
                    self.disk.classifier.was_read(at, piece, page);
                }
                rest = later;
            }
            data.write(memory, buffer)?;
        }
        self.disk.stats.read(data.len());
        Ok(data.len())
    }

    fn write(&mut self, sector: u64, data: &Buffers, memory: &GuestMemoryMmap) -> Result<u64, Failure> {
        self.check_writable()?;
        let (offset, length) = self.locate(sector, data.len())?;
        let buffer = self.bounce.first(length);
        data.read(memory, buffer)?;
        self.tags.clear();
        let mut rest = &*buffer;
        let mut pages = data.pages();
        for (at, length) in pieces(offset, length) {
            let (piece, later) = rest.split_at(length);
            self.tags.push(self.disk.classifier.classify_write(at, piece, pages.next(length)));
            rest = later;
        }
        if length > 0 {
            self.disk.device.write(offset, buffer, &self.tags)?;
        }
        self.disk.stats.write(data.len(), &self.tags);
        Ok(0)
    }

    fn flush(&self) -> Result<u64, Failure> {
        self.disk.device.flush()?;
        self.disk.stats.flush();
        Ok(0)
    }

    fn get_id(&self, data: &Buffers, memory: &GuestMemoryMmap) -> Result<u64, Failure> {
        data.write(memory, &self.disk.serial)?;
        Ok(SERIAL_SIZE as u64)
    }

    fn discard(&self, ranges: &[Range]) -> Result<u64, Failure> {
        for (offset, length, _) in self.check_ranges(ranges, 0, MAX_DISCARD_SECTORS)? {
            self.disk.classifier.discarded(offset, length);
            self.disk.device.discard(offset, length)?;
        }
        self.disk.stats.discard();
        Ok(0)
    }

    fn write_zeroes(&self, ranges: &[Range]) -> Result<u64, Failure> {
        let unmap = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
        for (offset, length, flags) in self.check_ranges(ranges, unmap, MAX_WRITE_ZEROES_SECTORS)? {
            self.disk.classifier.discarded(offset, length);
            self.disk.device.write_zeroes(offset, length, flags & unmap != 0)?;
        }
        self.disk.stats.write_zeroes();
        Ok(0)
    }

    fn check_writable(&self) -> Result<(), Failure> {
        if self.disk.geometry.read_only { Err(Failure::ReadOnly) } else { Ok(()) }
    }

    /// All ranges of a request as byte offset, length in bytes, and flags, or the first thing that is wrong with any
    /// of them: nothing may happen before everything is checked. Empty ranges are left out.
    fn check_ranges(
        &self,
        ranges: &[Range],
        allowed_flags: u32,
        max_sectors: u32,
    ) -> Result<Vec<(u64, u64, u32)>, Failure> {
        self.check_writable()?;
        if ranges.iter().any(|range| range.flags.get() & !allowed_flags != 0) {
            return Err(Failure::Unsupported);
        }
        let mut checked = Vec::with_capacity(ranges.len());
        for range in ranges {
            let sectors = range.sectors.get();
            if sectors > max_sectors {
                return Err(Failure::OutOfRange);
            }
            let length = u64::from(sectors) * SECTOR_SIZE;
            let offset = self.check_place(range.sector.get(), length)?;
            if length > 0 {
                checked.push((offset, length, range.flags.get()));
            }
        }
        Ok(checked)
    }

    /// Byte offset and length of a transfer of `length` bytes.
    fn locate(&self, sector: u64, length: u64) -> Result<(u64, usize), Failure> {
        let offset = self.check_place(sector, length)?;
        Ok((offset, usize::try_from(length).map_err(|_| Failure::OutOfRange)?))
    }

    fn check_place(&self, sector: u64, length: u64) -> Result<u64, Failure> {
        let Geometry { size, logical_block_size, .. } = self.disk.geometry;
        let offset = sector.checked_mul(SECTOR_SIZE).ok_or(Failure::OutOfRange)?;
        if offset.checked_add(length).is_none_or(|end| end > size) {
            return Err(Failure::OutOfRange);
        }
        let unit = u64::from(logical_block_size);
        if !offset.is_multiple_of(unit) || !length.is_multiple_of(unit) {
            return Err(Failure::Misaligned);
        }
        Ok(offset)
    }
}

/// Cuts a range at multiples of [`BLOCK_SIZE`] into pieces of byte offset and length.
fn pieces(mut offset: u64, mut length: usize) -> impl Iterator<Item = (u64, usize)> {
    const BLOCK: u64 = BLOCK_SIZE as u64;
    std::iter::from_fn(move || {
        let to_boundary = usize::try_from(BLOCK - offset % BLOCK).unwrap_or(BLOCK_SIZE);
        let piece = (offset, to_boundary.min(length));
        offset += BLOCK - offset % BLOCK;
        length -= piece.1;
        (piece.1 > 0).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_at_block_boundaries() {
        let cut = |offset, length| pieces(offset, length).collect::<Vec<_>>();
        assert_eq!(cut(0, 0), []);
        assert_eq!(cut(4096, 4096), [(4096, 4096)]);
        assert_eq!(cut(512, 1024), [(512, 1024)]);
        assert_eq!(cut(3584, 5120), [(3584, 512), (4096, 4096), (8192, 512)]);
    }
}
