//! Putting an image over another one without changing its disk.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Format;
use super::chain::read_below;
use super::open::{BackingPolicy, Image, ImageSpec};
use super::overlay::Parent;
use super::pieces::{Piece, Pieces};
use super::work::{BUFFER, Buffers, Work, is_zero};
use crate::block::{BlockDevice, Result, length_of};

const BLOCK: usize = 4096;

/// Puts the image `path` over `parent`, which lies at `parent_path`, or over nothing. What its disk has from below and
/// the new parent has not is written into the image first; gives the bytes of that.
///
/// An image that lies over nothing says of its zeros that they are, where the new parent has something else.
///
/// At each moment, and if it is stopped in between, the disk is what it was: over the old parent, until the image names
/// the new one.
///
/// # Errors
/// [`ErrorKind::Backing`] if the image has another backing image than the one that it was made over; one of the images
/// is in use, or the medium failed.
pub fn rebase(path: &Path, parent: Option<(&Path, &Parent)>, work: Work<'_>) -> Result<u64> {
    let spec = ImageSpec::new(path, Format::Selfie).backing(BackingPolicy::Open);
    let child = Image::open(&spec)?;
    let below = match parent {
        None => None,
        Some((path, parent)) => {
            let format = parent.backing.format.into();
            Some(Image::open(&ImageSpec::new(path, format).read_only().backing(BackingPolicy::Open))?)
        }
    };
    let written = AtomicU64::new(0);
    let pieces = Pieces::new(&child, child.size());
    work.run(|buffers| {
        let Some(piece) = pieces.next()? else { return Ok(false) };
        // What the image holds itself stays where it is.
        if piece.depth > 0 || piece.zero {
            written.fetch_add(keep(&child, below.as_ref(), piece, buffers)?, Ordering::Relaxed);
        }
        (work.progress)(piece.length);
        Ok(true)
    })?;
    child.flush()?;
    child.attach(parent.map(|(_, parent)| parent.backing.clone()))?;
    Ok(written.into_inner())
}

/// Writes a piece of the disk of `child` into it, as far as `below` has something else there.
fn keep(child: &Image, below: Option<&Image>, piece: Piece, buffers: &mut Buffers) -> Result<u64> {
    let mut written = 0;
    for (mut position, end) in candidates(below, piece)? {
        while position < end {
            let (is, would_be) = buffers.pair((end - position).min(BUFFER as u64));
            if piece.zero {
                is.fill(0)
            } else {
                child.read(position, is, &[])?
            }
            match below {
                Some(below) => read_below(below, position, would_be)?,
                None => would_be.fill(0),
            }
            written += write_differences(child, position, is, would_be)?;
            position += length_of(is);
        }
    }
    Ok(written)
}

/// Parts of a piece in which the disks may differ.
fn candidates(below: Option<&Image>, piece: Piece) -> Result<Vec<(u64, u64)>> {
    let Piece { offset, length, zero, .. } = piece;
    match below {
        _ if !zero => Ok(vec![(offset, offset + length)]),
        None => Ok(Vec::new()),
        Some(below) => {
            let there = below.size().saturating_sub(offset).min(length);
            if there == 0 {
                return Ok(Vec::new());
            }
            let located = below.locate(offset, there)?.into_iter().filter(|located| !located.zero);
            Ok(located.map(|located| (located.offset, located.offset + located.length)).collect())
        }
    }
}

/// Writes the blocks of `is` that differ from those of `would_be`, neighbours together.
fn write_differences(child: &Image, offset: u64, is: &[u8], would_be: &[u8]) -> Result<u64> {
    let mut written = 0;
    let blocks: Vec<(&[u8], bool)> =
        is.chunks(BLOCK).zip(would_be.chunks(BLOCK)).map(|(is, would_be)| (is, is != would_be)).collect();
    let mut position = offset;
    for run in blocks.chunk_by(|(_, first), (_, second)| first == second) {
        let length: u64 = run.iter().map(|(block, _)| length_of(block)).sum();
        if run.iter().any(|(_, differs)| *differs) {
            let bytes: Vec<u8> = run.iter().flat_map(|(block, _)| block.iter().copied()).collect();
            match child.selfie().filter(|_| child.recorded_backing().is_none()) {
                // It differs only where it is zeros: what the image holds itself is not looked at.
                Some(alone) => written += alone.hold_zeroes(position, length)?,
                None if is_zero(&bytes) => {
                    child.write_zeroes(position, length, true)?;
                    written += length;
                }
                None => {
                    child.write(position, &bytes, &[])?;
                    written += length;
                }
            }
        }
        position += length;
    }
    Ok(written)
}
