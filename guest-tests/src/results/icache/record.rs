//! Records what programs ask of a disk: an image on a loop device, and the kernel's trace event of each request that goes to
//! it, in a trace instance of its own.
//!
//! Only root may, where the kernel has the event `block:block_rq_issue` and gives out loop devices. The trace is of the
//! running kernel's file system and readahead.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::trace::{BLOCK, Phase, Request};
use crate::command;
use crate::error::{Error, Result};
use crate::packages::{Tool, ensure};

const SECTORS: u64 = BLOCK / 512;
/// What Linux reads ahead on a disk unless it is told otherwise, in sectors.
const READAHEAD: &str = "256";
/// Of the trace, for each processor, in KiB: ten times what the largest phase needs.
const BUFFER: &str = "131072";
const EVENT: &str = "events/block/block_rq_issue";

/// An image that can be mounted, and whose requests are written down.
pub(super) struct Recorder {
    device: PathBuf,
    /// Major and minor number, as the trace has them.
    number: String,
    dir: tempfile::TempDir,
    instance: PathBuf,
}

impl Recorder {
    pub(super) fn new(image: &Path) -> Result<Self> {
        let dir = tempfile::tempdir().map_err(Error::file("create a directory in", std::env::temp_dir()))?;
        for name in ["trace", "disk"] {
            let path = dir.path().join(name);
            fs::create_dir(&path).map_err(Error::file("create", path))?;
        }
        let output =
            command::run(ensure(Tool::Losetup)?.args(["--find", "--show"]).arg(image)).map_err(refused)?;
        let device = PathBuf::from(String::from_utf8_lossy(&output).trim());
        let instance = dir.path().join("trace/instances").join(format!("sky-{}", std::process::id()));
        // From here on everything is undone when it is dropped.
        let mut recorder = Self { device, number: String::new(), dir, instance };
        let number =
            Path::new("/sys/block").join(recorder.device.file_name().unwrap_or_default()).join("dev");
        let number = fs::read_to_string(&number).map_err(Error::file("read", &number))?;
        recorder.number = number.trim().replace(':', ",");
        command::run(Command::new("blockdev").args(["--setra", READAHEAD]).arg(&recorder.device))?;
        let tracefs = recorder.dir.path().join("trace");
        command::run(Command::new("mount").args(["-t", "tracefs", "none"]).arg(tracefs)).map_err(refused)?;
        fs::create_dir(&recorder.instance).map_err(Error::file("create", &recorder.instance))?;
        recorder.set("buffer_size_kb", BUFFER)?;
        Ok(recorder)
    }

    /// What a program asks of the disk, which it finds mounted with nothing of it in memory. `options` are those of mount;
    /// what is still in memory when the program ends is written and belongs to it.
    pub(super) fn phase(
        &self,
        name: &str,
        options: &str,
        program: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Phase> {
        let root = self.dir.path().join("disk");
        command::run(Command::new("mount").args(["-o", options]).arg(&self.device).arg(&root))
            .map_err(refused)?;
        let result = self.traced(&root, program);
        command::run(Command::new("umount").arg(&root))?;
        let text = result?;
        let requests: Option<Vec<Vec<Request>>> = text
            .lines()
            .filter_map(|line| line.split_once("block_rq_issue: "))
            .map(|(_, event)| self.request(event))
            .collect();
        let requests = requests.ok_or_else(|| Error::Format {
            path: self.instance.join("trace"),
            problem: "is not what the format of block_rq_issue was".into(),
        })?;
        Ok(Phase { name: name.into(), requests: requests.concat() })
    }

    fn traced(&self, root: &Path, program: impl FnOnce(&Path) -> Result<()>) -> Result<String> {
        self.set("trace", "")?;
        self.set(&format!("{EVENT}/enable"), "1")?;
        let result = program(root).and_then(|()| command::run(Command::new("sync").arg("-f").arg(root)));
        self.set(&format!("{EVENT}/enable"), "0")?;
        result?;
        let path = self.instance.join("trace");
        let text = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
        // "entries-in-buffer/entries-written: 5768/5768   #P:2"
        let counts = text
            .lines()
            .find_map(|line| line.split_once("entries-written: "))
            .map_or("", |(_, counts)| counts);
        let (kept, written) =
            counts.split_whitespace().next().unwrap_or("").split_once('/').unwrap_or_default();
        if kept != written || kept.is_empty() {
            return Err(Error::Format { path, problem: format!("has lost events: {counts}") });
        }
        Ok(text)
    }

    /// `7,0 RA 16384 () 66368 + 32 be,0,4 [find]`; nothing of other disks, and of what moves no data.
    fn request(&self, event: &str) -> Option<Vec<Request>> {
        let mut words = event.split_whitespace();
        if words.next()? != self.number {
            return Some(Vec::new());
        }
        let kind = words.next()?;
        let (place, length) = event.split_once(") ")?.1.split_once(" + ")?;
        let sector: u64 = place.trim().parse().ok()?;
        let sectors: u64 = length.split(' ').next()?.parse().ok()?;
        let write = kind.contains('W');
        if sectors == 0 || kind.contains('D') || !(write || kind.contains('R')) {
            return Some(Vec::new());
        }
        let end = sector.checked_add(sectors)?.div_ceil(SECTORS);
        let first = sector / SECTORS;
        let request =
            Request { write, first: u32::try_from(first).ok()?, count: u32::try_from(end - first).ok()? };
        Some(vec![request])
    }

    fn set(&self, file: &str, value: &str) -> Result<()> {
        let path = self.instance.join(file);
        fs::write(&path, value).map_err(Error::file("write", path))
    }
}

fn refused(error: Error) -> Error {
    Error::Missing(format!("block traces are recorded by root, with loop devices and tracefs: {error}"))
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // What was not reached need not be undone.
        let _ = fs::remove_dir(&self.instance);
        let _ = command::run(Command::new("umount").arg(self.dir.path().join("trace")));
        if let Ok(mut losetup) = ensure(Tool::Losetup) {
            let _ = command::run(losetup.arg("--detach").arg(&self.device));
        }
    }
}
