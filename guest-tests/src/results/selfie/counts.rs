//! System calls of the server and requests at the block device, for each write that allocates.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use super::fio::Load;
use super::image::{Kind, Served};
use crate::command;
use crate::error::{Error, Result};
use crate::packages::{Tool, ensure};
use crate::results::Figures;

/// Writes that are counted.
const WRITES: u64 = 4000;
/// What is written to an image, and how it is made durable. Sockets are written by other calls.
const CALLS: &str = "pwrite64,pwritev,pwritev2,fdatasync,fsync,sync_file_range";
/// Until a server has done in the background what it puts off.
const SETTLE: Duration = Duration::from_secs(3);

pub(super) fn measure() -> Result<Figures> {
    let mut figures = Figures::new();
    for kind in Kind::ALL {
        let prefix = if kind == Kind::Selfie { String::new() } else { format!("{}.", kind.name()) };
        let mut tell = |key: &str, value: f64| {
            figures.insert(format!("{prefix}{key}_per_alloc_4k"), (value * 1000.0).round() / 1000.0);
        };
        let [writes, flushes] = calls(&Served::new(kind)?)?;
        tell("writes", writes);
        tell("flushes", flushes);
        let [writes, flushes, kib] = device(&Served::new(kind)?)?;
        tell("device_writes", writes);
        tell("device_flushes", flushes);
        tell("device_kib", kib);
    }
    Ok(figures)
}

/// Writes and syncs of the server per write of the client. The first ones, which an image needs only once, are not
/// counted.
fn calls(served: &Served) -> Result<[f64; 2]> {
    Load::allocating(1, 64).run(served)?;
    let log = served.path().with_extension("strace");
    let mut strace = ensure(Tool::Strace)?;
    strace.args(["-f", "-c", "-e"]).arg(format!("trace={CALLS}")).arg("-o").arg(&log);
    strace.args(["-p", &served.pid().to_string()]).stdin(Stdio::null()).stderr(Stdio::null());
    let strace = strace.spawn().map_err(|source| Error::Spawn { program: "strace".into(), source })?;
    thread::sleep(Duration::from_millis(500));
    let count = Load::allocating(1, WRITES).run(served)?.count;
    end(strace)?;
    let text = fs::read_to_string(&log).map_err(Error::file("read", &log))?;
    let [writes, syncs] = summary(&text);
    Ok([writes / count, syncs / count])
}

/// strace writes its summary when it is interrupted.
fn end(mut strace: Child) -> Result<()> {
    command::run(Command::new("kill").args(["-s", "INT", &strace.id().to_string()]))?;
    strace.wait().map(drop).map_err(|source| Error::Spawn { program: "strace".into(), source })
}

/// Writes and syncs in a summary of strace.
fn summary(text: &str) -> [f64; 2] {
    let mut sums = [0.0; 2];
    for line in text.lines() {
        let fields: Vec<_> = line.split_whitespace().collect();
        // "% time  seconds  usecs/call  calls  [errors]  syscall"
        let (Some(calls), Some(name)) = (fields.get(3), fields.last()) else { continue };
        let Ok(calls) = calls.parse::<f64>() else { continue };
        if name.starts_with("pwrite") {
            sums[0] += calls;
        } else if name.ends_with("sync") {
            sums[1] += calls;
        }
    }
    sums
}

/// Writes, flushes and KiB at the disk below the file system per write of the client. Whatever else the host does
/// meanwhile is in it.
fn device(served: &Served) -> Result<[f64; 3]> {
    Load::allocating(1, 64).run(served)?;
    thread::sleep(SETTLE);
    let before = Disk::below(served.path())?;
    let count = Load::allocating(1, WRITES).run(served)?.count;
    let after = Disk::below(served.path())?;
    Ok([
        (after.writes - before.writes) / count,
        (after.flushes - before.flushes) / count,
        (after.sectors - before.sectors) / 2.0 / count,
    ])
}

/// Counters of a block device since the host has started.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Disk {
    writes: f64,
    sectors: f64,
    flushes: f64,
}

impl Disk {
    /// Those of the whole disk that a file is on.
    fn below(file: &Path) -> Result<Self> {
        let device = fs::metadata(file).map_err(Error::file("look at", file))?.dev();
        let link = format!("/sys/dev/block/{}:{}", libc::major(device), libc::minor(device));
        let node = fs::canonicalize(&link).map_err(Error::file("find", &link))?;
        // Flushes are counted for whole disks, and partitions lie in the folder of theirs.
        let whole = match node.join("partition").exists() {
            true => node.parent().unwrap_or(&node),
            false => &node,
        };
        let stat = whole.join("stat");
        let text = fs::read_to_string(&stat).map_err(Error::file("read", &stat))?;
        Self::parse(&text)
            .ok_or_else(|| Error::Format { path: stat, problem: "fewer counters than Linux has".into() })
    }

    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<f64> =
            text.split_whitespace().map(str::parse).collect::<std::result::Result<_, _>>().ok()?;
        Some(Self { writes: *fields.get(4)?, sectors: *fields.get(6)?, flushes: *fields.get(15)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_read_with_and_without_errors() {
        let text = "% time     seconds  usecs/call     calls    errors syscall\n\
                    ------ ----------- ----------- --------- --------- ----------------\n\
                     90.00    1.000000         100      2000           fdatasync\n\
                     10.00    0.100000          10      6001         1 pwritev\n\
                      0.00    0.000000           0         5           pwrite64\n\
                    ------ ----------- ----------- --------- --------- ----------------\n\
                    100.00    1.100000                   8006         1 total\n";
        assert_eq!(summary(text), [6006.0, 2000.0]);
        assert_eq!(summary(""), [0.0, 0.0]);
    }

    #[test]
    fn counters_of_a_disk_are_read() {
        let text = " 1 2 3 4 50 6 700 8 9 10 11 12 13 14 15 160 17\n";
        assert_eq!(Disk::parse(text), Some(Disk { writes: 50.0, sectors: 700.0, flushes: 160.0 }));
        assert_eq!(Disk::parse("1 2 3"), None);
    }
}
