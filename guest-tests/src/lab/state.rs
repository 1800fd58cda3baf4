//! The state directory of a machine, which many processes share.
//!
//! Three kinds of locks, all released by the kernel when their holder dies: `start` is held while the machine is
//! started or stopped, `alive` is held by QEMU itself, and `slotN` by the user of that slot.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::client::{Client, Failure};
use super::machine::{Machine, RESET_LOG, Timing};
use crate::cache::FileLock;
use crate::error::{Error, Result, last_lines};
use crate::progress::Wait;

/// An idle host needs five seconds, a busy one perhaps a minute, instruction counting more.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
/// To greet the agent of a machine that runs.
const ATTACH_LIMIT: Duration = Duration::from_secs(60);
const POWER_OFF_LIMIT: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// What QEMU notes when a fault cannot be delivered any more.
const TRIPLE_FAULT: &[u8] = b"Triple fault";
const CONSOLE_LINES: usize = 15;

/// Where a machine lives.
#[derive(Debug)]
pub(super) struct State {
    dir: PathBuf,
    timing: Timing,
    private: Option<TempDir>,
    /// The QEMU that this process started, so that it can be reaped.
    child: Mutex<Option<Child>>,
}

impl State {
    pub(super) fn shared(dir: PathBuf, timing: Timing) -> State {
        State { dir, timing, private: None, child: Mutex::new(None) }
    }

    pub(super) fn private(dir: TempDir, timing: Timing) -> State {
        State { dir: dir.path().into(), timing, private: Some(dir), child: Mutex::new(None) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn alive(&self) -> Result<bool> {
        Ok(FileLock::try_take(&self.path("alive.lock"))?.is_none())
    }

    /// Takes a free slot, if there is one.
    fn free_slot(&self) -> Result<Option<(usize, FileLock)>> {
        for slot in 0..self.timing.slots() {
            if let Some(lock) = FileLock::try_take(&self.path(&format!("slot{slot}.lock")))? {
                return Ok(Some((slot, lock)));
            }
        }
        Ok(None)
    }

    fn slots_in_use(&self) -> Result<usize> {
        let mut used = 0;
        for slot in 0..self.timing.slots() {
            used += usize::from(FileLock::try_take(&self.path(&format!("slot{slot}.lock")))?.is_none());
        }
        Ok(used)
    }

    pub(super) fn status(&self) -> Result<Option<usize>> {
        if self.alive()? { self.slots_in_use().map(Some) } else { Ok(None) }
    }

    /// Starts the machine unless it runs and is what would be started.
    pub(super) fn ensure_running(&self) -> Result<()> {
        if self.private.is_some() && self.alive()? {
            return Ok(());
        }
        let machine = Machine::prepare(self.timing)?;
        let stamp = machine.stamp()?;
        let _starting = FileLock::wait(&self.path("start.lock"))?;
        if self.alive()? {
            let current = fs::read_to_string(self.path("stamp")).is_ok_and(|running| running == stamp);
            if current || self.slots_in_use()? > 0 {
                return Ok(());
            }
            self.power_off()?;
        }
        self.start(&machine, &stamp)
    }

    fn start(&self, machine: &Machine, stamp: &str) -> Result<()> {
        let Some(alive) = FileLock::try_take(&self.path("alive.lock"))? else {
            return Err(Error::lab("is still shutting down; try again"));
        };
        for slot in 0..self.timing.slots() {
            // Left behind by a machine that was killed; usually there is none.
            let _ = fs::remove_file(self.path(&format!("slot{slot}.sock")));
        }
        let file = self.path("stamp");
        fs::write(&file, stamp).map_err(Error::file("write", &file))?;
        let console = self.path("console.log");
        fs::write(&console, "").map_err(Error::file("write", &console))?;
        let wait = Wait::start("starting the lab: QEMU emulates an AMD processor with SVM");
        let child = machine.start(&self.dir, alive.into_file())?;
        *self.child.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        let deadline = Instant::now() + BOOT_LIMIT;
        let booted = Client::connect(&self.dir, 0, || {
            wait.step(&last_lines(&fs::read(&console).unwrap_or_default(), 1));
            self.may_wait(deadline)
        });
        match booted {
            Ok(_) => {
                wait.done("the lab is ready");
                Ok(())
            }
            Err(failure) => {
                wait.done("the lab did not start");
                self.kill();
                Err(self.explain(failure))
            }
        }
    }

    /// Waits for a slot and greets the agent in it.
    pub(super) fn attach(&self) -> std::result::Result<(FileLock, Client), Failure> {
        let mut told = false;
        let (slot, lock) = loop {
            match self.free_slot().map_err(Failure::Command)? {
                Some(free) => break free,
                None if !told => {
                    crate::progress::note("waiting: the lab runs as many commands as it can");
                    told = true;
                }
                None => thread::sleep(LOOK_AGAIN),
            }
        };
        let deadline = Instant::now() + ATTACH_LIMIT;
        let client = Client::connect(&self.dir, slot, || self.may_wait(deadline))?;
        Ok((lock, client))
    }

    fn may_wait(&self, deadline: Instant) -> std::result::Result<(), String> {
        self.reap();
        if Instant::now() > deadline {
            return Err("does not answer; `cargo lab -- --stop` ends it".into());
        }
        match self.alive() {
            Ok(true) => Ok(()),
            Ok(false) => Err("ended: QEMU is no longer running".into()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Adds the console's last words to a failure.
    pub(super) fn explain(&self, failure: Failure) -> Error {
        match failure {
            Failure::Command(error) => error,
            Failure::Gone(mut problem) => {
                let resets = fs::read(self.path(RESET_LOG)).unwrap_or_default();
                if resets.windows(TRIPLE_FAULT.len()).any(|window| window == TRIPLE_FAULT) {
                    problem += " (its emulated processor triple-faulted)";
                }
                let mut console = fs::read(self.path("qemu.log")).unwrap_or_default();
                console.extend(fs::read(self.path("console.log")).unwrap_or_default());
                Error::LabDied { problem, console: last_lines(&console, CONSOLE_LINES) }
            }
        }
    }

    pub(super) fn stop(&self) -> Result<bool> {
        let _starting = FileLock::wait(&self.path("start.lock"))?;
        let running = self.alive()?;
        if running {
            self.power_off()?;
        }
        Ok(running)
    }

    /// Asks the agent first, and ends QEMU if that does not help.
    fn power_off(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(5);
        if let Some((slot, _lock)) = self.free_slot()?
            && let Ok(client) = Client::connect(&self.dir, slot, || self.may_wait(deadline))
        {
            // A machine that has gone by now needs no telling.
            let _ = client.power_off();
            if self.wait_for_end(POWER_OFF_LIMIT)? {
                return Ok(());
            }
        }
        self.kill();
        if self.wait_for_end(POWER_OFF_LIMIT)? { Ok(()) } else { Err(Error::lab("does not end")) }
    }

    fn wait_for_end(&self, limit: Duration) -> Result<bool> {
        let deadline = Instant::now() + limit;
        while self.alive()? {
            self.reap();
            if Instant::now() > deadline {
                return Ok(false);
            }
            thread::sleep(LOOK_AGAIN);
        }
        Ok(true)
    }

    /// Collects a QEMU of ours that has ended, so that it does not linger as a zombie.
    fn reap(&self) {
        if let Some(child) = self.child.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            // What matters is the lock that QEMU holds, not its status.
            let _ = child.try_wait();
        }
    }

    /// Ends QEMU: the process that has our `alive` lock open, whoever started it.
    fn kill(&self) {
        for pid in holders(&self.path("alive.lock")) {
            // SAFETY: kill takes two integers.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        self.reap();
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if self.private.is_some() {
            self.kill();
            // The directory goes next, whether or not QEMU is quick to die.
            let _ = self.wait_for_end(POWER_OFF_LIMIT);
        }
    }
}

/// Processes whose standard input is the file, as QEMU's is its `alive` lock.
fn holders(file: &Path) -> Vec<libc::pid_t> {
    let Ok(file) = file.canonicalize() else { return Vec::new() };
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    processes
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let pid = entry.file_name().to_str()?.parse().ok()?;
            (fs::read_link(entry.path().join("fd/0")).ok()? == file).then_some(pid)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn the_holder_of_a_lock_is_found_and_its_death_releases_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alive.lock");
        let lock = FileLock::wait(&path).unwrap();
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::from(lock.into_file())).spawn().unwrap();
        assert_eq!(holders(&path), [child.id().cast_signed()]);
        assert!(FileLock::try_take(&path).unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(FileLock::try_take(&path).unwrap().is_some());
    }

    #[test]
    fn as_many_slots_as_the_machine_has() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::shared(dir.path().into(), Timing::Fast);
        let taken: Vec<_> = std::iter::from_fn(|| state.free_slot().unwrap()).collect();
        assert_eq!(taken.len(), Timing::Fast.slots());
        assert_eq!(state.slots_in_use().unwrap(), taken.len());
        drop(taken);
        assert_eq!(state.slots_in_use().unwrap(), 0);
    }
}
