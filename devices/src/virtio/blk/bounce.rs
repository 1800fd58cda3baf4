//! The memory that a worker copies guest data through: the guest can change its own copy at any time, this one not.
//!
//! Aligned to 4 KiB, and kept from request to request.

use zerocopy::{FromBytes, FromZeros, IntoBytes};

#[derive(FromBytes, IntoBytes)]
#[repr(C, align(4096))]
struct Page([u8; 4096]);

/// A buffer that grows to the longest request so far.
#[derive(Default)]
pub(super) struct Bounce(Vec<Page>);

impl Bounce {
    /// The first `length` bytes, which hold whatever the last request left there.
    pub(super) fn first(&mut self, length: usize) -> &mut [u8] {
        let pages = length.div_ceil(size_of::<Page>());
        if self.0.len() < pages {
            self.0.resize_with(pages, Page::new_zeroed);
        }
        &mut self.0.as_mut_slice().as_mut_bytes()[..length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_aligned_and_grows() {
        let mut bounce = Bounce::default();
        assert!(bounce.first(0).is_empty());
        for length in [1, 4096, 4097, 100] {
            let bytes = bounce.first(length);
            assert_eq!((bytes.len(), bytes.as_ptr().addr() % 4096), (length, 0));
        }
    }
}
