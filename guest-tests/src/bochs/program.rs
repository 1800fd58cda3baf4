//! Which executable a command means, and whether it can run where there are no libraries.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};
use crate::programs::Program as Built;
use crate::{command, packages, programs};

/// Our VMM, which is always there.
const SKY_VMM: &str = "sky-vmm";

/// A command with all that it needs in the machine.
#[derive(Debug)]
pub(super) struct Program {
    /// The words to run, the first as it is called in the machine.
    pub(super) words: Vec<OsString>,
    /// Executables to put there besides busybox: the name in the machine, without a leading slash, and the source.
    pub(super) files: Vec<(String, PathBuf)>,
}

impl Program {
    /// Finds what the first word means. Builds it if it is ours.
    pub(super) fn find(words: &[OsString]) -> Result<Program> {
        let first = words.first().cloned().unwrap_or_default();
        let mut program = Program { words: words.to_vec(), files: Vec::new() };
        if first.as_bytes().contains(&b'/') {
            let path = PathBuf::from(&first);
            let bytes = std::fs::read(&path).map_err(Error::file("read", &path))?;
            check_static(&bytes).map_err(|problem| Error::Format { path: path.clone(), problem })?;
            let name = inside(&path)?;
            program.words[0] = format!("/{name}").into();
            program.files.push((name, path));
        } else if let Some(ours) = Built::GUEST.iter().find(|ours| first == ours.name()) {
            program.files.push((format!("bin/{}", ours.name()), ours.path()?));
        } else if first != SKY_VMM && !applets()?.iter().any(|name| first == name.as_str()) {
            let ours: Vec<_> = Built::GUEST.iter().map(|ours| ours.name()).collect();
            return Err(Error::lab(format!(
                "in Bochs has no program {}: it knows {SKY_VMM}, {}, what busybox knows, and paths of static executables",
                first.display(),
                ours.join(", ")
            )));
        }
        // A script may call it.
        program.files.push((format!("bin/{SKY_VMM}"), programs::sky_vmm_static()?));
        Ok(program)
    }
}

/// The name in the machine of an executable of the host.
fn inside(path: &Path) -> Result<String> {
    let name = path.file_name().and_then(|name| name.to_str());
    let problem = || Error::Format { path: path.into(), problem: "has a name that is no text".into() };
    name.map(|name| format!("command/{name}")).ok_or_else(problem)
}

fn applets() -> Result<Vec<String>> {
    let list = command::run(Command::new(packages::busybox()?).arg("--list"))?;
    Ok(String::from_utf8_lossy(&list).lines().map(str::to_string).collect())
}

/// Whether this is a 64-bit executable that names no interpreter, which is what loads libraries.
///
/// The layout is that of elf(5): the header's `e_phoff`, `e_phentsize` and `e_phnum` lead to the program headers, each
/// of which begins with its type.
fn check_static(elf: &[u8]) -> std::result::Result<(), String> {
    const CLASS_64_LITTLE_ENDIAN: [u8; 2] = [2, 1];
    const MACHINE_X86_64: u16 = 62;
    const PT_INTERP: u32 = 3;

    let is_ours = elf.starts_with(b"\x7fELF")
        && elf.get(4..6) == Some(&CLASS_64_LITTLE_ENDIAN)
        && u16_at(elf, 18) == Some(MACHINE_X86_64);
    if !is_ours {
        return Err("is no 64-bit x86 executable".into());
    }
    let cut_short = || "is cut short".to_string();
    let table = elf.get(32..40).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
    let table = table.and_then(|table| usize::try_from(table).ok()).ok_or_else(cut_short)?;
    let (size, count) = u16_at(elf, 54).zip(u16_at(elf, 56)).ok_or_else(cut_short)?;
    for index in 0..usize::from(count) {
        let kind = table.checked_add(index * usize::from(size)).and_then(|at| u32_at(elf, at));
        if kind.ok_or_else(cut_short)? == PT_INTERP {
            return Err("needs shared libraries, and there are none in Bochs; link it statically \
                (our own are built so when they are given by name: sky-vmm)"
                .into());
        }
    }
    Ok(())
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at.checked_add(2)?)?.try_into().ok().map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The test itself is linked with shared libraries, as cargo does by default.
    fn this_test() -> Vec<u8> {
        std::fs::read(std::env::current_exe().unwrap()).unwrap()
    }

    #[test]
    fn shared_libraries_are_noticed() {
        let elf = this_test();
        assert!(check_static(&elf).unwrap_err().contains("needs shared libraries"));
        // Without the entry that names the interpreter, nothing speaks against it.
        let mut elf = elf;
        let table = usize::try_from(u64::from_le_bytes(elf[32..40].try_into().unwrap())).unwrap();
        let count = usize::from(u16_at(&elf, 56).unwrap());
        let entry = (0..count).map(|n| table + n * 56).find(|at| u32_at(&elf, *at) == Some(3)).unwrap();
        elf[entry] = 0;
        assert_eq!(check_static(&elf), Ok(()));
    }

    #[test]
    fn scripts_and_stumps_are_refused() {
        assert!(check_static(b"#!/bin/sh\n").unwrap_err().contains("no 64-bit x86"));
        let mut elf = this_test();
        elf.truncate(64);
        assert_eq!(check_static(&elf).unwrap_err(), "is cut short");
        for length in 0..64 {
            assert!(check_static(&elf[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn a_file_that_is_missing_is_named() {
        let error = Program::find(&["/no/such/file".into()]).unwrap_err().to_string();
        assert!(error.contains("cannot read /no/such/file"), "{error}");
    }

    #[test]
    fn a_path_keeps_its_last_name() {
        assert_eq!(inside(Path::new("a/b/prog")).unwrap(), "command/prog");
        assert!(inside(Path::new("a/..")).is_err());
    }

    proptest! {
        #[test]
        fn any_header_is_survived(mut elf in prop::collection::vec(any::<u8>(), 64..200)) {
            elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
            elf[18..20].copy_from_slice(&62u16.to_le_bytes());
            let _ = check_static(&elf);
        }
    }
}
