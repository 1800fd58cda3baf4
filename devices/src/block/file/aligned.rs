//! Memory that direct access accepts, kept for reuse.

use std::sync::{Mutex, PoisonError};

/// Largest buffer: longer requests go through it piece by piece.
pub(super) const LARGEST: usize = 1024 * 1024;

/// Buffers that are kept while nobody uses them. More than this many requests at a time allocate anew.
const KEPT: usize = 32;

/// Bytes at an address that is a multiple of some alignment.
#[derive(Debug)]
pub(super) struct AlignedBuffer {
    /// Longer than asked for by the alignment; never grows, so the bytes stay where they are.
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl AlignedBuffer {
    /// `length` zero bytes at a multiple of `alignment`, a power of two.
    pub(super) fn new(length: usize, alignment: usize) -> Self {
        let bytes = vec![0; length + alignment];
        let address = bytes.as_ptr().addr();
        let start = address.next_multiple_of(alignment) - address;
        Self { bytes, start, length }
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.length]
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.length]
    }
}

/// Aligned buffers that were used before.
#[derive(Debug)]
pub(super) struct BufferPool {
    alignment: usize,
    free: Mutex<Vec<AlignedBuffer>>,
}

impl BufferPool {
    /// A pool of buffers at multiples of `alignment`, a power of two.
    pub(super) fn new(alignment: usize) -> Self {
        Self { alignment, free: Mutex::new(Vec::with_capacity(KEPT)) }
    }

    /// Whether the kernel takes `memory` as it is.
    pub(super) fn accepts(&self, memory: &[u8]) -> bool {
        memory.as_ptr().addr().is_multiple_of(self.alignment)
    }

    /// Calls `work` with `length` aligned bytes of arbitrary content, at most [`LARGEST`].
    pub(super) fn lend<T>(&self, length: usize, work: impl FnOnce(&mut [u8]) -> T) -> T {
        debug_assert!(length <= LARGEST);
        let mut buffer = self.take(length);
        let result = work(&mut buffer.as_mut_slice()[..length]);
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < KEPT {
            free.push(buffer);
        }
        result
    }

    /// The last used buffer, which is the likeliest to be in the processor's cache; a longer one takes its place if it
    /// is too short.
    fn take(&self, length: usize) -> AlignedBuffer {
        let last = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match last {
            Some(buffer) if buffer.length >= length => buffer,
            _ => AlignedBuffer::new(length.next_power_of_two(), self.alignment),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_aligned_and_used_again() {
        let pool = BufferPool::new(4096);
        let first = pool.lend(5000, |memory| {
            assert_eq!(memory.len(), 5000);
            assert!(pool.accepts(memory) && !pool.accepts(&memory[1..]));
            memory.as_ptr().addr()
        });
        assert_eq!(pool.lend(8192, |memory| memory.as_ptr().addr()), first);
        // A longer one replaces it; nothing is kept twice.
        pool.lend(8193, |memory| assert!(pool.accepts(memory)));
        assert_eq!(pool.free.lock().unwrap().len(), 1);
    }

    #[test]
    fn two_users_at_a_time_have_two_buffers() {
        let pool = BufferPool::new(512);
        pool.lend(512, |outer| {
            outer.fill(1);
            pool.lend(512, |inner| inner.fill(2));
            assert!(outer.iter().all(|&byte| byte == 1));
        });
        assert_eq!(pool.free.lock().unwrap().len(), 2);
    }
}
