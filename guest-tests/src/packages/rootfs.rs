//! A small Debian system for guests: ordinary programs, for tests that need more than busybox.
//!
//! It is made of packages without installing them: no scripts run, so there are no users but root, and no more links
//! than the packages hold. A guest mounts the image read-only and changes its root into it.

use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

use super::KERNEL_RELEASE;
use super::apt::Apt;
use crate::cache;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::paths;

/// What is wanted; what it needs comes along.
const PACKAGES: [&str; 14] = [
    "strace",
    "coreutils",
    "tar",
    "gzip",
    "sqlite3",
    "gpg",
    "gpg-agent",
    "git",
    "postmark",
    "fio",
    "e2fsprogs",
    "dash",
    "busybox-static",
    "procps",
];
/// What comes along but is only needed for installing, or for parts that are removed below.
const UNNEEDED: [&str; 44] = [
    "adduser",
    "debconf",
    "debianutils",
    "dmsetup",
    "dpkg",
    "gcc-12-base",
    "git-man",
    "init-system-helpers",
    "libaudit-common",
    "libaudit1",
    "libcap-ng0",
    "libcurl3-gnutls",
    "libdb5.3",
    "liberror-perl",
    "libfile-find-rule-perl",
    "libgdbm-compat4",
    "libgdbm6",
    "libnsl2",
    "libnumber-compare-perl",
    "libpam-modules",
    "libpam-modules-bin",
    "libpam0g",
    "libperl5.36",
    "libpython3-stdlib",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libsemanage-common",
    "libsemanage2",
    "libsepol2",
    "libss2",
    "libtext-glob-perl",
    "logsave",
    "media-types",
    "passwd",
    "perl",
    "perl-base",
    "perl-modules-5.36",
    "pinentry-curses",
    "python3",
    "python3-minimal",
    "python3.11",
    "python3.11-minimal",
    "readline-common",
    "usrmerge",
];
/// What no test reads, relative to the root. The programs of git that are removed need the network.
const REMOVED: [&str; 17] = [
    "usr/lib/git-core/git-daemon",
    "usr/lib/git-core/git-http-backend",
    "usr/lib/git-core/git-http-fetch",
    "usr/lib/git-core/git-http-push",
    "usr/lib/git-core/git-imap-send",
    "usr/lib/git-core/git-remote-http",
    "usr/lib/git-core/scalar",
    "usr/bin/scalar",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/x86_64-linux-gnu/perl-base",
    "usr/share/bash-completion",
    "usr/share/doc",
    "usr/share/gitweb",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
];
/// What others are mounted on, or written to.
const DIRECTORIES: [&str; 8] = ["dev", "proc", "sys", "tmp", "run", "root", "mnt", "var/tmp"];
const FILES: [(&str, &str); 2] =
    [("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"), ("etc/group", "root:x:0:\n")];
/// Room for all of it, in MiB.
const SIZE: u64 = 256;
/// To be changed when the image is made in another way.
const VERSION: u32 = 1;

/// An ext4 image with a root file system, made the first time. Many guests use the same: give it to them read-only.
///
/// # Errors
/// When packages cannot be fetched. In the lab, where nothing can, when nobody has made it before.
pub fn rootfs() -> Result<PathBuf> {
    let mut hash = std::hash::DefaultHasher::new();
    (VERSION, SIZE, KERNEL_RELEASE, PACKAGES, UNNEEDED, REMOVED, DIRECTORIES, FILES).hash(&mut hash);
    let path = paths::lab().join("rootfs").join(format!("{:016x}.img", hash.finish()));
    cache::once(&path, |partial| {
        let apt = Apt::open(KERNEL_RELEASE)?;
        let mut packages = apt.closure(&PACKAGES, None)?;
        packages.retain(|package| !UNNEEDED.contains(&name(package)));
        crate::progress::note(&format!("downloading {} packages for guests", packages.len()));
        let parent = partial.parent().unwrap_or(partial);
        let root = tempfile::tempdir_in(parent).map_err(Error::file("create a directory in", parent))?;
        apt.unpack_all(&packages, root.path())?;
        finish(root.path())?;
        Disk::ext4(partial, SIZE, Some(root.path())).map(drop)
    })
}

/// `name=version` without the version.
fn name(package: &str) -> &str {
    package.split('=').next().unwrap_or(package)
}

fn finish(root: &Path) -> Result<()> {
    for removed in REMOVED {
        let path = root.join(removed);
        let result = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match result {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::file("remove", path)(error));
            }
            _ => {}
        }
    }
    for directory in DIRECTORIES {
        let path = root.join(directory);
        fs::create_dir_all(&path).map_err(Error::file("create", &path))?;
    }
    for (file, text) in FILES {
        let path = root.join(file);
        fs::write(&path, text).map_err(Error::file("write", &path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_needed_is_removed_and_the_rest_kept() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("usr/share/doc/x")).unwrap();
        fs::create_dir_all(dir.path().join("usr/share/misc")).unwrap();
        fs::create_dir_all(dir.path().join("usr/bin")).unwrap();
        fs::create_dir_all(dir.path().join("etc")).unwrap();
        fs::write(dir.path().join("usr/bin/scalar"), "").unwrap();
        fs::write(dir.path().join("usr/bin/git"), "").unwrap();
        finish(dir.path()).unwrap();
        assert!(!dir.path().join("usr/share/doc").exists() && !dir.path().join("usr/bin/scalar").exists());
        assert!(dir.path().join("usr/share/misc").exists() && dir.path().join("usr/bin/git").exists());
        assert!(dir.path().join("proc").is_dir());
        assert!(fs::read_to_string(dir.path().join("etc/passwd")).unwrap().starts_with("root:"));
    }

    #[test]
    fn versions_are_no_part_of_names() {
        assert_eq!((name("git=1:2.39.5-0+deb12u3"), name("git")), ("git", "git"));
    }
}
