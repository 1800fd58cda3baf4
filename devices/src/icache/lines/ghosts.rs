//! Which blocks left the cache lately, and when they were last used: 4 bytes each.
//!
//! Buckets of eight, of which the oldest gives way. An entry holds 16 bits of the block's hash, so that one in eight
//! thousand strangers is taken for an acquaintance, and 16 bits of the time.

use super::{Time, hash};

const WAYS: usize = 8;
/// Ghosts of a hundred lines.
const SHARE: u64 = 62;

/// The table.
#[derive(Debug)]
pub(super) struct Ghosts(Box<[[Ghost; WAYS]]>);

#[derive(Clone, Copy, Debug, Default)]
struct Ghost {
    /// Zero where nothing is.
    print: u16,
    seen: Time,
}

impl Ghosts {
    /// Bytes of the table beside so many lines.
    pub(super) fn bytes(lines: u32) -> u64 {
        Self::buckets(lines) * (WAYS * size_of::<Ghost>()) as u64
    }

    fn buckets(lines: u32) -> u64 {
        (u64::from(lines) * SHARE / 100 / WAYS as u64).max(1)
    }

    pub(super) fn new(lines: u32) -> Self {
        let buckets = usize::try_from(Self::buckets(lines)).unwrap_or(usize::MAX);
        Self(vec![[Ghost::default(); WAYS]; buckets].into_boxed_slice())
    }

    fn bucket(&mut self, block: u32) -> (&mut [Ghost; WAYS], u16) {
        let hash = hash(block);
        let scaled = u128::from(hash) * self.0.len() as u128;
        let bucket = usize::try_from(scaled >> 64).unwrap_or(0);
        let [a, b, ..] = hash.to_le_bytes();
        (&mut self.0[bucket], u16::from_le_bytes([a, b]).max(1))
    }

    /// Forgets a block, and says when it was last used.
    pub(super) fn take(&mut self, block: u32) -> Option<Time> {
        let (bucket, print) = self.bucket(block);
        let ghost = bucket.iter_mut().find(|ghost| ghost.print == print)?;
        ghost.print = 0;
        Some(ghost.seen)
    }

    /// Remembers a block that was last used at `seen`. It is `now`.
    pub(super) fn put(&mut self, block: u32, seen: Time, now: Time) {
        let (bucket, print) = self.bucket(block);
        let age = |ghost: &Ghost| match ghost.print {
            0 => u32::MAX,
            same if same == print => u32::MAX - 1,
            _ => u32::from(now.wrapping_sub(ghost.seen)),
        };
        if let Some(oldest) = bucket.iter_mut().max_by_key(|ghost| age(ghost)) {
            *oldest = Ghost { print, seen };
        }
    }

    /// Forgets all of them.
    pub(super) fn clear(&mut self) {
        self.0.fill([Ghost::default(); WAYS]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_youngest_are_known() {
        let mut ghosts = Ghosts::new(10_000);
        (0..60_000).for_each(|block| ghosts.put(block, u16::try_from(block / 100).unwrap(), 600));
        let known = (57_000..60_000).filter(|&block| ghosts.take(block).is_some()).count();
        assert!(known > 2_700, "{known}");
        assert!((0..30_000).filter(|&block| ghosts.take(block).is_some()).count() < 300);
        ghosts.put(7, 3, 3);
        assert_eq!((ghosts.take(7), ghosts.take(7)), (Some(3), None));
    }
}
