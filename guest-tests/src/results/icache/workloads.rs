//! Programs that are recorded: on ext4 on a loop device, with the kernel and the readahead of this machine.
//!
//! - *find*, *scan*: `find` of a name that is not there, and tar of everything, in the sources of Linux 6.1 (1.3 GB; the
//!   paper has 6 GB), each with nothing in memory.
//! - *web*: small files of the same sources, some far more often than others, in 64 MiB of memory.
//! - *mail*: postmark with 20,000 files of 500 to 16,000 bytes, in 48 MiB of memory. All it leaves is free space, so every
//!   block that is no metadata then is taken for one of its files; its directories, which it deletes too, for data.
//! - *untar*: the same sources unpacked, in 64 MiB of memory.
//! - *join*: see `tpch`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sky_devices::block::simulated::Random;

use super::ext4;
use super::memory::LittleMemory;
use super::record::Recorder;
use super::tpch;
use super::trace::Trace;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::packages::{self, Tool, ensure};
use crate::{cache, command, paths, progress};

/// To be changed when traces are made in another way.
const VERSION: u32 = 1;
/// Bytes of memory.
const MAIL_MEMORY: u64 = 48 << 20;
const MEMORY: u64 = 64 << 20;
/// Files that the web server is asked for.
const REQUESTS: u64 = 60_000;

/// A disk, and the programs that are recorded on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Workload {
    /// Phases find, scan and web.
    Sources,
    /// Phase mail.
    Mail,
    /// Phase untar.
    Untar,
    /// Phases join-0 and so on.
    Tpch,
}

impl Workload {
    /// What was recorded of it the first time.
    pub(super) fn trace(self) -> Result<Trace> {
        let name = match self {
            Self::Sources => "sources",
            Self::Mail => "mail",
            Self::Untar => "untar",
            Self::Tpch => "tpch",
        };
        let path = paths::target().join("traces").join(format!("{name}-{VERSION}.trace"));
        let path = cache::once(&path, |partial| {
            progress::note(&format!("recording the trace {name}"));
            let parent = partial.parent().unwrap_or(partial);
            let dir = tempfile::tempdir_in(parent).map_err(Error::file("create a directory in", parent))?;
            let trace = match self {
                Self::Sources => sources(dir.path()),
                Self::Mail => mail(dir.path()),
                Self::Untar => untar(dir.path()),
                Self::Tpch => tpch::record(dir.path()),
            };
            trace?.save(partial)
        })?;
        Trace::load(&path)
    }
}

fn sources(dir: &Path) -> Result<Trace> {
    let sources = dir.join("sources");
    packages::linux_sources(&sources)?;
    let disk = Disk::ext4(dir.join("disk.img"), 2048, Some(&sources))?;
    let classes = ext4::classes(disk.path(), 0)?;
    let requests = dir.join("requests");
    std::fs::write(&requests, web_requests(&sources)?).map_err(Error::file("write", &requests))?;
    let recorder = Recorder::new(disk.path())?;
    let find = recorder.phase("find", "ro", |root| {
        command::run(Command::new("find").arg(root).args(["-name", "missing"])).map(drop)
    })?;
    let scan = recorder.phase("scan", "ro", read_all)?;
    let memory = LittleMemory::new(MEMORY)?;
    let web = recorder.phase("web", "ro", |root| {
        let (root, requests) = (root.display(), requests.display());
        memory.run(&format!("cd {root} && xargs -d '\\n' -a {requests} cat > /dev/null"))
    })?;
    Ok(Trace { classes, phases: vec![find, scan, web] })
}

/// As a backup does. tar itself would not read what it is to write to `/dev/null`.
fn read_all(root: &Path) -> Result<()> {
    let spawned = |source| Error::Spawn { program: "tar".into(), source };
    let mut tar = Command::new("tar");
    let mut child =
        tar.arg("-C").arg(root).args(["-cf", "-", "."]).stdout(Stdio::piped()).spawn().map_err(spawned)?;
    if let Some(mut output) = child.stdout.take() {
        std::io::copy(&mut output, &mut std::io::sink()).map_err(spawned)?;
    }
    let status = child.wait().map_err(spawned)?;
    match status.success() {
        true => Ok(()),
        false => Err(Error::Failed { program: "tar".into(), status, output: String::new() }),
    }
}

/// Names of files, one a line; how often follows Zipf's law closely enough: the logarithm of the rank is even.
fn web_requests(sources: &Path) -> Result<String> {
    let mut files = Vec::new();
    list(sources, sources, &mut files)?;
    // Popular ones lie anywhere.
    files.sort();
    let mut random = Random::new(1);
    for last in (1..files.len()).rev() {
        let other = random.below(last as u64 + 1);
        files.swap(last, usize::try_from(other).unwrap_or(0));
    }
    let mut text = String::new();
    for _ in 0..REQUESTS {
        if let Some(file) = files.get(popular(&mut random, files.len())) {
            let _ = writeln!(text, "{}", file.display());
        }
    }
    Ok(text)
}

/// A rank below `most`.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to a number of files")]
fn popular(random: &mut Random, most: usize) -> usize {
    let even = random.below(1 << 32) as f64 / (1_u64 << 32) as f64;
    ((most as f64).powf(even) - 1.0) as usize
}

fn list(root: &Path, directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let listed = Error::file("list", directory);
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => return Err(listed(error)),
    };
    for entry in entries.filter_map(std::result::Result::ok) {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => list(root, &path, files)?,
            Ok(kind) if kind.is_file() => files.push(path.strip_prefix(root).unwrap_or(&path).to_path_buf()),
            _ => {}
        }
    }
    Ok(())
}

fn mail(dir: &Path) -> Result<Trace> {
    ensure(Tool::Postmark)?;
    let disk = Disk::ext4(dir.join("disk.img"), 1024, None)?;
    let recorder = Recorder::new(disk.path())?;
    let memory = LittleMemory::new(MAIL_MEMORY)?;
    let settings = dir.join("settings");
    let mail = recorder.phase("mail", "rw", |root| {
        let text = format!(
            "set location {}\nset size 500 16000\nset number 20000\nset subdirectories 100\n\
             set transactions 40000\nset seed 1\nrun\nquit\n",
            root.display()
        );
        std::fs::write(&settings, text).map_err(Error::file("write", &settings))?;
        memory.run(&format!("postmark {}", settings.display()))
    })?;
    drop(recorder);
    let small = ext4::size_class(1);
    Ok(Trace { classes: ext4::classes(disk.path(), small)?, phases: vec![mail] })
}

fn untar(dir: &Path) -> Result<Trace> {
    let archive = packages::linux_sources_archive()?;
    ensure(Tool::Xz)?;
    let disk = Disk::ext4(dir.join("disk.img"), 2048, None)?;
    let recorder = Recorder::new(disk.path())?;
    // xz needs its own memory, and the archive's pages are not the disk's.
    let memory = LittleMemory::new(MEMORY)?;
    let untar = recorder.phase("untar", "rw", |root| {
        memory.run(&format!("xz -dc {} | tar -x -C {} -f -", archive.display(), root.display()))
    })?;
    drop(recorder);
    Ok(Trace { classes: ext4::classes(disk.path(), 0)?, phases: vec![untar] })
}
