//! Copying a disk from one image into another, without its zeros.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::open::Image;
use super::pieces::{Piece, Pieces};
use super::work::{Work, is_zero};
use crate::block::{BlockDevice, Error, ErrorKind, Operation, Result, length_of};

/// How a disk is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyOptions {
    /// Zeros are left out in units of this many bytes, a power of two.
    pub granularity: u64,
    /// The destination reads as zeros already.
    pub zeroed: bool,
}

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Copied {
    /// Bytes that were written.
    pub data: u64,
    /// Bytes that were left out, or made zero without being written.
    pub zeroes: u64,
}

/// Makes the first bytes of `destination` what `source` is, and brings them to the medium.
///
/// # Errors
/// The destination is smaller than the source or cannot be written, the source cannot be read, or it was stopped. The
/// destination then holds a part.
pub fn copy(
    source: &Image,
    destination: &dyn BlockDevice,
    options: CopyOptions,
    work: Work<'_>,
) -> Result<Copied> {
    let size = source.size();
    if destination.geometry().size < size {
        return Err(Error::new(ErrorKind::OutOfRange, Operation::Write).at(0, size));
    }
    let pieces = Pieces::new(source, size);
    copy_pieces(&pieces, source, destination, options, work)
}

/// Makes `destination` what the pieces of `source` are.
pub(super) fn copy_pieces(
    pieces: &Pieces<'_>,
    source: &Image,
    destination: &dyn BlockDevice,
    options: CopyOptions,
    work: Work<'_>,
) -> Result<Copied> {
    let (data, zeroes) = (AtomicU64::new(0), AtomicU64::new(0));
    let leave_out = |offset: u64, length: u64| {
        zeroes.fetch_add(length, Ordering::Relaxed);
        if options.zeroed { Ok(()) } else { destination.write_zeroes(offset, length, true) }
    };
    work.run(|buffers| {
        let Some(Piece { offset, length, zero, .. }) = pieces.next()? else { return Ok(false) };
        if zero {
            leave_out(offset, length)?;
        } else {
            let buffer = buffers.one(length);
            source.read(offset, buffer, &[])?;
            for run in Runs::new(offset, buffer, options.granularity) {
                match run.zero {
                    true => leave_out(run.offset, length_of(run.bytes))?,
                    false => {
                        destination.write(run.offset, run.bytes, &[])?;
                        data.fetch_add(length_of(run.bytes), Ordering::Relaxed);
                    }
                }
            }
        }
        (work.progress)(length);
        Ok(true)
    })?;
    destination.flush()?;
    Ok(Copied { data: data.into_inner(), zeroes: zeroes.into_inner() })
}

/// The longest runs of a buffer in which every unit is zero, or none.
struct Runs<'a> {
    offset: u64,
    rest: &'a [u8],
    unit: u64,
}

struct Run<'a> {
    offset: u64,
    bytes: &'a [u8],
    zero: bool,
}

impl<'a> Runs<'a> {
    /// Cuts `bytes`, which lie at `offset` of the disk, at multiples of `unit`.
    fn new(offset: u64, bytes: &'a [u8], unit: u64) -> Self {
        Self { offset, rest: bytes, unit: unit.max(512) }
    }

    /// Bytes of `rest` from `at` on to the next multiple of the unit.
    fn unit_at(&self, at: usize) -> &'a [u8] {
        let behind = self.rest.get(at..).unwrap_or_default();
        let position = self.offset + length_of(self.rest.get(..at).unwrap_or_default());
        let length = self.unit - position % self.unit;
        behind.get(..usize::try_from(length).unwrap_or(usize::MAX)).unwrap_or(behind)
    }
}

impl<'a> Iterator for Runs<'a> {
    type Item = Run<'a>;

    fn next(&mut self) -> Option<Run<'a>> {
        let first = self.unit_at(0);
        if first.is_empty() {
            return None;
        }
        let zero = is_zero(first);
        let mut length = first.len();
        loop {
            let unit = self.unit_at(length);
            if unit.is_empty() || is_zero(unit) != zero {
                break;
            }
            length += unit.len();
        }
        let (bytes, rest) = self.rest.split_at(length);
        let run = Run { offset: self.offset, bytes, zero };
        self.offset += length_of(bytes);
        self.rest = rest;
        Some(run)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_are_the_buffer_cut_where_zeros_begin_and_end(
            sectors in proptest::collection::vec(any::<bool>(), 1..100),
            offset in 0u64..40,
            shift in 9u32..14,
        ) {
            let bytes: Vec<u8> = sectors.iter().flat_map(|&full| [u8::from(full); 512]).collect();
            let (offset, unit) = (offset * 512, 1u64 << shift);
            let runs: Vec<_> = Runs::new(offset, &bytes, unit).collect();
            let joined: Vec<u8> = runs.iter().flat_map(|run| run.bytes).copied().collect();
            prop_assert_eq!(&joined, &bytes);
            let mut position = offset;
            for (index, run) in runs.iter().enumerate() {
                prop_assert_eq!(run.offset, position);
                prop_assert!(index == 0 || run.offset % unit == 0);
                prop_assert!(index == 0 || runs[index - 1].zero != run.zero);
                prop_assert!(!run.zero || run.bytes.iter().all(|&byte| byte == 0));
                position += length_of(run.bytes);
            }
            // Where a run is data, each of its units has something in it.
            for run in runs.iter().filter(|run| !run.zero) {
                let mut at = run.offset;
                while at < run.offset + length_of(run.bytes) {
                    let end = ((at / unit + 1) * unit).min(run.offset + length_of(run.bytes));
                    let [from, to] = [at, end].map(|byte| usize::try_from(byte - run.offset).unwrap());
                    prop_assert!(run.bytes[from..to].iter().any(|&byte| byte != 0));
                    at = end;
                }
            }
        }
    }
}
