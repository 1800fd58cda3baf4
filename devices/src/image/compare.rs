//! Comparing the disks of two images.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::open::Image;
use super::pieces::{Piece, Pieces};
use super::work::{BUFFER, Buffers, Work, is_zero};
use crate::block::{BlockDevice, Result, length_of};

/// How two disks compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// First byte that differs, if any does. The shorter disk counts as followed by zeros.
    pub first_difference: Option<u64>,
    /// The sizes are the same.
    pub same_size: bool,
}

/// Compares the content of two disks.
///
/// # Errors
/// One of them cannot be read, or it was stopped.
pub fn compare(first: &Image, second: &Image, work: Work<'_>) -> Result<Comparison> {
    let (long, short) = if first.size() >= second.size() { (first, second) } else { (second, first) };
    let difference = AtomicU64::new(u64::MAX);
    let common = Pieces::new(long, long.size());
    work.run(|buffers| {
        // Pieces are handed out in order, so all before the difference are done or being done.
        if difference.load(Ordering::Relaxed) != u64::MAX {
            return Ok(false);
        }
        let Some(piece) = common.next()? else { return Ok(false) };
        if let Some(found) = differs(long, short, piece, buffers)? {
            difference.fetch_min(found, Ordering::Relaxed);
        }
        (work.progress)(piece.length);
        Ok(true)
    })?;
    let first_difference = Some(difference.into_inner()).filter(|&found| found != u64::MAX);
    Ok(Comparison { first_difference, same_size: first.size() == second.size() })
}

/// The first byte of a piece of `long` in which `short` differs.
fn differs(long: &Image, short: &Image, piece: Piece, buffers: &mut Buffers) -> Result<Option<u64>> {
    let Piece { offset, length, zero, .. } = piece;
    if zero {
        return not_zero(short, offset, length, buffers);
    }
    let (left, right) = buffers.pair(length);
    long.read(offset, left, &[])?;
    super::chain::read_below(short, offset, right)?;
    Ok(first_difference(left, right).map(|at| offset + at))
}

/// The first byte of a range of `image` that is not zero.
fn not_zero(image: &Image, offset: u64, length: u64, buffers: &mut Buffers) -> Result<Option<u64>> {
    let there = image.size().saturating_sub(offset).min(length);
    if there == 0 {
        return Ok(None);
    }
    for located in image.locate(offset, there)?.into_iter().filter(|located| !located.zero) {
        let end = located.offset + located.length;
        let mut position = located.offset;
        while position < end {
            let buffer = buffers.one((end - position).min(BUFFER as u64));
            image.read(position, buffer, &[])?;
            if !is_zero(buffer) {
                let at = buffer.iter().take_while(|&&byte| byte == 0).count();
                return Ok(Some(position + length_of(&buffer[..at])));
            }
            position += length_of(buffer);
        }
    }
    Ok(None)
}

fn first_difference(left: &[u8], right: &[u8]) -> Option<u64> {
    if left == right {
        return None;
    }
    let at = left.iter().zip(right).take_while(|(left, right)| left == right).count();
    Some(length_of(&left[..at]))
}
