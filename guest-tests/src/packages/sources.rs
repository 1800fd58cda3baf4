//! The sources of a kernel: many small files to search and to read.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::apt::Apt;
use super::{KERNEL_RELEASE, Tool, ensure};
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::{cache, command, paths};

const PACKAGE: &str = "linux-source-6.1";
/// Directories of headers.
const HEADERS: [&str; 2] = ["uapi", "net"];

/// The archive of Debian's sources of Linux 6.1, downloaded the first time: a tar that xz has compressed.
///
/// # Errors
/// When it cannot be fetched.
pub fn linux_sources_archive() -> Result<PathBuf> {
    let dir = cache::once(&paths::lab().join("sources"), |partial| {
        crate::progress::note("downloading the sources of a kernel, 140 MB");
        Apt::open(KERNEL_RELEASE)?.unpack(PACKAGE, partial)
    })?;
    Ok(dir.join("usr/src").join(format!("{PACKAGE}.tar.xz")))
}

/// An ext4 image that holds `linux.tar`, with the headers of Linux 6.1: 1,300 files of 9 MB in all. Made the first
/// time.
///
/// # Errors
/// When the sources cannot be fetched or unpacked.
pub fn linux_headers() -> Result<PathBuf> {
    cache::once(&paths::lab().join("linux-headers-uapi-net.img"), |partial| {
        let archive = linux_sources_archive()?;
        ensure(Tool::Xz)?;
        crate::progress::note("taking the headers out of the sources");
        let parent = partial.parent().unwrap_or(partial);
        let dir = tempfile::tempdir_in(parent).map_err(Error::file("create a directory in", parent))?;
        let [tree, packed] = ["tree", "packed"].map(|name| dir.path().join(name));
        for path in [&tree, &packed] {
            fs::create_dir(path).map_err(Error::file("create", path))?;
        }
        let headers = HEADERS.map(|name| format!("{PACKAGE}/include/{name}"));
        command::run(Command::new("tar").arg("-xJf").arg(archive).arg("-C").arg(&tree).args(&headers))?;
        command::run(
            Command::new("tar").arg("-cf").arg(packed.join("linux.tar")).arg("-C").arg(&tree).arg(PACKAGE),
        )?;
        Disk::ext4(partial, 64, Some(&packed)).map(drop)
    })
}

/// Unpacks the sources of Linux 6.1 into a new directory.
///
/// # Errors
/// When they cannot be fetched or unpacked.
pub fn linux_sources(into: &Path) -> Result<()> {
    let archive = linux_sources_archive()?;
    // tar calls it.
    ensure(Tool::Xz)?;
    fs::create_dir_all(into).map_err(Error::file("create", into))?;
    crate::progress::note("unpacking them");
    command::run(Command::new("tar").arg("-xJf").arg(archive).arg("-C").arg(into)).map(drop)
}
