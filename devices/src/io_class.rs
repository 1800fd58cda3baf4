//! The words that all of Sky shares about what a disk block means: its class, where it came from, and who knows.
//!
//! Nothing here does I/O. A [`Classifier`] is asked once per 4 KiB block of a request, the answer travels down the
//! block stack as an [`IoTag`], and each layer may act on it or ignore it.

use std::fmt;
use std::sync::Arc;

use vm_memory::GuestAddress;

use crate::policy::ClassId;

/// Bytes of one classified block: file systems, page caches and fingerprints all work in 4 KiB.
pub const BLOCK_SIZE: usize = 4096;

/// What a disk block holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum IoClass {
    /// Nobody who was asked knows. The data of a process that is not monitored is unknown, not metadata.
    #[default]
    Unknown,
    /// Structures of the guest's file system.
    Metadata,
    /// Content of a file.
    Data,
}

impl fmt::Display for IoClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Metadata => "metadata",
            Self::Data => "data",
        })
    }
}

/// The place in a guest's file that a block's content came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Path of the file as the guest process named it.
    pub path: Arc<str>,
    /// Size of the file in bytes when the block was written.
    pub file_size: u64,
    /// Offset of the block in the file, in bytes, a multiple of [`BLOCK_SIZE`].
    pub offset: u64,
}

/// Signals that a block is like no other. Each may be wrong; a deduplicating layer chooses which to follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unique {
    /// A program that encrypts wrote it.
    pub program: bool,
    /// Its file has the extension of encrypted ones.
    pub extension: bool,
    /// It looks encrypted or compressed.
    pub entropy: bool,
}

/// What is known of one 4 KiB block of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IoTag {
    /// What the block holds.
    pub class: IoClass,
    /// Where its content came from, when that is known.
    pub source: Option<Source>,
    /// The class that a [policy](crate::policy) gives it; the unclassified rest where nobody has asked one.
    pub class_id: ClassId,
    /// The place in a file that it is a copy of, when that is known.
    pub copied_from: Option<Source>,
    /// Whether it is like no other.
    pub unique: Unique,
}

/// Somebody who knows what disk blocks mean.
///
/// Methods are called on the device's request threads, one call per 4 KiB block, before the request is passed on.
/// They must be quick and must not block on the guest.
pub trait Classifier: Send + Sync {
    /// Class of a block that the guest writes at byte `offset` of the disk with content `block`.
    ///
    /// `block` is a whole block of [`BLOCK_SIZE`] bytes at an `offset` that is a multiple of [`BLOCK_SIZE`], except
    /// for the pieces of a request that begins or ends inside a block.
    ///
    /// `page` is the page of the guest's memory that the block is in, if it is one page as a whole: the guest knows what it
    /// keeps there.
    fn classify_write(&self, offset: u64, block: &[u8], page: Option<GuestAddress>) -> IoTag;

    /// Class of the block at byte `offset` of the disk, which the guest reads; into `page`, as above.
    fn classify_read(&self, offset: u64, page: Option<GuestAddress>) -> IoTag;

    /// The disk gave `block`, a whole block, at byte `offset`, and the guest is about to see it, in `page`. What becomes of
    /// it there may tell afterwards what it is.
    fn was_read(&self, offset: u64, block: &[u8], page: Option<GuestAddress>) {
        let _ = (offset, block, page);
    }

    /// The guest no longer needs `length` bytes from byte `offset` of the disk.
    fn discarded(&self, offset: u64, length: u64);
}
