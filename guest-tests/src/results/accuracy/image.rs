//! File systems to be accurate on: how an image is made, and what its own tools say lies where.

use std::ops::Range;
use std::path::Path;
use std::process::Command;

use crate::command;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::packages::{Tool, ensure};

/// Bytes of a block, everywhere here.
pub(super) const BLOCK: u64 = 4096;
const MEBIBYTES: u64 = 320;
/// Bytes of btrfs's nodes unless it is told otherwise.
const BTRFS_NODE: u64 = 16 * 1024;
/// Where btrfs has superblocks on a disk of this size.
const BTRFS_SUPERBLOCKS: [u64; 2] = [64 << 10, 64 << 20];

/// A file system, with the options that make a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileSystem {
    /// Data goes to its place, metadata through a journal.
    Ext4,
    /// Data goes through the journal, too.
    Ext4Journal,
    /// Without extents.
    Ext3,
    /// The default of others.
    Xfs,
    /// Never writes in place.
    Btrfs,
}

/// What the file system's tools say of its blocks, by their numbers on the disk.
#[derive(Debug, Default)]
pub(super) struct Layout {
    /// Blocks of the file system itself; as blocks of files may be among them, these are asked for first.
    pub(super) own: Vec<Range<u64>>,
    /// Blocks of its journal, if what is in files may be there, too.
    pub(super) journal: Vec<u64>,
    /// From the file system's addresses to the disk's, in bytes, where they differ.
    pub(super) chunks: Vec<Chunk>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    logical: u64,
    length: u64,
    physical: u64,
}

impl FileSystem {
    #[cfg(test)]
    pub(super) const ALL: [Self; 5] = [Self::Ext4, Self::Ext4Journal, Self::Ext3, Self::Xfs, Self::Btrfs];

    /// As keys of figures begin.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Ext4Journal => "ext4_journal",
            Self::Ext3 => "ext3",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// The options of `mount`.
    pub(super) fn mount(self) -> &'static str {
        match self {
            Self::Ext4 => "-t ext4",
            Self::Ext4Journal => "-t ext4 -o data=journal",
            Self::Ext3 => "-t ext3",
            Self::Xfs => "-t xfs",
            // Its small files lie in its own nodes otherwise.
            Self::Btrfs => "-t btrfs -o max_inline=0",
        }
    }

    /// Gets the programs that are needed below.
    pub(super) fn prepare() -> Result<()> {
        [
            Tool::Mke2fs,
            Tool::Debugfs,
            Tool::Dumpe2fs,
            Tool::MkfsXfs,
            Tool::XfsDb,
            Tool::MkfsBtrfs,
            Tool::Btrfs,
        ]
        .into_iter()
        .try_for_each(|tool| ensure(tool).map(drop))
    }

    /// An empty file system.
    pub(super) fn make(self, path: &Path) -> Result<Disk> {
        let disk = Disk::blank(path, MEBIBYTES)?;
        let mut make = match self {
            Self::Ext4 | Self::Ext4Journal | Self::Ext3 => {
                let mut make = ensure(Tool::Mke2fs)?;
                let kind = if self == Self::Ext3 { "ext3" } else { "ext4" };
                make.args(["-q", "-F", "-t", kind, "-b", "4096"]);
                make.args(["-E", "lazy_itable_init=0,lazy_journal_init=0"]);
                make
            }
            Self::Xfs => {
                let mut make = ensure(Tool::MkfsXfs)?;
                make.args(["-q", "-f", "-b", "size=4096"]);
                make
            }
            Self::Btrfs => {
                let mut make = ensure(Tool::MkfsBtrfs)?;
                make.args(["-q", "-f", "-m", "single", "-d", "single"]);
                make
            }
        };
        command::run(make.arg(path))?;
        Ok(disk)
    }

    /// Asks the tools what lies where in an image that nobody has mounted.
    pub(super) fn layout(self, disk: &Disk) -> Result<Layout> {
        let bad = |problem: &str| Error::Format { path: disk.path().to_owned(), problem: problem.into() };
        match self {
            Self::Ext4 | Self::Ext4Journal | Self::Ext3 => {
                let text = said(ensure(Tool::Dumpe2fs)?.arg(disk.path()))?;
                let own = between(ext_free(&text), (MEBIBYTES << 20) / BLOCK);
                Ok(Layout { own, journal: disk.blocks("<8>")?, chunks: vec![] })
            }
            Self::Xfs => {
                let mut xfs_db = ensure(Tool::XfsDb)?;
                xfs_db.args(["-r", "-c", "sb 0", "-c", "p agblocks", "-c", "freesp -d"]).arg(disk.path());
                let free = xfs_free(&said(&mut xfs_db)?).ok_or_else(|| bad("xfs_db says something else"))?;
                Ok(Layout { own: between(free, (MEBIBYTES << 20) / BLOCK), ..Layout::default() })
            }
            Self::Btrfs => {
                let dump = |tree: &str| {
                    said(
                        ensure(Tool::Btrfs)?
                            .args(["inspect-internal", "dump-tree", "-t", tree])
                            .arg(disk.path()),
                    )
                };
                let chunks = btrfs_chunks(&dump("chunk")?);
                let mut layout = Layout { chunks, ..Layout::default() };
                let nodes = btrfs_nodes(&dump("extent")?);
                let superblocks = BTRFS_SUPERBLOCKS.map(|at| at / BLOCK..at / BLOCK + 1);
                layout.own = nodes
                    .into_iter()
                    .filter_map(|node| layout.on_disk(node))
                    .map(|at| at / BLOCK..(at + BTRFS_NODE) / BLOCK)
                    .chain(superblocks)
                    .collect();
                Ok(layout)
            }
        }
    }
}

impl Layout {
    /// The byte of the disk at what the file system calls byte `physical`.
    pub(super) fn on_disk(&self, physical: u64) -> Option<u64> {
        if self.chunks.is_empty() {
            return Some(physical);
        }
        let chunk = self
            .chunks
            .iter()
            .find(|chunk| (chunk.logical..chunk.logical + chunk.length).contains(&physical))?;
        Some(physical - chunk.logical + chunk.physical)
    }
}

fn said(program: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&command::run(program)?).into_owned())
}

/// What is not free.
fn between(mut free: Vec<Range<u64>>, end: u64) -> Vec<Range<u64>> {
    free.sort_unstable_by_key(|range| range.start);
    let mut own = Vec::new();
    let mut at = 0;
    for range in free {
        own.push(at..range.start);
        at = range.end;
    }
    own.push(at..end);
    own.retain(|range| range.start < range.end);
    own
}

/// `  Free blocks: 12-34, 40`, once for each group; the line without spaces in front is a count.
fn ext_free(text: &str) -> Vec<Range<u64>> {
    text.lines()
        .filter_map(|line| line.strip_prefix("  Free blocks: "))
        .flat_map(|list| list.split(", "))
        .filter_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some(first.trim().parse().ok()?..last.trim().parse::<u64>().ok()? + 1)
        })
        .collect()
}

/// `agblocks = N`, and then a line with a group, a block in it and a length for each free extent. A histogram with five
/// columns follows.
fn xfs_free(text: &str) -> Option<Vec<Range<u64>>> {
    let group: u64 = text.lines().find_map(|line| line.strip_prefix("agblocks = "))?.trim().parse().ok()?;
    let extent = |line: &str| {
        let numbers: Vec<u64> =
            line.split_whitespace().map(str::parse).collect::<std::result::Result<_, _>>().ok()?;
        let &[number, block, length] = &numbers[..] else { return None };
        Some(number * group + block..number * group + block + length)
    };
    Some(text.lines().filter_map(extent).collect())
}

/// `key (FIRST_CHUNK_TREE CHUNK_ITEM LOGICAL)`, then `length N`, then `stripe 0 devid 1 offset PHYSICAL`.
fn btrfs_chunks(text: &str) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let (mut logical, mut length) = (0, 0);
    for line in text.lines().map(str::trim) {
        let after = |mark: &str| {
            let rest = line.split_once(mark)?.1;
            rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        };
        if let Some(number) = after(" CHUNK_ITEM ") {
            logical = number;
        } else if let Some(number) = line.strip_prefix("length ").and_then(|_| after("length ")) {
            length = number;
        } else if let Some(physical) = after("stripe 0 devid 1 offset ") {
            chunks.push(Chunk { logical, length, physical });
        }
    }
    chunks
}

/// `key (ADDRESS METADATA_ITEM LEVEL)`.
fn btrfs_nodes(text: &str) -> Vec<u64> {
    let key = |line: &str| {
        let (address, rest) = line.split_once("key (")?.1.split_once(' ')?;
        if rest.starts_with("METADATA_ITEM ") { address.parse().ok() } else { None }
    };
    text.lines().filter_map(key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_free_blocks_of_ext4_are_read() {
        let text = "Free blocks:              7\nGroup 0: (Blocks 0-9)\n  Free blocks: 3-5, 7\n  Free inodes: 1\n  Free blocks: \n";
        assert_eq!(ext_free(text), [3..6, 7..8]);
        assert_eq!(between(vec![7..8, 3..6], 10), [0..3, 6..7, 8..10]);
        assert_eq!(between(vec![0..4, 4..10], 10), []);
    }

    #[test]
    fn the_free_blocks_of_xfs_are_read() {
        let text = "agblocks = 100\n  agno agbno len\n   0   6   1\n   1  10  90\n from to extents blocks pct\n 1 1 16 16 0.03\n";
        assert_eq!(xfs_free(text).unwrap(), [6..7, 110..200]);
        assert!(xfs_free("nothing").is_none());
    }

    #[test]
    fn the_trees_of_btrfs_are_read() {
        let text = "\titem 1 key (FIRST_CHUNK_TREE CHUNK_ITEM 4096) itemoff 16105 itemsize 80
            length 8192 owner 2 stripe_len 65536 type DATA|single
            stripe 0 devid 1 offset 40960\n";
        let chunks = btrfs_chunks(text);
        assert_eq!(chunks, [Chunk { logical: 4096, length: 8192, physical: 40960 }]);
        let layout = Layout { chunks, ..Layout::default() };
        assert_eq!((layout.on_disk(8192), layout.on_disk(12288)), (Some(45056), None));
        let text = "item 0 key (1048576 BLOCK_GROUP_ITEM 4194304) x\nitem 1 key (1064960 METADATA_ITEM 0) x";
        assert_eq!(btrfs_nodes(text), [1_064_960]);
    }

    /// Each file system's own tools understand what was made, and say that most of it is free.
    #[test]
    fn empty_file_systems_are_mostly_free() {
        FileSystem::prepare().unwrap();
        let dir = tempfile::tempdir().unwrap();
        for kind in FileSystem::ALL {
            let disk = kind.make(&dir.path().join(kind.name())).unwrap();
            let layout = kind.layout(&disk).unwrap();
            let own: u64 = layout.own.iter().map(|range| range.end - range.start).sum();
            assert!(own > 0 && own < (MEBIBYTES << 20) / BLOCK / 4, "{kind:?}: {own}");
        }
    }
}
