//! One request, from descriptor chain to used ring: [`Request::parse`] → execute → [`Completion::finish`].
//!
//! Each step consumes the one before it, so a request cannot complete twice. Whatever the driver wrote is copied out
//! of guest memory once, before it is looked at: the guest cannot change what has been checked.

use std::ops::Deref;

use thiserror::Error;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES,
};
use virtio_queue::DescriptorChain;
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use super::chain::{Buffers, Streams};
use super::config::{MAX_RANGES, MAX_REQUEST_SIZE};
use super::spec::SERIAL_SIZE;

/// Bytes of the header, `struct virtio_blk_req` before its data (section 5.2.6).
const HEADER_SIZE: u64 = 16;
/// Bytes of one range, `struct virtio_blk_discard_write_zeroes`.
const RANGE_SIZE: u64 = 16;

#[derive(FromBytes, IntoBytes)]
#[repr(C)]
struct Header {
    kind: U32,
    reserved: U32,
    sector: U64,
}

/// One range of a discard or write-zeroes request.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Range {
    /// First sector.
    pub(super) sector: U64,
    /// Number of sectors.
    pub(super) sectors: U32,
    /// Bit 0: unmap. The others are reserved.
    pub(super) flags: U32,
}

/// What a request asks for. Buffers are mapped and at most [`MAX_REQUEST_SIZE`] long.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Read from `sector` into `data`.
    Read { sector: u64, data: Buffers },
    /// Write `data` at `sector`.
    Write { sector: u64, data: Buffers },
    /// Make writes durable.
    Flush,
    /// Tell the serial number.
    GetId { data: Buffers },
    /// Give ranges back.
    Discard(Vec<Range>),
    /// Zero ranges.
    WriteZeroes(Vec<Range>),
    /// Something that was never offered.
    Unknown(u32),
}

/// The status byte of a finished request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Status {
    Ok = 0,
    IoError = 1,
    Unsupported = 2,
}

/// Why a chain is no request.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(super) enum Reason {
    #[error("the descriptor chain has no end")]
    Endless,
    #[error("there is no writable byte for the status")]
    NoStatus,
    #[error("the status byte is not in guest memory")]
    WildStatus,
    #[error("a readable descriptor follows a writable one")]
    Unordered,
    #[error("a buffer is not in guest memory")]
    WildBuffer,
    #[error("the header is shorter than 16 bytes")]
    ShortHeader,
    #[error("the request is longer than 16 MiB")]
    TooLong,
    #[error("the request has data that its type has no use for, or lacks data that it needs")]
    WrongData,
}

/// A chain that is no request, and how to give it back.
#[derive(Debug, Error)]
#[error("{reason}")]
pub(super) struct ParseError {
    /// What is wrong.
    #[source]
    pub(super) reason: Reason,
    place: Place,
}

impl ParseError {
    /// Fails the request, as far as there is a status byte to say so.
    pub(super) fn fail(self) -> Completion {
        Completion { place: self.place, status: Status::IoError, written: 0 }
    }
}

/// Where a chain came from and where its status goes.
#[derive(Clone, Copy, Debug)]
struct Place {
    head: u16,
    /// Missing where the chain has no status byte that could be written.
    status: Option<GuestAddress>,
    /// Writable bytes before the status byte.
    room: u64,
}

/// A well-formed request that nobody has executed.
#[derive(Debug)]
#[must_use = "the driver waits for every request"]
pub(super) struct Request {
    kind: Kind,
    place: Place,
}

impl Request {
    /// Understands a chain.
    ///
    /// # Errors
    /// It is malformed. The error still has to be given back to the driver: [`ParseError::fail`].
    pub(super) fn parse<M>(chain: DescriptorChain<M>, memory: &GuestMemoryMmap) -> Result<Self, ParseError>
    where
        M: Deref,
        M::Target: GuestMemory,
    {
        let mut place = Place { head: chain.head_index(), status: None, room: 0 };
        let error = |place, reason| ParseError { reason, place };
        let streams = Streams::collect(chain).ok_or(error(place, Reason::Endless))?;
        let room = streams.writable.len().checked_sub(1).ok_or(error(place, Reason::NoStatus))?;
        let status = streams
            .writable
            .last_byte()
            .filter(|&address| GuestMemory::check_range(memory, address, 1, Permissions::Write))
            .ok_or(error(place, Reason::WildStatus))?;
        place = Place { status: Some(status), room, ..place };
        match Kind::parse(streams, room, memory) {
            Ok(kind) => Ok(Self { kind, place }),
            Err(reason) => Err(error(place, reason)),
        }
    }

    /// What it asks for.
    pub(super) fn kind(&self) -> &Kind {
        &self.kind
    }

    /// Ends the request. `written` is the number of bytes at the start of its writable buffers that hold an answer.
    pub(super) fn complete(self, status: Status, written: u64) -> Completion {
        Completion { place: self.place, status, written }
    }
}

impl Kind {
    /// `room` is the length of the writable stream without its last byte, which is the status.
    fn parse(streams: Streams, room: u64, memory: &GuestMemoryMmap) -> Result<Self, Reason> {
        let Streams { readable, writable, ordered } = streams;
        if !ordered {
            return Err(Reason::Unordered);
        }
        if !readable.is_mapped(memory, Permissions::Read) || !writable.is_mapped(memory, Permissions::Write) {
            return Err(Reason::WildBuffer);
        }
        let (header, input) = readable.split_at(HEADER_SIZE).ok_or(Reason::ShortHeader)?;
        let (output, _status) = writable.split_at(room).ok_or(Reason::NoStatus)?;
        if input.len() > MAX_REQUEST_SIZE || output.len() > MAX_REQUEST_SIZE {
            return Err(Reason::TooLong);
        }
        let header: Header = read_object(&header, memory)?;
        let sector = header.sector.get();
        match (header.kind.get(), input.len(), output.len()) {
            (VIRTIO_BLK_T_IN, 0, _) => Ok(Self::Read { sector, data: output }),
            (VIRTIO_BLK_T_OUT, _, 0) => Ok(Self::Write { sector, data: input }),
            (VIRTIO_BLK_T_FLUSH, 0, 0) => Ok(Self::Flush),
            (VIRTIO_BLK_T_GET_ID, 0, length) if length >= SERIAL_SIZE as u64 => {
                Ok(Self::GetId { data: output })
            }
            (VIRTIO_BLK_T_DISCARD, _, 0) => Ok(Self::Discard(read_ranges(input, memory)?)),
            (VIRTIO_BLK_T_WRITE_ZEROES, _, 0) => Ok(Self::WriteZeroes(read_ranges(input, memory)?)),
            (
                VIRTIO_BLK_T_IN
                | VIRTIO_BLK_T_OUT
                | VIRTIO_BLK_T_FLUSH
                | VIRTIO_BLK_T_GET_ID
                | VIRTIO_BLK_T_DISCARD
                | VIRTIO_BLK_T_WRITE_ZEROES,
                _,
                _,
            ) => Err(Reason::WrongData),
            (unknown, _, _) => Ok(Self::Unknown(unknown)),
        }
    }
}

fn read_object<T: FromBytes + IntoBytes>(from: &Buffers, memory: &GuestMemoryMmap) -> Result<T, Reason> {
    let mut object = T::new_zeroed();
    // The buffers were mapped a moment ago; failing here takes a change of the memory map.
    from.read(memory, object.as_mut_bytes()).map_err(|_| Reason::WildBuffer)?;
    Ok(object)
}

fn read_ranges(mut input: Buffers, memory: &GuestMemoryMmap) -> Result<Vec<Range>, Reason> {
    let count = input.len() / RANGE_SIZE;
    if count == 0 || count > u64::from(MAX_RANGES) || !input.len().is_multiple_of(RANGE_SIZE) {
        return Err(Reason::WrongData);
    }
    let mut ranges = Vec::new();
    for _ in 0..count {
        let (range, rest) = input.split_at(RANGE_SIZE).ok_or(Reason::WrongData)?;
        ranges.push(read_object(&range, memory)?);
        input = rest;
    }
    Ok(ranges)
}

/// An executed request whose status the driver cannot see yet.
#[derive(Debug)]
#[must_use = "the driver waits for every request"]
pub(super) struct Completion {
    place: Place,
    status: Status,
    written: u64,
}

/// An entry for the used ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the driver waits for every request"]
pub(super) struct Used {
    /// Index of the chain's first descriptor.
    pub(super) head: u16,
    /// Bytes that are certain to be written from the start of the writable buffers without a gap (section 2.7.8.2).
    /// A failed read leaves a gap before its status byte.
    pub(super) length: u32,
}

impl Completion {
    /// Writes the status byte. What remains is to put the entry into the used ring.
    pub(super) fn finish(self, memory: &GuestMemoryMmap) -> Used {
        let Self { place: Place { head, status: address, room }, status, written } = self;
        let told = address.is_some_and(|address| memory.write_obj(status as u8, address).is_ok());
        let length = if told && written == room { written + 1 } else { written };
        Used { head, length: u32::try_from(length).unwrap_or(0) }
    }
}
