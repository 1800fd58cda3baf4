//! What a call moves into a file, or out of it: which descriptor, where in the file, from or to where.

use crate::guest::{Gva, View};
use crate::syscall::RawCall;

/// What one call may transfer, `MAX_RW_COUNT` of Linux.
pub(super) const MAX_RW_COUNT: u64 = 0x7fff_f000;
/// Buffers of one call, `UIO_MAXIOV`.
const MAX_BUFFERS: u64 = 1024;
/// Bytes of a `struct iovec`.
const IOVEC: usize = 16;

const READ: u64 = 0;
const WRITE: u64 = 1;
const PREAD64: u64 = 17;
const PWRITE64: u64 = 18;
const READV: u64 = 19;
const WRITEV: u64 = 20;
const SENDFILE: u64 = 40;
const SPLICE: u64 = 275;
const PREADV: u64 = 295;
const PWRITEV: u64 = 296;
const COPY_FILE_RANGE: u64 = 326;
const PREADV2: u64 = 327;
const PWRITEV2: u64 = 328;

/// The calls that read from files into memory, by number.
pub(super) const READS: [u64; 5] = [READ, PREAD64, READV, PREADV, PREADV2];

/// The calls that write to files, by number.
pub(super) const WRITES: [u64; 8] =
    [WRITE, PWRITE64, WRITEV, SENDFILE, SPLICE, PWRITEV, COPY_FILE_RANGE, PWRITEV2];

/// Flags of `pwritev2` (include/uapi/linux/fs.h).
const RWF_DSYNC: u32 = 0x2;
const RWF_SYNC: u32 = 0x4;
const RWF_APPEND: u32 = 0x10;
const RWF_NOAPPEND: u32 = 0x20;

/// Where in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Where the descriptor stands.
    Position,
    /// At a byte offset.
    Offset(u64),
}

/// Where the bytes come from; or go to, when a file is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Supply {
    /// The process's memory.
    Memory(Buffers),
    /// Another descriptor, at most so many bytes. The kernel copies, and the process never sees them.
    Descriptor {
        /// File, pipe or socket.
        fd: u32,
        /// Where in it.
        place: Place,
        /// Bytes, at most.
        count: u64,
    },
}

/// A call that writes to a file, or reads from one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Transfer {
    pub(super) fd: u32,
    pub(super) place: Place,
    pub(super) from: Supply,
    /// Appends whatever the descriptor says; or does not.
    pub(super) append: Option<bool>,
    /// Is on the disk before the call returns.
    pub(super) sync: bool,
}

impl Transfer {
    /// Reads what a call is to do; `None` for another call, one that the kernel will refuse, or one whose description
    /// cannot be read.
    pub(super) fn decode(view: &View<'_>, call: &RawCall) -> Option<Self> {
        let [a, b, c, d, e, f] = call.args;
        let plain = |fd, place, from| Self { fd: int(fd), place, from, append: None, sync: false };
        let memory = |buffers| Supply::Memory(buffers);
        let between = |fd, place, count: u64| {
            Some(Supply::Descriptor { fd: int(fd), place: place?, count: count.min(MAX_RW_COUNT) })
        };
        Some(match call.number {
            READ | WRITE => plain(a, Place::Position, memory(Buffers::one(Gva(b), c))),
            PREAD64 | PWRITE64 => plain(a, offset(d)?, memory(Buffers::one(Gva(b), c))),
            READV | WRITEV => plain(a, Place::Position, memory(Buffers::read(view, Gva(b), c)?)),
            // A 64-bit kernel drops the high half of the position: `pos_from_hilo()` in fs/read_write.c.
            PREADV | PWRITEV => plain(a, offset(d)?, memory(Buffers::read(view, Gva(b), c)?)),
            PREADV2 | PWRITEV2 => {
                let flags = int(f);
                let place = if d == u64::MAX { Place::Position } else { offset(d)? };
                let append = match flags & (RWF_APPEND | RWF_NOAPPEND) {
                    RWF_APPEND => Some(true),
                    RWF_NOAPPEND => Some(false),
                    _ => None,
                };
                let sync = flags & (RWF_DSYNC | RWF_SYNC) != 0;
                Self { append, sync, ..plain(a, place, memory(Buffers::read(view, Gva(b), c)?)) }
            }
            SENDFILE => plain(a, Place::Position, between(b, pointed(view, c), d)?),
            SPLICE | COPY_FILE_RANGE => plain(c, pointed(view, d)?, between(a, pointed(view, b), e)?),
            _ => return None,
        })
    }

    /// How many bytes it is to move, at most.
    pub(super) fn count(&self) -> u64 {
        match &self.from {
            Supply::Memory(buffers) => buffers.length(),
            Supply::Descriptor { count, .. } => *count,
        }
    }
}

/// The kernel takes descriptors and flags from the low half of the register.
#[expect(clippy::cast_possible_truncation, reason = "the kernel looks at the low half, too")]
fn int(value: u64) -> u32 {
    value as u32
}

/// Offsets are signed; a negative one is refused.
pub(super) fn offset(value: u64) -> Option<Place> {
    (value.cast_signed() >= 0).then_some(Place::Offset(value))
}

/// An offset that an argument points at; without one it is the descriptor's position.
fn pointed(view: &View<'_>, at: u64) -> Option<Place> {
    if at == 0 { Some(Place::Position) } else { offset(view.read_u64(Gva(at)).ok()?) }
}

/// Buffers in a process's memory, one behind the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Buffers {
    /// Where each begins in the whole, and in memory; never two at one place of the whole.
    pieces: Vec<(u64, Gva)>,
    length: u64,
}

impl Buffers {
    pub(super) fn one(at: Gva, length: u64) -> Self {
        Self::collect([(at, length)])
    }

    fn collect(all: impl IntoIterator<Item = (Gva, u64)>) -> Self {
        let mut buffers = Self::default();
        for (at, length) in all {
            let length = length.min(MAX_RW_COUNT - buffers.length);
            if length > 0 {
                buffers.pieces.push((buffers.length, at));
                buffers.length += length;
            }
        }
        buffers
    }

    /// `count` times `struct iovec` at `at`.
    pub(super) fn read(view: &View<'_>, at: Gva, count: u64) -> Option<Self> {
        let count = usize::try_from(count).ok().filter(|&count| count as u64 <= MAX_BUFFERS)?;
        let mut bytes = vec![0; count * IOVEC];
        view.read(at, &mut bytes).ok()?;
        let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
        Some(Self::collect(
            bytes.chunks_exact(IOVEC).map(|iovec| (Gva(word(&iovec[..8])), word(&iovec[8..]))),
        ))
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Copies the bytes from `at` of the whole; false when some are not there.
    pub(super) fn copy(&self, view: &View<'_>, at: u64, into: &mut [u8]) -> bool {
        let end = at.saturating_add(into.len() as u64);
        if end > self.length {
            return false;
        }
        let mut done = 0;
        let mut number = self.pieces.partition_point(|&(begins, _)| begins <= at).saturating_sub(1);
        while done < into.len() {
            let Some(&(begins, memory)) = self.pieces.get(number) else { return false };
            let ends = self.pieces.get(number + 1).map_or(self.length, |&(next, _)| next).min(end);
            let from = at + done as u64;
            let Ok(length) = usize::try_from(ends - from) else { return false };
            if view.read(memory.offset(from - begins), &mut into[done..done + length]).is_err() {
                return false;
            }
            done += length;
            number += 1;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

    use super::*;

    const MEMORY: usize = 1 << 20;

    /// All of the memory, also at addresses from 0 on; beyond, nothing.
    fn memory() -> GuestMemoryMmap {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
        let tables = MEMORY as u64 - 0x4000;
        for level in 0..2 {
            memory
                .write_obj((tables + (level + 1) * 0x1000) | 7, GuestAddress(tables + level * 0x1000))
                .unwrap();
        }
        memory.write_obj(0x87u64, GuestAddress(tables + 0x2000)).unwrap();
        memory
    }

    fn view(memory: &GuestMemoryMmap) -> View<'_> {
        View::new(memory, MEMORY as u64 - 0x4000, false)
    }

    fn decode(memory: &GuestMemoryMmap, number: libc::c_long, args: [u64; 6]) -> Option<Transfer> {
        Transfer::decode(&view(memory), &RawCall { number: number.cast_unsigned(), args })
    }

    /// `struct iovec`s at 0x8000.
    fn iovecs(memory: &GuestMemoryMmap, all: &[(u64, u64)]) {
        for (at, &(base, length)) in (0..).zip(all) {
            memory.write_obj(base, GuestAddress(0x8000 + at * 16)).unwrap();
            memory.write_obj(length, GuestAddress(0x8008 + at * 16)).unwrap();
        }
    }

    #[test]
    fn every_call_says_where_it_writes() {
        let memory = memory();
        iovecs(&memory, &[(0x1000, 10), (0x2000, 0), (0x3000, 6)]);
        memory.write_obj(77u64, GuestAddress(0x9000)).unwrap();
        let cases = [
            (libc::SYS_write, [3, 0x1000, 16, 9, 9, 9], Place::Position),
            (libc::SYS_pwrite64, [3, 0x1000, 16, 5, 9, 9], Place::Offset(5)),
            (libc::SYS_writev, [3, 0x8000, 3, 9, 9, 9], Place::Position),
            (libc::SYS_pwritev, [3, 0x8000, 3, 5, 9, 9], Place::Offset(5)),
            (libc::SYS_pwritev2, [3, 0x8000, 3, 5, 0, 0], Place::Offset(5)),
            (libc::SYS_pwritev2, [3, 0x8000, 3, u64::MAX, 0, 0], Place::Position),
            (libc::SYS_sendfile, [3, 4, 0x9000, 16, 9, 9], Place::Position),
            (libc::SYS_splice, [4, 0, 3, 0x9000, 16, 9], Place::Offset(77)),
            (libc::SYS_copy_file_range, [4, 0x9000, 3, 0, 16, 0], Place::Position),
        ];
        for (number, args, place) in cases {
            let transfer = decode(&memory, number, args).unwrap();
            assert_eq!((transfer.fd, transfer.place, transfer.count()), (3, place, 16), "{number}");
            assert!(WRITES.contains(&number.cast_unsigned()));
            if let Supply::Descriptor { fd, place, .. } = transfer.from {
                assert_eq!(fd, 4);
                let pointed = [libc::SYS_sendfile, libc::SYS_copy_file_range].contains(&number);
                assert_eq!(place, if pointed { Place::Offset(77) } else { Place::Position });
            }
        }
        for (read, write) in [
            (libc::SYS_read, libc::SYS_write),
            (libc::SYS_pread64, libc::SYS_pwrite64),
            (libc::SYS_readv, libc::SYS_writev),
            (libc::SYS_preadv, libc::SYS_pwritev),
            (libc::SYS_preadv2, libc::SYS_pwritev2),
        ] {
            let args = [3, 0x8000, 3, 5, 0, 0];
            assert!(READS.contains(&read.cast_unsigned()));
            assert_eq!(decode(&memory, read, args), decode(&memory, write, args));
            assert!(decode(&memory, read, args).is_some());
        }
        assert_eq!(decode(&memory, libc::SYS_getpid, [3, 0, 16, 0, 0, 0]), None);
    }

    #[test]
    fn what_the_kernel_refuses_is_none() {
        let memory = memory();
        for (number, args) in [
            (libc::SYS_pwrite64, [3, 0x1000, 16, u64::MAX, 0, 0]),
            (libc::SYS_writev, [3, 0x8000, 1025, 0, 0, 0]),
            (libc::SYS_writev, [3, 0x8000, u64::MAX, 0, 0, 0]),
            (libc::SYS_writev, [3, 1 << 40, 1, 0, 0, 0]),
            (libc::SYS_copy_file_range, [4, 1 << 40, 3, 0, 16, 0]),
        ] {
            assert_eq!(decode(&memory, number, args), None, "{number} {args:?}");
        }
    }

    #[test]
    fn flags_of_pwritev2_count() {
        let memory = memory();
        let with = |flags| decode(&memory, libc::SYS_pwritev2, [3, 0x8000, 1, 0, 0, flags]).unwrap();
        let append = u64::from(libc::RWF_APPEND.cast_unsigned());
        assert_eq!((with(0).append, with(append).append, with(0x20).append), (None, Some(true), Some(false)));
        for flag in [libc::RWF_DSYNC, libc::RWF_SYNC] {
            assert!(with(u64::from(flag.cast_unsigned())).sync);
        }
        assert!(!with(0).sync);
    }

    proptest! {
        /// Against gathering the bytes one after the other.
        #[test]
        fn buffers_are_one_behind_the_other(
            lengths in proptest::collection::vec(0u64..50, 0..12),
            at in 0u64..200,
            length in 0usize..200,
        ) {
            let memory = memory();
            let bytes: Vec<u8> = (0..4096u32).map(|at| (at * 7 % 251) as u8).collect();
            memory.write_slice(&bytes, GuestAddress(0x1000)).unwrap();
            let pieces: Vec<(Gva, u64)> =
                (0..).zip(&lengths).map(|(number, &length)| (Gva(0x1000 + number * 100), length)).collect();
            let all: Vec<u8> = pieces
                .iter()
                .flat_map(|(at, length)| {
                    let start = usize::try_from(at.0 - 0x1000).unwrap();
                    bytes[start..start + usize::try_from(*length).unwrap()].to_vec()
                })
                .collect();
            let buffers = Buffers::collect(pieces);
            prop_assert_eq!(buffers.length(), all.len() as u64);
            let mut out = vec![0; length];
            let start = usize::try_from(at).unwrap();
            match all.get(start..start + length) {
                Some(expected) => {
                    prop_assert!(buffers.copy(&view(&memory), at, &mut out));
                    prop_assert_eq!(&out[..], expected);
                }
                None => prop_assert!(!buffers.copy(&view(&memory), at, &mut out)),
            }
        }

        #[test]
        fn any_arguments_are_answered(number in proptest::sample::select(&WRITES[..]), args: [u64; 6], small: [u16; 6]) {
            let memory = memory();
            for args in [args, small.map(u64::from)] {
                if let Some(transfer) = Transfer::decode(&view(&memory), &RawCall { number, args }) {
                    prop_assert!(transfer.count() <= MAX_RW_COUNT);
                    if let Supply::Memory(buffers) = transfer.from {
                        let _ = buffers.copy(&view(&memory), args[2], &mut [0; 64]);
                    }
                }
            }
        }
    }
}
