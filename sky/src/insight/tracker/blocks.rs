//! The 4 KiB blocks of a range of bytes.

use sky_devices::io_class::BLOCK_SIZE;

pub(super) const BLOCK: u64 = BLOCK_SIZE as u64;

/// Offsets of the blocks that lie wholly within `count` bytes from `offset`.
pub(super) fn whole_blocks(offset: u64, count: u64) -> impl Iterator<Item = u64> {
    let end = offset.saturating_add(count);
    let first = offset.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX);
    let last = end - end % BLOCK;
    (first..last.max(first)).step_by(BLOCK_SIZE)
}

/// Offsets of the blocks that are touched, but not covered: two at most.
pub(super) fn partial_blocks(offset: u64, count: u64) -> impl Iterator<Item = u64> {
    let end = offset.saturating_add(count);
    let (first, last) = (offset - offset % BLOCK, end - end % BLOCK);
    let partial = move |block: u64| {
        let ends = block.saturating_add(BLOCK);
        count > 0 && block < end && ends > offset && (offset > block || end < ends)
    };
    let second = (last != first).then_some(last);
    [Some(first), second].into_iter().flatten().filter(move |&block| partial(block))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn blocks_of_a_write() {
        assert_eq!(whole_blocks(0, 8192).collect::<Vec<_>>(), [0, 4096]);
        assert_eq!(whole_blocks(1, 8192).collect::<Vec<_>>(), [4096]);
        assert_eq!(whole_blocks(4095, 4096).count(), 0);
        assert_eq!(partial_blocks(0, 8192).count(), 0);
        assert_eq!(partial_blocks(1, 8192).collect::<Vec<_>>(), [0, 8192]);
        assert_eq!(partial_blocks(4097, 2).collect::<Vec<_>>(), [4096]);
    }

    proptest! {
        #[test]
        fn blocks_agree_with_counting_bytes(offset in 0u64..20_000, count in 0u64..20_000) {
            let covered = |block: u64| {
                (0..BLOCK).filter(|byte| (offset..offset + count).contains(&(block * BLOCK + byte))).count()
            };
            let blocks = |wanted: &dyn Fn(usize) -> bool| -> Vec<u64> {
                (0..11).filter(|&block| wanted(covered(block))).map(|block| block * BLOCK).collect()
            };
            prop_assert_eq!(whole_blocks(offset, count).collect::<Vec<_>>(), blocks(&|bytes| bytes == BLOCK_SIZE));
            let partial = blocks(&|bytes| (1..BLOCK_SIZE).contains(&bytes));
            prop_assert_eq!(partial_blocks(offset, count).collect::<Vec<_>>(), partial);
        }

        #[test]
        fn offsets_that_a_guest_may_choose_do_not_overflow(offset: u64, count in 0u64..=0x7fff_f000) {
            prop_assert!(whole_blocks(offset, count).take(3).all(|block| block % BLOCK == 0));
            prop_assert!(partial_blocks(offset, count).all(|block| block % BLOCK == 0));
        }
    }
}
