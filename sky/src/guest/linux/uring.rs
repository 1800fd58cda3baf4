//! io_uring: what a process has put into the submission queue of a ring (io_uring/io_uring.c).

use super::{Linux, pointer};
use crate::guest::btf::Btf;
use crate::guest::{Gva, View};
use crate::{Error, Result};

/// Bytes of a submission entry that matter here, `struct io_uring_sqe`.
const ENTRY_BYTES: usize = 64;
/// Entries of the longest queue, `IORING_MAX_ENTRIES`.
const MAX_ENTRIES: u32 = 1 << 15;
/// Name of the file that is a ring.
const NAME: &str = "[io_uring]";

/// Flags of `io_uring_setup` (include/uapi/linux/io_uring.h).
const IORING_SETUP_SQPOLL: u32 = 1 << 1;
const IORING_SETUP_SQE128: u32 = 1 << 10;
const IORING_SETUP_NO_SQARRAY: u32 = 1 << 16;

/// Offsets in the structures of io_uring, in bytes.
#[derive(Debug)]
pub(super) struct Uring {
    file_private: u64,
    context_rings: u64,
    context_flags: u64,
    context_array: u64,
    context_entries: u64,
    context_count: u64,
    context_head: u64,
    rings_tail: u64,
}

impl Uring {
    /// Looks up every offset that is needed.
    ///
    /// # Errors
    /// [`Error::Btf`] on kernels without io_uring.
    pub(super) fn new(btf: &Btf) -> Result<Self> {
        Ok(Self {
            file_private: btf.offset("file", "private_data")?,
            context_rings: btf.offset("io_ring_ctx", "rings")?,
            context_flags: btf.offset("io_ring_ctx", "flags")?,
            context_array: btf.offset("io_ring_ctx", "sq_array")?,
            context_entries: btf.offset("io_ring_ctx", "sq_sqes")?,
            context_count: btf.offset("io_ring_ctx", "sq_entries")?,
            context_head: btf.offset("io_ring_ctx", "cached_sq_head")?,
            rings_tail: btf.offset("io_rings", "sq.tail")?,
        })
    }

    fn submitted(&self, view: &View<'_>, context: Gva, most: u32) -> Result<Submissions> {
        let odd = || Error::Kernel("a ring has no size that a ring can have");
        let flags = view.read_u32(context.offset(self.context_flags))?;
        if flags & IORING_SETUP_SQPOLL != 0 {
            return Ok(Submissions::Polled);
        }
        let count = view.read_u32(context.offset(self.context_count))?;
        if !count.is_power_of_two() || count > MAX_ENTRIES {
            return Err(odd());
        }
        let entries = pointer(view, context.offset(self.context_entries))?;
        let array = match flags & IORING_SETUP_NO_SQARRAY {
            0 => Some(pointer(view, context.offset(self.context_array))?),
            _ => None,
        };
        let head = view.read_u32(context.offset(self.context_head))?;
        let tail =
            view.read_u32(pointer(view, context.offset(self.context_rings))?.offset(self.rings_tail))?;
        let size = ENTRY_BYTES as u64 * if flags & IORING_SETUP_SQE128 != 0 { 2 } else { 1 };
        let mut all = Vec::new();
        for at in 0..tail.wrapping_sub(head).min(count).min(most) {
            let slot = u64::from(head.wrapping_add(at) & (count - 1));
            let number = match array {
                Some(array) => view.read_u32(array.offset(slot * 4))?,
                None => u32::try_from(slot).map_err(|_| odd())?,
            };
            // The kernel drops one that is beyond the queue, and ends there.
            if number >= count {
                break;
            }
            let mut entry = [0; ENTRY_BYTES];
            view.read(entries.offset(u64::from(number) * size), &mut entry)?;
            all.push(entry);
        }
        Ok(Submissions::Entries(all))
    }
}

/// What is in a ring's submission queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Submissions {
    /// These entries, oldest first: the first 64 bytes of each.
    Entries(Vec<[u8; 64]>),
    /// A thread of the kernel takes entries whenever there are some (`IORING_SETUP_SQPOLL`).
    Polled,
}

impl Linux {
    /// What `io_uring_enter` of at most `most` entries of ring `fd` will submit; `None` if that is no ring, or the kernel
    /// has none.
    ///
    /// # Errors
    /// [`Error::NotMapped`], or [`Error::Kernel`] for a ring that makes no sense.
    pub fn submissions(&self, view: &View<'_>, task: Gva, fd: u32, most: u32) -> Result<Option<Submissions>> {
        let Some(uring) = &self.uring else { return Ok(None) };
        let Some(file) = self.descriptor(view, task, fd)? else { return Ok(None) };
        if self.name(view, pointer(view, file.offset(self.file_dentry))?)? != NAME {
            return Ok(None);
        }
        uring.submitted(view, pointer(view, file.offset(uring.file_private))?, most).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

    use super::*;

    /// Shows all of the memory, from its beginning.
    const DIRECT: u64 = 0xffff_8880_0000_0000;
    const MEMORY: usize = 1 << 20;
    const TABLES: u64 = 0x8_0000;
    const CONTEXT: u64 = 0x1000;
    const RINGS: u64 = 0x2000;
    const ARRAY: u64 = 0x3000;
    const ENTRIES: u64 = 0x4000;
    const URING: Uring = Uring {
        file_private: 0,
        context_rings: 0,
        context_flags: 8,
        context_array: 16,
        context_entries: 24,
        context_count: 32,
        context_head: 36,
        rings_tail: 4,
    };

    /// A ring of 8 entries, each of which begins with its own number.
    fn ring(flags: u32, head: u32, tail: u32, array: [u32; 8]) -> GuestMemoryMmap {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
        let put = |at: u64, value: u64| memory.write_obj(value, GuestAddress(at)).unwrap();
        put(TABLES + ((DIRECT >> 39) & 511) * 8, (TABLES + 0x1000) | 3);
        put(TABLES + 0x1000 + ((DIRECT >> 30) & 511) * 8, 3 | 1 << 7);
        put(CONTEXT, DIRECT + RINGS);
        put(CONTEXT + 8, flags.into());
        put(CONTEXT + 16, DIRECT + ARRAY);
        put(CONTEXT + 24, DIRECT + ENTRIES);
        put(CONTEXT + 32, 8 | u64::from(head) << 32);
        put(RINGS, u64::from(tail) << 32);
        let size = if flags & IORING_SETUP_SQE128 != 0 { 128 } else { 64 };
        for (at, number) in (0u64..).zip(array) {
            memory.write_obj(number, GuestAddress(ARRAY + at * 4)).unwrap();
            put(ENTRIES + at * size, at);
        }
        memory
    }

    fn submitted(memory: &GuestMemoryMmap, most: u32) -> Vec<u8> {
        let view = View::new(memory, TABLES, false);
        match URING.submitted(&view, Gva(DIRECT + CONTEXT), most).unwrap() {
            Submissions::Entries(all) => all.iter().map(|entry| entry[0]).collect(),
            Submissions::Polled => panic!("polled"),
        }
    }

    #[test]
    fn entries_come_in_the_order_of_the_ring() {
        let array = [7, 6, 5, 4, 3, 2, 1, 0];
        assert_eq!(submitted(&ring(0, 6, 9, array), 100), [1, 0, 7]);
        assert_eq!(submitted(&ring(0, 6, 9, array), 2), [1, 0]);
        assert_eq!(submitted(&ring(0, u32::MAX, 1, array), 100), [0, 7], "numbers wrap");
        assert_eq!(submitted(&ring(IORING_SETUP_NO_SQARRAY, 6, 9, array), 100), [6, 7, 0]);
        assert_eq!(submitted(&ring(IORING_SETUP_SQE128, 0, 2, array), 100), [7, 6]);
        assert!(submitted(&ring(0, 3, 3, array), 100).is_empty());
        assert_eq!(submitted(&ring(0, 0, 3, [1, 8, 2, 0, 0, 0, 0, 0]), 100), [1], "beyond the queue");
    }

    #[test]
    fn a_polled_ring_is_told() {
        let memory = ring(IORING_SETUP_SQPOLL, 0, 3, [0; 8]);
        let view = View::new(&memory, TABLES, false);
        assert_eq!(URING.submitted(&view, Gva(DIRECT + CONTEXT), 1).unwrap(), Submissions::Polled);
    }

    proptest! {
        #[test]
        fn any_ring_gives_an_answer_or_an_error(words in proptest::collection::vec(any::<u64>(), 8), most: u32) {
            let memory = ring(0, 0, 0, [0; 8]);
            for (at, word) in (0..).zip(&words) {
                let value = if word % 2 == 0 { DIRECT | ((word >> 8) % MEMORY as u64) } else { *word };
                memory.write_obj(value, GuestAddress(CONTEXT + at * 8)).unwrap();
            }
            let view = View::new(&memory, TABLES, false);
            if let Ok(Submissions::Entries(all)) = URING.submitted(&view, Gva(DIRECT + CONTEXT), most) {
                prop_assert!(all.len() <= MAX_ENTRIES as usize);
            }
        }
    }
}
