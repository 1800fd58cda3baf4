//! A group of processes with little memory, as a small guest has: what it has read it has to read again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command;
use crate::error::{Error, Result};

/// Version 1 of the kernel's groups has a hierarchy for memory, version 2 one for everything.
const HIERARCHIES: [(&str, &str); 2] =
    [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];

/// A group, which goes when it is dropped.
pub(super) struct LittleMemory(PathBuf);

impl LittleMemory {
    /// A group whose processes and their page cache have so many bytes.
    pub(super) fn new(bytes: u64) -> Result<Self> {
        let hierarchy = HIERARCHIES.iter().find(|(path, _)| Path::new(path).join("cgroup.procs").is_file());
        let (path, limit) =
            hierarchy.ok_or_else(|| Error::Missing("the kernel has no groups that limit memory".into()))?;
        let group = Self(Path::new(path).join(format!("sky-{}", std::process::id())));
        fs::create_dir(&group.0).map_err(Error::file("create", &group.0))?;
        let limit = group.0.join(limit);
        fs::write(&limit, bytes.to_string()).map_err(Error::file("write", &limit))?;
        Ok(group)
    }

    /// Runs a program in it, in the shell's words.
    pub(super) fn run(&self, script: &str) -> Result<()> {
        let procs = self.0.join("cgroup.procs");
        let script = format!("echo $$ > {} && {script}", procs.display());
        command::run(Command::new("sh").arg("-c").arg(script)).map(drop)
    }
}

impl Drop for LittleMemory {
    fn drop(&mut self) {
        // One that is not empty stays, which costs nothing.
        let _ = fs::remove_dir(&self.0);
    }
}
