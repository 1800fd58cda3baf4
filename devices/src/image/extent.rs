//! What an image says of a range of its disk.

use crate::selfie::{Extent, ExtentKind};

/// A range of the disk, followed down the chain of backing images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located {
    /// First byte.
    pub offset: u64,
    /// Length in bytes, never zero.
    pub length: u64,
    /// Which image of the chain gives the answer; zero is the image itself, one its backing image.
    pub depth: usize,
    /// It reads as zeros.
    pub zero: bool,
}

/// A list of ranges in which equal neighbours become one.
#[derive(Debug, Default)]
pub(crate) struct Extents(Vec<Extent>);

impl Extents {
    /// Adds the range that follows the last one; an empty one is left out.
    pub(crate) fn push(&mut self, offset: u64, length: u64, kind: ExtentKind) {
        match self.0.last_mut() {
            _ if length == 0 => {}
            Some(last) if last.kind == kind && last.offset.checked_add(last.length) == Some(offset) => {
                last.length = last.length.saturating_add(length);
            }
            _ => self.0.push(Extent { offset, length, kind }),
        }
    }

    pub(crate) fn into_vec(self) -> Vec<Extent> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_neighbours_become_one() {
        let mut extents = Extents::default();
        extents.push(0, 10, ExtentKind::Data);
        extents.push(10, 0, ExtentKind::Zero);
        extents.push(10, 5, ExtentKind::Data);
        extents.push(15, 5, ExtentKind::Zero);
        extents.push(30, 5, ExtentKind::Zero);
        let lengths: Vec<_> = extents.into_vec().iter().map(|extent| extent.length).collect();
        assert_eq!(lengths, [15, 5, 5]);
    }
}
