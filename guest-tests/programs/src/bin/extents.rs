//! Guest program: says where on the disk the files below a directory lie, as their file system tells it (FIEMAP).
//!
//! `extents DIR` prints, for each regular file, `F SIZE PATH` with the path below DIR, and for each of its extents
//! `E LOGICAL PHYSICAL LENGTH FLAGS` in bytes, the flags in hexadecimal. Paths with a line break are left out.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

/// `FS_IOC_FIEMAP` of include/uapi/linux/fs.h.
const FIEMAP: libc::c_ulong = 0xc020_660b;
const FLAG_SYNC: u32 = 1;
const EXTENT_LAST: u32 = 1;
const EXTENTS: usize = 64;

/// `struct fiemap` of include/uapi/linux/fiemap.h, with room for extents.
#[repr(C)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    extents: [Extent; EXTENTS],
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved: [u64; 2],
    flags: u32,
    more: [u32; 3],
}

fn main() -> io::Result<()> {
    let dir = std::env::args().nth(1).ok_or_else(|| io::Error::other("usage: extents DIR"))?;
    let mut out = BufWriter::new(io::stdout().lock());
    walk(Path::new(&dir), Path::new(&dir), &mut out)?;
    // Who reads this from a disk knows that it is complete.
    writeln!(out, "END")?;
    out.flush()
}

fn walk(root: &Path, dir: &Path, out: &mut impl Write) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let (kind, path) = (entry.file_type()?, entry.path());
        if kind.is_dir() {
            walk(root, &path, out)?;
        } else if kind.is_file() {
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            if !name.contains('\n') {
                file(&path, &name, out)?;
            }
        }
    }
    Ok(())
}

fn file(path: &Path, name: &str, out: &mut impl Write) -> io::Result<()> {
    let file = File::open(path)?;
    writeln!(out, "F {} {name}", file.metadata()?.len())?;
    let mut start = 0;
    loop {
        let count = u32::try_from(EXTENTS).map_err(io::Error::other)?;
        let mut map = Fiemap {
            start,
            length: u64::MAX - start,
            flags: FLAG_SYNC,
            mapped: 0,
            count,
            reserved: 0,
            extents: [Extent::default(); EXTENTS],
        };
        // SAFETY: `map` is a `struct fiemap` with room for as many extents as its `count` says, and outlives the call.
        if unsafe { libc::ioctl(file.as_raw_fd(), FIEMAP, &raw mut map) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let mapped = usize::try_from(map.mapped).map_err(io::Error::other)?.min(EXTENTS);
        for extent in &map.extents[..mapped] {
            let Extent { logical, physical, length, flags, .. } = extent;
            writeln!(out, "E {logical} {physical} {length} {flags:x}")?;
        }
        match map.extents[..mapped].last() {
            Some(last) if last.flags & EXTENT_LAST == 0 => start = last.logical + last.length,
            _ => return Ok(()),
        }
    }
}
