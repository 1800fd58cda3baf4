//! Reading what can be read of an image that is damaged.

use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::open::Image;
use super::pieces::{Piece, Pieces};
use super::work::{Buffers, Work};
use crate::block::{BlockDevice, ErrorKind, Result};

/// The unit in which a part that cannot be read is given up, in bytes.
const BLOCK: u64 = 4096;
/// Lost ranges that are told one by one.
const MAX_LOST: usize = 10_000;

/// What could be saved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Salvaged {
    /// Bytes that were copied.
    pub data: u64,
    /// Bytes that cannot be read.
    pub lost: u64,
    /// First byte and length of the ranges that cannot be read, as far as they are not too many.
    pub ranges: Vec<(u64, u64)>,
}

/// Copies what `source` holds itself, without the images below it, into `destination`. What cannot be read is left
/// as it is there.
///
/// # Errors
/// The destination cannot be written, or it was stopped.
pub fn salvage(source: &Image, destination: &dyn BlockDevice, work: Work<'_>) -> Result<Salvaged> {
    let pieces = Pieces::above(source, source.size(), 1);
    let salvaged = Mutex::new(Salvaged::default());
    work.run(|buffers| {
        let Some(piece) = pieces.next()? else { return Ok(false) };
        let mut part = Salvaged::default();
        take(source, destination, piece, buffers, &mut part)?;
        let mut all = salvaged.lock().unwrap_or_else(PoisonError::into_inner);
        all.data += part.data;
        all.lost += part.lost;
        all.ranges.extend(part.ranges);
        all.ranges.truncate(MAX_LOST);
        drop(all);
        (work.progress)(piece.length);
        Ok(true)
    })?;
    destination.flush()?;
    let mut salvaged = salvaged.into_inner().unwrap_or_else(PoisonError::into_inner);
    salvaged.ranges.sort_unstable();
    Ok(salvaged)
}

fn take(
    source: &Image,
    destination: &dyn BlockDevice,
    piece: Piece,
    buffers: &mut Buffers,
    part: &mut Salvaged,
) -> Result<()> {
    let Piece { offset, length, zero, .. } = piece;
    if zero {
        return destination.write_zeroes(offset, length, true);
    }
    let buffer = buffers.one(length);
    match source.read(offset, buffer, &[]) {
        Ok(()) => {
            part.data += length;
            return destination.write(offset, buffer, &[]);
        }
        Err(error) if !matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Io) => return Err(error),
        Err(_) => {}
    }
    // Again in the smallest units: it takes long, and there are few such pieces.
    let mut position = offset;
    while position < offset + length {
        let unit = (BLOCK - position % BLOCK).min(offset + length - position);
        let buffer = buffers.one(unit);
        match source.read(position, buffer, &[]) {
            Ok(()) => {
                part.data += unit;
                destination.write(position, buffer, &[])?;
            }
            Err(_) => {
                part.lost += unit;
                match part.ranges.last_mut() {
                    Some(last) if last.0 + last.1 == position => last.1 += unit,
                    _ => part.ranges.push((position, unit)),
                }
            }
        }
        position += unit;
    }
    Ok(())
}
