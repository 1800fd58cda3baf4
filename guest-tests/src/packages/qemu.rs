//! The lab's QEMU: the same for everybody, unpacked below the target directory with the libraries it needs.
//!
//! Which one matters. Emulated processors lost interrupts up to version 10.1: `VMRUN` changed the word of what is
//! pending (`interrupt_request`, in target/i386/tcg/system/svm_helper.c) while other threads set bits in it, without
//! their lock and not atomically. Debian 12 has 10.0 at most, so Debian 13's backport is taken, whatever the host runs.

use std::path::PathBuf;
use std::process::Command;

use super::apt::Apt;
use crate::cache;
use crate::error::{Error, Result};
use crate::{command, paths};

/// The release whose libraries it is linked with, and the suite that it comes from.
const RELEASE: &str = "trixie";
const SUITE: &str = "trixie-backports";
const PACKAGE: &str = "qemu-system-x86";
/// The first that changes what is pending by atomic operations.
const ATOMIC_SINCE: (u32, u32) = (10, 2);
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const LOADER: &str = "ld-linux-x86-64.so.2";
/// Firmware, and what boots a kernel from the command line.
const DATA: [&str; 3] = ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"];

/// An emulator of whole machines, ready to be started.
#[derive(Clone, Debug)]
pub struct Qemu {
    root: PathBuf,
    version: String,
}

impl Qemu {
    /// It, downloaded the first time.
    ///
    /// # Errors
    /// When packages cannot be fetched, or what they hold does not run or is too old.
    pub fn get() -> Result<Qemu> {
        let root = cache::once(&paths::lab().join("qemu"), |partial| {
            let apt = Apt::open(RELEASE)?;
            let mut packages = apt.closure(&[PACKAGE], Some(SUITE))?;
            packages.retain(|package| is_used(package));
            crate::progress::note(&format!(
                "downloading QEMU and its libraries, {} packages",
                packages.len()
            ));
            apt.unpack_all(&packages, partial)?;
            check(&Qemu { root: partial.into(), version: String::new() }).map(drop)
        })?;
        let mut qemu = Qemu { root, version: String::new() };
        qemu.version = check(&qemu)?;
        Ok(qemu)
    }

    /// Its version, as `11.1.3`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// A command that starts it. It finds its own libraries and firmware, none of the host's.
    pub fn command(&self) -> Command {
        let libraries = self.root.join(LIBRARIES);
        let mut command = Command::new(libraries.join(LOADER));
        command.arg("--library-path").arg(&libraries).arg(self.root.join("usr/bin/qemu-system-x86_64"));
        for data in DATA {
            command.arg("-L").arg(self.root.join(data));
        }
        command
    }
}

/// QEMU itself, firmware, libraries: packages also name what they are installed and configured with.
fn is_used(package: &str) -> bool {
    ["lib", "qemu-system-", "seabios=", "ipxe-qemu=", "zlib1g="]
        .iter()
        .any(|start| package.starts_with(start))
}

fn check(qemu: &Qemu) -> Result<String> {
    let text = command::run(qemu.command().arg("--version"))?;
    let text = String::from_utf8_lossy(&text);
    match version(&text) {
        Some((version, number)) if number >= ATOMIC_SINCE => Ok(version),
        _ => Err(Error::Format {
            path: qemu.root.clone(),
            problem: format!(
                "holds no QEMU of version {}.{} or newer: {}",
                ATOMIC_SINCE.0,
                ATOMIC_SINCE.1,
                text.lines().next().unwrap_or_default()
            ),
        }),
    }
}

/// `QEMU emulator version 11.1.3 (Debian ...)` gives `11.1.3` and (11, 1).
fn version(text: &str) -> Option<(String, (u32, u32))> {
    let version = text.split_once("version ")?.1.split_whitespace().next()?;
    let mut numbers = version.split('.').map(str::parse);
    let number = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some((version.to_string(), number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        let text = "QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1~bpo13+1)\nCopyright";
        assert_eq!(version(text), Some(("11.1.3".into(), (11, 1))));
        assert_eq!(version("QEMU emulator version 10.0.2"), Some(("10.0.2".into(), (10, 0))));
        for text in ["QEMU emulator version x.y", "QEMU emulator version 7", "something else"] {
            assert_eq!(version(text), None);
        }
    }

    #[test]
    fn tools_for_installing_are_left_out() {
        let used =
            ["qemu-system-x86=1:11", "qemu-system-data=1:11", "libc6=2.41", "seabios=1", "zlib1g=1:1.3"];
        assert!(used.into_iter().all(is_used));
        assert!(!["dpkg=1", "perl-base=5", "debconf=1", "coreutils=9", "tar=1"].into_iter().any(is_used));
    }
}
