//! Disk images with an ext4 file system: made without root, and read without mounting them.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command;
use crate::error::{Error, Result, last_lines};
use crate::packages::{Tool, ensure};

/// What `st_blocks` counts.
const STAT_BLOCK: u64 = 512;

/// An image file.
#[derive(Clone, Debug)]
pub struct Disk {
    path: PathBuf,
}

impl Disk {
    /// An empty image without a file system; nothing of it is allocated.
    pub fn blank(path: impl Into<PathBuf>, mebibytes: u64) -> Result<Disk> {
        let path = path.into();
        let file = File::create(&path).map_err(Error::file("create", &path))?;
        file.set_len(mebibytes << 20).map_err(Error::file("extend", &path))?;
        Ok(Disk { path })
    }

    /// An ext4 file system with 4 KiB blocks, holding a copy of `contents` if given.
    pub fn ext4(path: impl Into<PathBuf>, mebibytes: u64, contents: Option<&Path>) -> Result<Disk> {
        let disk = Disk::blank(path, mebibytes)?;
        let mut mke2fs = ensure(Tool::Mke2fs)?;
        // Nothing is left for later, when the guest's own writes are to be looked at.
        mke2fs.args(["-q", "-F", "-t", "ext4", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0"]);
        if let Some(contents) = contents {
            mke2fs.arg("-d").arg(contents);
        }
        command::run(mke2fs.arg(&disk.path))?;
        Ok(disk)
    }

    /// An image that is there already.
    pub fn existing(path: impl Into<PathBuf>) -> Disk {
        Disk { path: path.into() }
    }

    /// Where the image is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file's contents, read from the image by its path in the file system.
    pub fn cat(&self, file: &str) -> Result<Vec<u8>> {
        self.debugfs(&format!("cat {}", quoted(file)))
    }

    /// Copies a directory with all that is in it out of the image, below directory `to`.
    pub fn extract(&self, directory: &str, to: &Path) -> Result<()> {
        let to = to.display().to_string();
        self.debugfs(&format!("rdump {} {}", quoted(directory), quoted(&to))).map(drop)
    }

    /// What debugfs tells of a file's inode.
    pub fn stat(&self, file: &str) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.debugfs(&format!("stat {}", quoted(file)))?).into_owned())
    }

    /// The numbers of a file's blocks, in the order of the file.
    pub fn blocks(&self, file: &str) -> Result<Vec<u64>> {
        let list = self.debugfs(&format!("blocks {}", quoted(file)))?;
        Ok(String::from_utf8_lossy(&list).split_whitespace().filter_map(|word| word.parse().ok()).collect())
    }

    /// Fails unless the file system is consistent. What the journal holds is not replayed: a guest that was switched
    /// off properly has left nothing there.
    pub fn check(&self) -> Result<()> {
        command::run(ensure(Tool::E2fsck)?.args(["-f", "-n"]).arg(&self.path)).map(drop)
    }

    /// How many bytes the host has allocated for the image.
    pub fn allocated(&self) -> Result<u64> {
        let meta = fs::metadata(&self.path).map_err(Error::file("look at", &self.path))?;
        Ok(meta.blocks() * STAT_BLOCK)
    }

    /// debugfs reports failure only in words.
    fn debugfs(&self, request: &str) -> Result<Vec<u8>> {
        let mut debugfs: Command = ensure(Tool::Debugfs)?;
        let output = debugfs
            .args(["-R", request])
            .arg(&self.path)
            .output()
            .map_err(|source| Error::Spawn { program: "debugfs".into(), source })?;
        let said: Vec<&[u8]> = output
            .stderr
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.starts_with(b"debugfs "))
            .collect();
        let said = last_lines(&said.join(&b'\n'), 5);
        if output.status.success() && said.is_empty() {
            Ok(output.stdout)
        } else {
            Err(Error::Format { path: self.path.clone(), problem: format!("debugfs {request}: {said}") })
        }
    }
}

fn quoted(file: &str) -> String {
    format!("\"{}\"", file.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out() {
        let dir = tempfile::tempdir().unwrap();
        let contents = dir.path().join("contents");
        fs::create_dir_all(contents.join("sub")).unwrap();
        fs::write(contents.join("sub/a file"), b"words\n".repeat(2000)).unwrap();
        let disk = Disk::ext4(dir.path().join("disk.img"), 32, Some(&contents)).unwrap();
        assert_eq!(disk.cat("/sub/a file").unwrap(), b"words\n".repeat(2000));
        assert!(disk.stat("/sub/a file").unwrap().contains("Size: 12000"));
        assert_eq!(disk.blocks("/sub/a file").unwrap().len(), 3);
        disk.extract("/sub", dir.path()).unwrap();
        assert_eq!(fs::read(dir.path().join("sub/a file")).unwrap(), b"words\n".repeat(2000));
        assert!(disk.cat("/nothing").unwrap_err().to_string().contains("File not found"));
        disk.check().unwrap();
    }

    #[test]
    fn damage_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::ext4(dir.path().join("disk.img"), 32, None).unwrap();
        // The group descriptors follow the superblock.
        let file = File::options().write(true).open(disk.path()).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[0xff; 64], 4096).unwrap();
        assert!(disk.check().is_err());
    }

    #[test]
    fn a_blank_image_takes_no_space() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::blank(dir.path().join("disk.img"), 64).unwrap();
        assert_eq!(fs::metadata(disk.path()).unwrap().len(), 64 << 20);
        assert_eq!(disk.allocated().unwrap(), 0);
    }
}
