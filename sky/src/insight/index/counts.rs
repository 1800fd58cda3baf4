//! What the index tells of files and blocks.

use serde::Serialize;

use crate::insight::UniqueCounts;

/// What was seen of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FileSummary {
    /// Path in the guest.
    pub path: String,
    /// Size in bytes when it was last read or written.
    pub size: u64,
    /// Bytes that the guest's writes reported as written.
    pub bytes: u64,
    /// Writes.
    pub writes: u64,
    /// Whole 4 KiB blocks that were fingerprinted.
    pub blocks: u64,
    /// Written disk blocks that were recognised as this file's.
    pub matched: u64,
    /// Of these, known to be copies of other blocks.
    pub copied: u64,
    /// Of these, encrypted by what the program or the file is called.
    pub encrypted: u64,
    /// Of these, with a hint.
    pub hinted: u64,
    /// Reads.
    pub reads: u64,
    /// Disk blocks that were read and turned out to be this file's.
    pub named: u64,
}

impl FileSummary {
    /// Adds what was seen of another file.
    pub(super) fn add(&mut self, other: &Self) {
        let Self {
            path: _,
            size: _,
            bytes,
            writes,
            blocks,
            matched,
            copied,
            encrypted,
            hinted,
            reads,
            named,
        } = self;
        *bytes = bytes.saturating_add(other.bytes);
        for (sum, more) in [
            (writes, other.writes),
            (blocks, other.blocks),
            (matched, other.matched),
            (copied, other.copied),
            (encrypted, other.encrypted),
            (hinted, other.hinted),
            (reads, other.reads),
            (named, other.named),
        ] {
            *sum += more;
        }
    }
}

/// How many blocks a class of the policy got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClassCount {
    /// The class.
    pub id: u8,
    /// Its rule, or `unclassified`.
    pub name: String,
    /// Blocks, or pieces of blocks, that the guest wrote to its disks.
    pub blocks: u64,
}

/// What became of the blocks that the guest wrote to its disks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BlockCounts {
    /// Recognised as file data.
    pub data: u64,
    /// Of these, known to be copies of other blocks.
    pub copied: u64,
    /// Of these, with signals that they are like no other block.
    pub unique: UniqueCounts,
    /// Of these, by the file that their page belongs to, since their content was not expected: written through a mapping, or
    /// while a process was about to write something else there.
    pub by_page: u64,
    /// Not recognised, and metadata therefore: [`Assume::Complete`](super::Assume::Complete).
    pub metadata: u64,
    /// Not recognised.
    pub unknown: u64,
    /// Written by a process, and replaced before they reached the disk.
    pub superseded: u64,
    /// Written by a process, and not seen at the disk so far.
    pub pending: u64,
    /// Forgotten because too many were pending.
    pub forgotten: u64,
    /// Blocks of disks that are known now.
    pub known: u64,
    /// Blocks of disks that were forgotten because too many were known.
    pub forgotten_known: u64,
    /// Blocks whose writer was forgotten, because too many different ones were about.
    pub forgotten_origins: u64,
    /// Read from a disk, not known there, and recognised: by their page, or in what a process then read from a file.
    pub named: u64,
}
