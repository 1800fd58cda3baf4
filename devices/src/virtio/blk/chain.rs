//! Descriptor chains as two streams of bytes: what the driver wrote for the device, and room for the answer.
//!
//! A driver may cut a request into descriptors as it likes (section 2.7.4.2), so nothing here knows where one ends:
//! the header may be split, or share a descriptor with the data. Empty descriptors add nothing and are skipped.

use std::ops::Deref;

use virtio_queue::DescriptorChain;
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryError, GuestMemoryMmap, Permissions};

use crate::io_class::BLOCK_SIZE;

/// A run of guest memory that a descriptor names, not checked against the map yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    address: u64,
    length: u32,
}

/// Runs of guest memory that together are one stream of bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Buffers {
    segments: Vec<Segment>,
    length: u64,
}

impl Buffers {
    fn push(&mut self, address: u64, length: u32) {
        if length > 0 {
            self.segments.push(Segment { address, length });
            self.length += u64::from(length);
        }
    }

    /// Length of the stream in bytes.
    pub(super) fn len(&self) -> u64 {
        self.length
    }

    /// Cuts the stream after `at` bytes; nothing if it is shorter, or if a cut segment leaves the address space.
    pub(super) fn split_at(self, at: u64) -> Option<(Self, Self)> {
        let (mut head, mut tail) = (Self::default(), Self::default());
        for Segment { address, length } in self.segments {
            let wanted = u32::try_from(at - head.length).unwrap_or(u32::MAX).min(length);
            head.push(address, wanted);
            if wanted < length {
                tail.push(address.checked_add(u64::from(wanted))?, length - wanted);
            }
        }
        (head.length == at).then_some((head, tail))
    }

    /// Address of the stream's last byte.
    pub(super) fn last_byte(&self) -> Option<GuestAddress> {
        let last = self.segments.last()?;
        last.address.checked_add(u64::from(last.length - 1)).map(GuestAddress)
    }

    /// Whether all of the stream lies in guest memory that may be accessed so.
    pub(super) fn is_mapped(&self, memory: &GuestMemoryMmap, access: Permissions) -> bool {
        self.segments.iter().all(|segment| {
            usize::try_from(segment.length).is_ok_and(|length| {
                segment.address.checked_add(u64::from(segment.length)).is_some()
                    && GuestMemory::check_range(memory, GuestAddress(segment.address), length, access)
            })
        })
    }

    /// The stream, to be gone through piece by piece.
    pub(super) fn pages(&self) -> Pages<'_> {
        let mut segments = self.segments.iter();
        let rest = segments.next().copied();
        Pages { segments, rest }
    }

    /// Copies the first `bytes.len()` bytes of the stream out of guest memory.
    pub(super) fn read(&self, memory: &GuestMemoryMmap, bytes: &mut [u8]) -> Result<(), GuestMemoryError> {
        let mut rest = bytes;
        for segment in &self.segments {
            let length = segment_length(segment, rest.len());
            let (now, later) = rest.split_at_mut(length);
            memory.read_slice(now, GuestAddress(segment.address))?;
            rest = later;
        }
        complete(rest.len())
    }

    /// Copies `bytes` into guest memory from the start of the stream.
    pub(super) fn write(&self, memory: &GuestMemoryMmap, bytes: &[u8]) -> Result<(), GuestMemoryError> {
        let mut rest = bytes;
        for segment in &self.segments {
            let (now, later) = rest.split_at(segment_length(segment, rest.len()));
            memory.write_slice(now, GuestAddress(segment.address))?;
            rest = later;
        }
        complete(rest.len())
    }
}

/// Goes through a stream piece by piece, and says which pieces are pages of the guest's memory.
#[derive(Debug)]
pub(super) struct Pages<'a> {
    segments: std::slice::Iter<'a, Segment>,
    /// What is left of the segment that the next piece begins in.
    rest: Option<Segment>,
}

impl Pages<'_> {
    /// Where the next `length` bytes lie, if they are one page as a whole.
    pub(super) fn next(&mut self, length: usize) -> Option<GuestAddress> {
        let page = |segment: &Segment| {
            let is_page = length == BLOCK_SIZE && segment.address.is_multiple_of(BLOCK_SIZE as u64);
            (is_page && segment_length(segment, length) == length).then_some(GuestAddress(segment.address))
        };
        let found = self.rest.as_ref().and_then(page);
        let mut left = length;
        while let Some(segment) = self.rest {
            let gone = segment_length(&segment, left);
            left -= gone;
            let gone = u32::try_from(gone).unwrap_or(segment.length);
            self.rest = if gone < segment.length {
                // The stream was checked against the map: no overflow.
                let address = segment.address.saturating_add(gone.into());
                Some(Segment { address, length: segment.length - gone })
            } else {
                self.segments.next().copied()
            };
            if left == 0 {
                break;
            }
        }
        found
    }
}

fn segment_length(segment: &Segment, wanted: usize) -> usize {
    usize::try_from(segment.length).unwrap_or(usize::MAX).min(wanted)
}

/// Says that a stream ended before a copy did.
fn complete(missing: usize) -> Result<(), GuestMemoryError> {
    match missing {
        0 => Ok(()),
        expected => Err(GuestMemoryError::PartialBuffer { expected, completed: 0 }),
    }
}

/// A whole chain, sorted by direction.
#[derive(Debug)]
pub(super) struct Streams {
    /// What the driver wrote.
    pub(super) readable: Buffers,
    /// What the device may write.
    pub(super) writable: Buffers,
    /// The driver put all readable descriptors before the writable ones, as it must.
    pub(super) ordered: bool,
}

impl Streams {
    /// Walks a chain to its end.
    ///
    /// Nothing if it has none: it loops, it leaves the descriptor table, it is longer than 4 GiB, or its table is not
    /// in guest memory.
    pub(super) fn collect<M>(chain: DescriptorChain<M>) -> Option<Self>
    where
        M: Deref,
        M::Target: GuestMemory,
    {
        let mut streams = Self { readable: Buffers::default(), writable: Buffers::default(), ordered: true };
        let mut ended = false;
        for descriptor in chain {
            // The iterator stops silently at whatever is wrong; then the last descriptor promised another one.
            ended = !descriptor.has_next();
            if descriptor.is_write_only() {
                streams.writable.push(descriptor.addr().0, descriptor.len());
            } else {
                streams.ordered &= descriptor.len() == 0 || streams.writable.len() == 0;
                streams.readable.push(descriptor.addr().0, descriptor.len());
            }
        }
        ended.then_some(streams)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffers(parts: &[(u64, u32)]) -> Buffers {
        let mut buffers = Buffers::default();
        parts.iter().for_each(|&(address, length)| buffers.push(address, length));
        buffers
    }

    #[test]
    fn splits_inside_between_and_beyond_segments() {
        let all = buffers(&[(100, 10), (0, 0), (300, 5)]);
        assert_eq!(all.len(), 15);
        let cut = |at| all.clone().split_at(at).map(|(head, tail)| (head.segments, tail.segments));
        let segments = |parts: &[(u64, u32)]| buffers(parts).segments;
        assert_eq!(cut(0), Some((segments(&[]), segments(&[(100, 10), (300, 5)]))));
        assert_eq!(cut(4), Some((segments(&[(100, 4)]), segments(&[(104, 6), (300, 5)]))));
        assert_eq!(cut(10), Some((segments(&[(100, 10)]), segments(&[(300, 5)]))));
        assert_eq!(cut(14), Some((segments(&[(100, 10), (300, 4)]), segments(&[(304, 1)]))));
        assert_eq!(cut(16), None);
        assert_eq!(all.last_byte(), Some(GuestAddress(304)));
    }

    #[test]
    fn pieces_that_are_pages_are_found() {
        let stream = buffers(&[
            (0x1000, 512),
            (0x5000, 8192),
            (0x9200, 4096),
            (0xb000, 2048),
            (0xb800, 2048),
            (0xc000, 4096),
        ]);
        let mut pages = stream.pages();
        let found: Vec<_> =
            [512, 4096, 4096, 4096, 4096, 4096, 4096].map(|length| pages.next(length)).to_vec();
        let page = |at| Some(GuestAddress(at));
        // The last but two is a page, but in two pieces.
        assert_eq!(found, [None, page(0x5000), page(0x6000), None, None, page(0xc000), None]);
    }

    #[test]
    fn wild_addresses_are_not_mapped() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
        let mapped = |address, length| buffers(&[(address, length)]).is_mapped(&memory, Permissions::Write);
        assert!(mapped(0, 0x1000) && mapped(0xfff, 1));
        assert!(
            !mapped(0xfff, 2)
                && !mapped(0x1000, 1)
                && !mapped(u64::MAX, 1)
                && !mapped(u64::MAX - 1, u32::MAX)
        );
        assert_eq!(buffers(&[(u64::MAX, 2)]).last_byte(), None);
    }

    #[test]
    fn copies_across_segments() {
        let memory: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
        let stream = buffers(&[(16, 3), (8, 2), (100, 1)]);
        stream.write(&memory, b"abcdef").unwrap();
        let mut text = [0; 6];
        stream.read(&memory, &mut text).unwrap();
        assert_eq!(&text, b"abcdef");
        let mut second = [0; 2];
        memory.read_slice(&mut second, GuestAddress(8)).unwrap();
        assert_eq!(&second, b"de");
        assert!(stream.read(&memory, &mut [0; 7]).is_err());
    }
}
