//! Which block of a disk belongs to which file: what the guest's file system said of its files, and its tools of the rest.

use std::collections::{HashMap, HashSet};

use super::image::{BLOCK, Layout};

/// `FIEMAP_EXTENT_UNKNOWN`, `_DELALLOC`, `_ENCODED`, `_DATA_INLINE` and `_UNWRITTEN`: nothing of the file is there.
const NOTHING_THERE: u32 = 0x2 | 0x4 | 0x8 | 0x200 | 0x800;

/// A file, in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    /// Its path below the mounted directory.
    pub(super) path: String,
    /// Its size in bytes.
    pub(super) size: u64,
}

/// Who a block belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Owner<'a> {
    /// Files, at these byte offsets; several if they are links to one, or share the block.
    Files(Vec<(&'a File, u64)>),
    /// The file system itself.
    FileSystem,
    /// Its journal, where copies of data may lie.
    Journal,
    /// Nobody: it was given back.
    Nobody,
}

/// The truth of one disk.
#[derive(Debug, Default)]
pub(super) struct Truth {
    files: Vec<File>,
    /// Places in files, by the number of the block on the disk.
    blocks: HashMap<u64, Vec<(usize, u64)>>,
    own: Vec<std::ops::Range<u64>>,
    journal: HashSet<u64>,
}

impl Truth {
    /// From what the program `extents` printed in the guest. `None` if that is not what it prints, or not all of it.
    pub(super) fn new(extents: &str, layout: &Layout) -> Option<Truth> {
        let mut truth = Truth {
            own: layout.own.clone(),
            journal: layout.journal.iter().copied().collect(),
            ..Truth::default()
        };
        for line in extents.lines() {
            if let Some(file) = line.strip_prefix("F ") {
                let (size, path) = file.split_once(' ')?;
                truth.files.push(File { path: path.to_owned(), size: size.parse().ok()? });
            } else if let Some(extent) = line.strip_prefix("E ") {
                truth.extent(extent, layout)?;
            } else {
                return (line == "END").then_some(truth);
            }
        }
        None
    }

    fn extent(&mut self, extent: &str, layout: &Layout) -> Option<()> {
        let [logical, physical, length, flags] = extent.split(' ').collect::<Vec<_>>()[..] else {
            return None;
        };
        let (logical, physical): (u64, u64) = (logical.parse().ok()?, physical.parse().ok()?);
        let length: u64 = length.parse().ok()?;
        let file = self.files.len().checked_sub(1)?;
        if u32::from_str_radix(flags, 16).ok()? & NOTHING_THERE != 0 {
            return Some(());
        }
        // Blocks beyond the end hold nothing of the file.
        let end = self.files[file].size.saturating_sub(logical).min(length);
        for at in (0..end).step_by(usize::try_from(BLOCK).ok()?) {
            let block = layout.on_disk(physical + at)? / BLOCK;
            self.blocks.entry(block).or_default().push((file, logical + at));
        }
        Some(())
    }

    pub(super) fn owner(&self, block: u64) -> Owner<'_> {
        if let Some(places) = self.blocks.get(&block) {
            return Owner::Files(places.iter().map(|&(file, at)| (&self.files[file], at)).collect());
        }
        if self.journal.contains(&block) {
            Owner::Journal
        } else if self.own.iter().any(|range| range.contains(&block)) {
            Owner::FileSystem
        } else {
            Owner::Nobody
        }
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.files.iter().any(|file| file.path == path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_owners() {
        let layout = Layout { own: vec![0..2, 2..10], journal: vec![7], ..Layout::default() };
        let text = "F 5000 a b\nE 0 81920 8192 1000\nE 8192 409600 4096 801\nF 5000 link\nE 0 81920 8192 1\nEND\nrest";
        let truth = Truth::new(text, &layout).unwrap();
        let file = |path: &str| File { path: path.into(), size: 5000 };
        assert_eq!(truth.owner(21), Owner::Files(vec![(&file("a b"), 4096), (&file("link"), 4096)]));
        assert_eq!((truth.owner(7), truth.owner(8)), (Owner::Journal, Owner::FileSystem));
        // What is only reserved, and what is beyond the end.
        assert_eq!((truth.owner(100), truth.owner(22)), (Owner::Nobody, Owner::Nobody));
        assert!(truth.has("link") && !truth.has("b"));
        assert!(Truth::new("F 1 a\n", &layout).is_none(), "without its end");
        assert!(Truth::new("E 0 1 2 3\nEND", &layout).is_none(), "an extent of no file");
    }
}
