//! The fields of a qcow2 header that imago takes as they come.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use zerocopy::byteorder::big_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::block::{Error, ErrorKind, Operation, Result};

const MAGIC: u32 = u32::from_be_bytes(*b"QFI\xfb");
/// Bytes of an entry of the tables.
const ENTRY_BITS: u32 = 3;

/// The header of version 2, with which version 3 begins, too.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct OnDisk {
    magic: U32,
    version: U32,
    backing_offset: U64,
    backing_length: U32,
    cluster_bits: U32,
    size: U64,
    encryption: U32,
    l1_entries: U32,
}

/// What was found good.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    /// Bytes of the disk.
    pub(super) size: u64,
    /// Logarithm of the cluster size, 9 to 21.
    pub(super) cluster_bits: u32,
}

impl Header {
    /// Reads the header of an image.
    ///
    /// # Errors
    /// See [`Qcow2Source::open`](super::Qcow2Source::open).
    pub(super) fn read(file: &File) -> Result<Self> {
        let refuse = |kind, why: &str| Err(Error::new(kind, Operation::Open).because(why));
        let mut header = OnDisk::new_zeroed();
        match file.read_exact_at(header.as_mut_bytes(), 0) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return refuse(ErrorKind::NotThisFormat, "the file is too short for a qcow2 image");
            }
            Err(error) => return Err(Error::from_io(Operation::Open, error)),
        }
        if header.magic != MAGIC {
            return refuse(ErrorKind::NotThisFormat, "the file does not begin as a qcow2 image does");
        }
        if header.encryption != 0 {
            return refuse(ErrorKind::Unsupported, "the image is encrypted");
        }
        let (size, cluster_bits) = (header.size.get(), header.cluster_bits.get());
        if !(9..=21).contains(&cluster_bits) {
            return refuse(ErrorKind::Corrupt, "the cluster size is none that qcow2 has");
        }
        // Without this a header of a few bytes could have a reader go through an exabyte of nothing.
        let covered = u128::from(header.l1_entries.get()) << (2 * cluster_bits - ENTRY_BITS);
        if size == 0 || u128::from(size) > covered || i64::try_from(size).is_err() {
            return refuse(ErrorKind::Corrupt, "the first-level table does not fit the size of the disk");
        }
        Ok(Self { size, cluster_bits })
    }
}
