//! The Debian packages that the lab and the guests are made of, and how to get them.
//!
//! Kernels, busybox, a small system for guests and the lab's QEMU are downloaded and unpacked below the target
//! directory, which needs no privilege. Programs of the host (Bochs, e2fsprogs, xz) are installed when the user is root
//! and asked for otherwise.

mod apt;
mod host;
mod qemu;
mod rootfs;
mod sources;
mod vmlinux;

use std::fs;
use std::path::{Path, PathBuf};

use crate::cache;
use crate::error::{Error, Result};
use crate::paths;

pub use host::{BOCHS_BIOS, BOCHS_VGA_BIOS, Bochs, Tool, bochs, ensure};
pub use qemu::Qemu;
pub use rootfs::rootfs;
pub use sources::{linux_headers, linux_sources, linux_sources_archive};

use apt::Apt;

/// The Debian release whose kernels are used, whatever the host runs: the same guests for everybody.
const KERNEL_RELEASE: &str = "bookworm";

/// Which kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// Debian's ordinary kernel: it has kvm_amd and 9p, so the lab's own machine runs it.
    Lab,
    /// The 6.1 cloud kernel, for guests.
    Cloud61,
    /// The 6.12 cloud kernel, for guests.
    Cloud612,
}

impl Flavour {
    /// The kernels that guests are tested with.
    pub const GUESTS: [Flavour; 2] = [Flavour::Cloud61, Flavour::Cloud612];

    /// A short name: the cache directory's, and for messages.
    pub fn name(self) -> &'static str {
        match self {
            Flavour::Lab => "lab",
            Flavour::Cloud61 => "6.1-cloud",
            Flavour::Cloud612 => "6.12-cloud",
        }
    }

    /// Meta packages to try, with the suite to prefer.
    fn candidates(self) -> &'static [(&'static str, Option<&'static str>)] {
        match self {
            Flavour::Lab => &[("linux-image-amd64", None)],
            Flavour::Cloud61 => &[("linux-image-cloud-amd64", None)],
            Flavour::Cloud612 => &[
                ("linux-image-6.12-cloud-amd64", None),
                ("linux-image-cloud-amd64", Some("bookworm-backports")),
            ],
        }
    }
}

/// An unpacked kernel package.
#[derive(Clone, Debug)]
pub struct Kernel {
    dir: PathBuf,
    release: String,
}

impl Kernel {
    /// The kernel of that flavour, downloaded the first time.
    pub fn get(flavour: Flavour) -> Result<Kernel> {
        let dir = cache::once(&paths::lab().join("kernels").join(flavour.name()), |partial| {
            let apt = Apt::open(KERNEL_RELEASE)?;
            let mut failure = None;
            for (meta, suite) in flavour.candidates() {
                match apt.resolve(meta, *suite) {
                    Ok(package) => {
                        crate::progress::note(&format!("downloading {package}"));
                        return apt.unpack(&package, partial);
                    }
                    Err(error) => failure = Some(error),
                }
            }
            Err(failure.unwrap_or_else(|| Error::Missing(format!("no package for {}", flavour.name()))))
        })?;
        let release = release_in(&dir)?;
        Ok(Kernel { dir, release })
    }

    /// What `uname -r` says in it.
    pub fn release(&self) -> &str {
        &self.release
    }

    /// The compressed image that boot loaders start.
    pub fn bzimage(&self) -> PathBuf {
        self.dir.join("boot").join(format!("vmlinuz-{}", self.release))
    }

    /// The ELF file inside the image, unpacked the first time.
    pub fn vmlinux(&self) -> Result<PathBuf> {
        let elf = self.dir.join("boot").join(format!("vmlinux-{}", self.release));
        cache::once(&elf, |partial| vmlinux::extract(&self.bzimage(), partial))
    }

    /// The directory with this kernel's modules.
    pub fn modules(&self) -> PathBuf {
        self.dir.join("lib/modules").join(&self.release)
    }
}

fn release_in(dir: &Path) -> Result<String> {
    let boot = dir.join("boot");
    let names = fs::read_dir(&boot).map_err(Error::file("list", &boot))?;
    names
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find_map(|name| name.strip_prefix("vmlinuz-").map(str::to_string))
        .ok_or_else(|| Error::Format {
            path: boot,
            problem: "holds no kernel; remove the cache and try again".into(),
        })
}

/// A statically linked busybox.
pub fn busybox() -> Result<PathBuf> {
    let dir = cache::once(&paths::lab().join("busybox"), |partial| {
        Apt::open(KERNEL_RELEASE)?.unpack("busybox-static", partial)
    })?;
    for place in ["bin/busybox", "usr/bin/busybox"] {
        let path = dir.join(place);
        if path.is_file() {
            return Ok(path);
        }
    }
    Err(Error::Format { path: dir, problem: "holds no busybox; remove the cache and try again".into() })
}
