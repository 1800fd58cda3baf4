//! Writes initramfs images: the "newc" cpio format, which is a header in hex digits, a name and the contents.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const SYMLINK: u32 = 0o120_777;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// An image that grows entry by entry. Parent directories are made as needed; names have no leading slash.
#[derive(Debug)]
pub struct Initramfs {
    bytes: Vec<u8>,
    entries: u32,
    directories: Vec<String>,
}

impl Default for Initramfs {
    fn default() -> Initramfs {
        Initramfs::new()
    }
}

impl Initramfs {
    /// An image with a console and a null device, which init needs before it can mount anything.
    pub fn new() -> Initramfs {
        let mut image = Initramfs { bytes: Vec::new(), entries: 0, directories: Vec::new() };
        image.device("dev/console", 5, 1);
        image.device("dev/null", 1, 3);
        image
    }

    /// Adds a directory with its parents.
    pub fn directory(&mut self, name: &str) {
        if self.directories.iter().any(|known| known == name) {
            return;
        }
        self.parents(name);
        self.directories.push(name.to_string());
        self.entry(name, DIRECTORY, (0, 0), &[]);
    }

    /// Adds an executable file.
    pub fn file(&mut self, name: &str, contents: &[u8]) {
        self.parents(name);
        self.entry(name, PROGRAM, (0, 0), contents);
    }

    /// Adds a file of the host as an executable file.
    pub fn copy(&mut self, name: &str, source: &Path) -> Result<()> {
        let contents = fs::read(source).map_err(Error::file("read", source))?;
        self.file(name, &contents);
        Ok(())
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, name: &str, target: &str) {
        self.parents(name);
        self.entry(name, SYMLINK, (0, 0), target.as_bytes());
    }

    /// Adds a character device.
    pub fn device(&mut self, name: &str, major: u32, minor: u32) {
        self.parents(name);
        self.entry(name, CHARACTER_DEVICE, (major, minor), &[]);
    }

    /// Completes the image.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn parents(&mut self, name: &str) {
        if let Some((parent, _)) = name.rsplit_once('/') {
            self.directory(parent);
        }
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), contents: &[u8]) {
        self.entries += 1;
        let header = [
            self.entries, // inode
            mode,
            0, // uid
            0, // gid
            1, // links
            0, // mtime
            // An initramfs is loaded into memory whole: a file that does not fit 32 bits cannot be meant.
            u32::try_from(contents.len()).unwrap_or(u32::MAX),
            0,
            0, // the device that it lies on
            device.0,
            device.1,
            u32::try_from(name.len() + 1).unwrap_or(u32::MAX),
            0, // checksum, unused in this variant
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in header {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(contents);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_laid_out_as_the_kernel_expects() {
        let mut image = Initramfs { bytes: Vec::new(), entries: 0, directories: Vec::new() };
        image.file("init", b"hello");
        let bytes = image.finish();
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.starts_with("07070100000001000081ed0000000000000000000000010000000000000005"), "{text}");
        // 110 bytes of header, "init" and its zero make 115, padded to 116.
        assert_eq!(&bytes[110..116], b"init\0\0");
        assert_eq!(&bytes[116..124], b"hello\0\0\0");
        assert_eq!(&bytes[124..130], b"070701");
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn parents_come_first_and_once() {
        let mut image = Initramfs { bytes: Vec::new(), entries: 0, directories: Vec::new() };
        image.file("a/b/one", b"");
        image.symlink("a/b/two", "one");
        let bytes = image.finish();
        let names = [&b"\0\0a\0"[..], b"a/b\0", b"a/b/one\0", b"a/b/two\0"];
        let mut at = 0;
        for name in &names[1..] {
            let found = bytes[at..].windows(name.len()).position(|window| window == *name).unwrap();
            at += found;
        }
        assert_eq!(bytes.windows(4).filter(|window| *window == b"a/b\0").count(), 1);
    }
}
