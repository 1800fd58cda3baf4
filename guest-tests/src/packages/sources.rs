//! The sources of a kernel: many small files to search and to read.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::apt::Apt;
use super::{KERNEL_RELEASE, Tool, ensure};
use crate::error::{Error, Result};
use crate::{cache, command, paths};

const PACKAGE: &str = "linux-source-6.1";

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
