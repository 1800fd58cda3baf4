//! A disk cut into pieces that threads take one after the other.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use super::extent::Located;
use super::open::Image;
use super::work::BUFFER;
use crate::block::Result;

/// Bytes that are mapped at a time: what bounds the memory that a map of a hostile image takes.
const WINDOW: u64 = 256 * 1024 * 1024;
/// Bytes of a piece that has to be read, which begins at a multiple of this wherever it can.
const PIECE: u64 = BUFFER as u64;

/// A piece of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// First byte.
    pub(super) offset: u64,
    /// Length in bytes, never zero; at most [`BUFFER`] unless it is known to be zero.
    pub(super) length: u64,
    /// Which image of the chain it comes from.
    pub(super) depth: usize,
    /// Known to read as zeros.
    pub(super) zero: bool,
}

/// What is left of a disk.
#[derive(Debug)]
pub(super) struct Pieces<'a> {
    image: &'a Image,
    /// What of the chain is asked for: images from here down are passed over.
    depth: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    next: u64,
    end: u64,
    mapped: VecDeque<Located>,
}

impl<'a> Pieces<'a> {
    /// The first `size` bytes of the disk, which it must have.
    pub(super) fn new(image: &'a Image, size: u64) -> Self {
        Self::above(image, size, usize::MAX)
    }

    /// Only what the first `depth` images of the chain say.
    pub(super) fn above(image: &'a Image, size: u64, depth: usize) -> Self {
        Self { image, depth, state: Mutex::new(State { next: 0, end: size, mapped: VecDeque::new() }) }
    }

    /// The next piece, or nothing at the end.
    ///
    /// # Errors
    /// As [`Image::locate`].
    pub(super) fn next(&self) -> Result<Option<Piece>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let Some(front) = state.mapped.front_mut() else {
                if state.next >= state.end {
                    return Ok(None);
                }
                let length = (state.end - state.next).min(WINDOW);
                state.mapped = self.image.locate(state.next, length)?.into();
                state.next += length;
                continue;
            };
            let Located { offset, length, zero, depth } = *front;
            // To the next multiple, so that pieces do not cut the clusters of either side.
            let length = if zero { length } else { length.min(PIECE - offset % PIECE) };
            if length == front.length {
                state.mapped.pop_front();
            } else {
                front.offset += length;
                front.length -= length;
            }
            if depth < self.depth {
                return Ok(Some(Piece { offset, length, depth, zero }));
            }
        }
    }
}
