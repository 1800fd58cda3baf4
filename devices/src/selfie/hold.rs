//! Zeros that an image holds nowhere, before it is put over another one.
//!
//! Without a backing image what is nowhere is zeros, and nobody says so. Over one it is what that has. So where zeros are
//! to stay the image says of them what it says after a discard: that they are zeros, whatever is below.

use std::sync::atomic::Ordering;

use super::format::{BLOCK, BLOCKS, Blocks, Entry, Kind};
use super::write::pieces;
use super::{Core, Selfie};
use crate::block::{Error, ErrorKind, Operation, Result};

impl Selfie {
    /// Has the image say that what it holds nowhere of a range is zeros, in whole clusters, so that no image shows through
    /// that it is then put over. The disk stays what it is; this is durable with the next flush. Gives the bytes of the
    /// range of which it was not said before.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] over a backing image, where such bytes are not zeros; as
    /// [`write_zeroes`](crate::block::BlockDevice::write_zeroes).
    pub fn hold_zeroes(&self, offset: u64, length: u64) -> Result<u64> {
        let core = &self.core;
        core.check(Operation::WriteZeroes, offset, length)?;
        if core.has_backing() {
            return Err(Error::new(ErrorKind::Invalid, Operation::WriteZeroes).at(offset, length));
        }
        core.hold_zeroes(offset, length).map_err(|error| error.at(offset, length))
    }
}

impl Core {
    fn hold_zeroes(&self, offset: u64, length: u64) -> Result<u64> {
        self.throttle()?;
        self.activity.fetch_add(1, Ordering::Relaxed);
        let mut held = 0;
        for (of, at, length) in pieces(offset, length) {
            let _alone = self.locks.exclusive(of);
            match self.map.get(of).kind {
                Kind::Zero => {}
                Kind::Empty => {
                    self.map.update(of, &Entry::zero(self.next_sequence()), false);
                    held += length as u64;
                }
                Kind::Embedded | Kind::Plain => {
                    // It was over a backing image once.
                    for block in 0..BLOCKS {
                        if self.map.get(of).blocks.get(block) != Blocks::ABSENT {
                            continue;
                        }
                        self.write_cluster(of, block * BLOCK, &[0; BLOCK])?;
                        let (from, to) = (at.max(block * BLOCK), (at + length).min((block + 1) * BLOCK));
                        held += to.saturating_sub(from) as u64;
                    }
                }
            }
        }
        Ok(held)
    }
}
