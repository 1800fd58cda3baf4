//! What the blocks of an ext4 image hold: metadata, or data of a file of some size.
//!
//! It reads inode tables and extents, and knows no more than images need that mke2fs has made with its defaults: blocks of
//! 4 KiB and extents.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use sky_devices::io_class::IoClass;
use sky_devices::policy::{Facts, Policy};

use super::trace::BLOCK;
use crate::error::{Error, Result};

const SUPERBLOCK: u64 = 1024;
const MAGIC: u64 = 0xef53;
const EXTENT_MAGIC: u64 = 0xf30a;
const EXTENTS_FLAG: u64 = 0x8_0000;
const TYPE: u64 = 0xf000;
const REGULAR: u64 = 0x8000;
/// Inodes below are the file system's own.
const FIRST_INODE: u64 = 11;
/// A longer extent is one that is not initialized.
const LONGEST_EXTENT: u64 = 32768;

/// Number of the class in the paper's table, for each block of the image; `free` for those that hold nothing.
pub(super) fn classes(image: &Path, free: u8) -> Result<Vec<u8>> {
    let file = File::open(image).map_err(Error::file("open", image))?;
    let mut walk = Walk { file, path: image, classes: Vec::new() };
    walk.all(free)?;
    Ok(walk.classes)
}

fn metadata() -> u8 {
    Policy::paper().classify(&Facts { class: IoClass::Metadata, ..Facts::default() }).get()
}

/// The class of data of a file of `size` bytes.
pub(super) fn size_class(size: u64) -> u8 {
    let facts = Facts { class: IoClass::Data, file_size: Some(size), ..Facts::default() };
    Policy::paper().classify(&facts).get()
}

struct Walk<'a> {
    file: File,
    path: &'a Path,
    classes: Vec<u8>,
}

/// A little-endian number of so many bytes; zero beyond the end.
fn number(bytes: &[u8], at: usize, length: usize) -> u64 {
    let bytes = bytes.get(at..at + length).unwrap_or_default();
    bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

impl Walk<'_> {
    fn all(&mut self, free: u8) -> Result<()> {
        let superblock = self.read(SUPERBLOCK, 1024)?;
        let at = |offset, length| number(&superblock, offset, length);
        let (blocks, per_group, inodes) = (at(4, 4), at(32, 4), at(40, 4));
        let inode_size = at(88, 2);
        // Descriptors have a size of their own only with the feature 64bit.
        let descriptor = if at(96, 4) & 0x80 == 0 { 32 } else { at(254, 2) };
        if at(56, 2) != MAGIC || at(24, 4) != 2 || at(20, 4) != 0 || per_group == 0 || inode_size < 128 {
            return Err(self.wrong("is no ext4 file system with blocks of 4 KiB"));
        }
        self.classes = vec![free; usize::try_from(blocks).map_err(|_| self.wrong("is too large"))?];
        let groups = blocks.div_ceil(per_group);
        let table = self.read(BLOCK, groups.saturating_mul(descriptor))?;
        self.set(0, 1 + (groups * descriptor).div_ceil(BLOCK) + at(206, 2), metadata());
        for group in table.chunks(usize::try_from(descriptor).unwrap_or(32)) {
            let place = |low: usize| number(group, low, 4) | number(group, low + 32, 4) << 32;
            self.set(place(0), 1, metadata());
            self.set(place(4), 1, metadata());
            self.set(place(8), (inodes * inode_size).div_ceil(BLOCK), metadata());
        }
        for (group, descriptor) in (0..).zip(table.chunks(usize::try_from(descriptor).unwrap_or(32))) {
            let place = number(descriptor, 8, 4) | number(descriptor, 40, 4) << 32;
            let inode_table = self.read(place.saturating_mul(BLOCK), inodes.saturating_mul(inode_size))?;
            let inodes_of_group = inode_table.chunks(usize::try_from(inode_size).unwrap_or(128));
            for (index, inode) in (1..).zip(inodes_of_group) {
                self.inode(group * inodes + index, inode)?;
            }
        }
        Ok(())
    }

    /// Classes of a file's blocks. A file with no link is deleted.
    fn inode(&mut self, inode: u64, bytes: &[u8]) -> Result<()> {
        let (mode, links, flags) = (number(bytes, 0, 2), number(bytes, 26, 2), number(bytes, 32, 4));
        if mode == 0 || links == 0 || flags & EXTENTS_FLAG == 0 {
            return Ok(());
        }
        let size = number(bytes, 4, 4) | number(bytes, 108, 4) << 32;
        let class =
            if mode & TYPE == REGULAR && inode >= FIRST_INODE { size_class(size) } else { metadata() };
        self.extents(bytes.get(40..100).unwrap_or_default(), class, 5)
    }

    /// A node of an extent tree, which is `depth` deep at most.
    fn extents(&mut self, node: &[u8], class: u8, depth: u32) -> Result<()> {
        if number(node, 0, 2) != EXTENT_MAGIC || depth == 0 {
            return Err(self.wrong("has a file whose extents are none"));
        }
        let leaf = number(node, 6, 2) == 0;
        let entries = usize::try_from(number(node, 2, 2)).unwrap_or(0);
        for entry in node.chunks(12).skip(1).take(entries) {
            if leaf {
                let length = number(entry, 4, 2);
                let length = if length > LONGEST_EXTENT { length - LONGEST_EXTENT } else { length };
                self.set(number(entry, 8, 4) | number(entry, 6, 2) << 32, length, class);
            } else {
                let child = number(entry, 4, 4) | number(entry, 8, 2) << 32;
                self.set(child, 1, metadata());
                let child = self.read(child.saturating_mul(BLOCK), BLOCK)?;
                self.extents(&child, class, depth - 1)?;
            }
        }
        Ok(())
    }

    fn set(&mut self, first: u64, count: u64, class: u8) {
        let end = first.saturating_add(count).min(self.classes.len() as u64);
        let [first, end] = [first, end].map(|place| usize::try_from(place).unwrap_or(usize::MAX));
        if let Some(range) = self.classes.get_mut(first..end) {
            range.fill(class);
        }
    }

    fn read(&self, offset: u64, length: u64) -> Result<Vec<u8>> {
        const MOST: u64 = 1 << 26;
        let length = usize::try_from(length.min(MOST)).unwrap_or(0);
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, offset).map_err(Error::file("read", self.path))?;
        Ok(bytes)
    }

    fn wrong(&self, problem: &str) -> Error {
        Error::Format { path: self.path.into(), problem: problem.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Disk;

    /// debugfs names the blocks of files and directories, and dumpe2fs those that are free.
    #[test]
    fn the_tools_agree() {
        let dir = tempfile::tempdir().unwrap();
        let contents = dir.path().join("contents");
        std::fs::create_dir_all(contents.join("sub")).unwrap();
        for (name, size) in [("small", 5000), ("sub/larger", 1_500_000), ("large", 12_000_000)] {
            std::fs::write(contents.join(name), vec![1; size]).unwrap();
        }
        let disk = Disk::ext4(dir.path().join("disk.img"), 64, Some(&contents)).unwrap();
        let classes = classes(disk.path(), 0).unwrap();
        assert_eq!(classes.len(), 64 * 256);
        for (file, class) in [("/small", 4), ("/sub/larger", 3), ("/large", 0), ("/sub", 5), ("/", 5)] {
            let blocks = disk.blocks(file).unwrap();
            assert!(
                !blocks.is_empty()
                    && blocks.iter().all(|&block| classes[usize::try_from(block).unwrap()] == class),
                "{file}"
            );
        }
        let named = classes.iter().filter(|&&class| class == 4 || class == 3).count();
        assert_eq!(named, 2 + 367);
        assert_eq!(classes[0], 5);
    }
}
