//! Loading a kernel of either format.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use linux_loader::loader::bootparam::setup_header;
use vm_memory::GuestMemoryMmap;

use super::{BootError, Result, bzimage, elf};

/// Bytes at the start of the file that tell the format and hold both kinds of header.
pub(super) const HEADER_SIZE: usize = 0x270;

/// A kernel in guest memory.
#[derive(Debug)]
pub(super) struct Kernel {
    /// Where it is entered in 64-bit mode.
    pub(super) entry: u64,
    /// First address that it leaves alone while it unpacks itself.
    pub(super) end: u64,
    /// Setup header for the boot parameters.
    pub(super) header: setup_header,
    /// Last address that the initial RAM disk may occupy.
    pub(super) initrd_max: u64,
    /// Longest command line.
    pub(super) cmdline_max: u64,
}

/// A kernel file, of which only the start has been read.
pub(super) struct Image<'a> {
    pub(super) path: &'a Path,
    pub(super) file: File,
    pub(super) length: u64,
    pub(super) start: [u8; HEADER_SIZE],
}

/// Loads the kernel at `path`; low memory ends at `low_end`.
pub(super) fn load(memory: &GuestMemoryMmap, path: &Path, low_end: u64) -> Result<Kernel> {
    let mut image = open(path)?;
    if image.start.starts_with(b"\x7fELF") {
        elf::load(memory, &mut image, low_end)
    } else if image.bytes(0x202) == *b"HdrS" {
        bzimage::load(memory, &mut image, low_end)
    } else {
        Err(BootError::NotAKernel { path: path.to_owned() })
    }
}

fn open(path: &Path) -> Result<Image<'_>> {
    let read = BootError::read("kernel", path);
    let (file, length) = super::open(path).map_err(&read)?;
    let mut start = [0; HEADER_SIZE];
    // A file shorter than this reads as if it went on with zeros: no kernel, or one that its own header calls truncated.
    (&file).take(HEADER_SIZE as u64).read(&mut start).map_err(&read)?;
    Ok(Image { path, file, length, start })
}

impl Image<'_> {
    /// `N` bytes of the header; the offset is one of ours, not one from the file.
    pub(super) fn bytes<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.start[offset..offset + N]);
        bytes
    }

    pub(super) fn byte(&self, offset: usize) -> u8 {
        self.start[offset]
    }

    pub(super) fn u16(&self, offset: usize) -> u16 {
        u16::from_le_bytes(self.bytes(offset))
    }

    pub(super) fn u32(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.bytes(offset))
    }

    pub(super) fn u64(&self, offset: usize) -> u64 {
        u64::from_le_bytes(self.bytes(offset))
    }

    /// Bytes from anywhere in the file.
    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_exact_at(buffer, offset).map_err(BootError::read("kernel", self.path))
    }

    /// Refuses a file that ends before `need`.
    pub(super) fn check_length(&self, need: Option<u64>) -> Result<()> {
        match need {
            Some(need) if need <= self.length => Ok(()),
            need => Err(BootError::Truncated {
                path: self.path.to_owned(),
                need: need.unwrap_or(u64::MAX),
                have: self.length,
            }),
        }
    }
}
