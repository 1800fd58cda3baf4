//! How right Sky is: what it says of each block of a disk, held against what the file system says in the end.
//!
//! ```text
//!   guest: programs write, copy, encrypt, read ──▶ --block-log ───────────────┐
//!          extents: where each file lies (FIEMAP) ──▶ Truth ──▶ judge ──▶ figures, and what was missed
//!   image: dumpe2fs, xfs_db, btrfs: what is nobody's file ──▶┘
//! ```
//!
//! Each file system is used twice: by monitored and other processes with `assume = "partial"`, and by monitored ones only
//! with `assume = "complete"`.

mod image;
mod judge;
mod script;
mod truth;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use self::image::FileSystem;
use self::judge::Verdict;
use self::script::{MOUNTED, script};
use self::truth::Truth;
use super::{Benchmark, Figures, Goal, Metric, Part, Setting};
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::guest::{GuestRun, Scratch};
use crate::packages::{Flavour, Kernel, linux_headers};
use crate::progress;

const RIGHT: Option<Goal> = Some(Goal::AtLeast(99.5));
const NONE: Option<Goal> = Some(Goal::AtMost(0.0));

macro_rules! metrics {
    ($($name:literal)*) => { &[$(
        Metric { key: concat!($name, ".writes_right_percent"), unit: "%", reference: None, goal: RIGHT },
        Metric {
            key: concat!($name, ".reads_right_percent"),
            unit: "%",
            reference: None,
            goal: Some(Goal::AtLeast(98.0)),
        },
        Metric { key: concat!($name, ".metadata_as_data"), unit: "", reference: None, goal: NONE },
        Metric { key: concat!($name, ".unmonitored_as_data"), unit: "", reference: None, goal: NONE },
        Metric { key: concat!($name, ".complete_metadata_right_percent"), unit: "%", reference: None, goal: RIGHT },
    )*] };
}

const fn part(name: &'static str, measure: fn() -> Result<Figures>) -> Part {
    Part { name, setting: Setting::Kvm, prepare, measure }
}

pub(super) const ACCURACY: Benchmark = Benchmark {
    name: "accuracy",
    about: "what is said of blocks against what the file system says of them (about 20 min)",
    metrics: metrics! { "ext4" "ext4_journal" "ext3" "xfs" "btrfs" },
    charts: &[],
    parts: &[
        part("ext4", || partial(FileSystem::Ext4)),
        part("ext4-complete", || complete(FileSystem::Ext4)),
        part("ext4-journal", || partial(FileSystem::Ext4Journal)),
        part("ext4-journal-complete", || complete(FileSystem::Ext4Journal)),
        part("ext3", || partial(FileSystem::Ext3)),
        part("ext3-complete", || complete(FileSystem::Ext3)),
        part("xfs", || partial(FileSystem::Xfs)),
        part("xfs-complete", || complete(FileSystem::Xfs)),
        part("btrfs", || partial(FileSystem::Btrfs)),
        part("btrfs-complete", || complete(FileSystem::Btrfs)),
    ],
};

const KERNEL: Flavour = Flavour::Cloud61;
const DISK: u64 = 1;
/// Room for what `extents` prints, in MiB.
const LIST: u64 = 16;
const LIMIT: Duration = Duration::from_secs(450);
const PROGRAMS: [&str; 11] =
    ["tar", "sqlite3", "gpg", "gpg-agent", "cp", "dd", "git", "sha256sum", "postmark", "fio", "writer"];

fn prepare() -> Result<()> {
    FileSystem::prepare()?;
    linux_headers()?;
    crate::guest::file_systems(&Kernel::get(KERNEL)?).map(drop)
}

fn partial(kind: FileSystem) -> Result<Figures> {
    let rules = PROGRAMS.map(|program| format!("[[process]]\nexecutable = '{program}'\n")).concat();
    let verdict = run(kind, &rules, true)?;
    let name = kind.name();
    Ok(Figures::from([
        (format!("{name}.writes_right_percent"), percent(verdict.writes)),
        (format!("{name}.reads_right_percent"), percent(verdict.reads)),
        (format!("{name}.metadata_as_data"), number(verdict.metadata_as_data)),
        (format!("{name}.unmonitored_as_data"), number(verdict.unmonitored_as_data)),
    ]))
}

fn complete(kind: FileSystem) -> Result<Figures> {
    let rules = "[[process]]\nexecutable = '*'\n[insight]\nassume = 'complete'\n";
    let verdict = run(kind, rules, false)?;
    let key = format!("{}.complete_metadata_right_percent", kind.name());
    Ok(Figures::from([(key, percent(verdict.metadata))]))
}

/// Has a guest use the file system, and judges.
fn run(kind: FileSystem, rules: &str, others: bool) -> Result<Verdict> {
    let scratch = Scratch::new()?;
    let kernel = Kernel::get(KERNEL)?;
    let disk = kind.make(&scratch.path("disk.img"))?;
    let list = Disk::blank(scratch.path("list.img"), LIST)?;
    let monitor = scratch.path("monitor.toml");
    std::fs::write(&monitor, rules).map_err(Error::file("write", &monitor))?;
    let log = scratch.path("blocks.json");
    let initramfs = scratch.initramfs_for_file_systems(&kernel, &script(kind, others))?;
    let finished = GuestRun::new(&kernel.vmlinux()?, &initramfs)
        .rootfs()?
        .disk(&disk)
        .disk(&list)
        .disk(&Disk::existing(linux_headers()?))
        .monitor(&monitor)
        .option("--block-log", &log)
        .timeout(LIMIT)
        .run()?
        .ok()?;
    if finished.marker("DONE")? != "yes" {
        return Err(Error::Guest { problem: "something failed".into(), output: finished.serial });
    }
    let bad = |what: &str| Error::Format { path: scratch.path(what), problem: "says something else".into() };
    let truth = Truth::new(&text(&list)?, &kind.layout(&disk)?).ok_or_else(|| bad("list.img"))?;
    let lines = std::fs::read_to_string(&log).map_err(Error::file("read", &log))?;
    let verdict = judge::judge(&lines, DISK, MOUNTED, &truth).ok_or_else(|| bad("blocks.json"))?;
    tell(kind, others, &verdict);
    Ok(verdict)
}

/// What was written to the beginning of a disk.
fn text(disk: &Disk) -> Result<String> {
    let file = std::fs::File::open(disk.path()).map_err(Error::file("open", disk.path()))?;
    let mut bytes = vec![0; usize::try_from(LIST << 20).unwrap_or_default()];
    file.read_exact_at(&mut bytes, 0).map_err(Error::file("read", disk.path()))?;
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The matrix, and what was missed: for people.
fn tell(kind: FileSystem, others: bool, verdict: &Verdict) {
    let mode = if others { "partial" } else { "complete" };
    let mut text = format!(
        "\n{} ({mode}): blocks, by what they are, and by what their last write was taken for\n",
        kind.name()
    );
    text += &matrix(&verdict.matrix);
    let shares = [("written", verdict.writes), ("read", verdict.reads), ("metadata", verdict.metadata)];
    // Nothing is called metadata where others may have written.
    let shares = shares.iter().filter(|(what, _)| !(others && *what == "metadata"));
    for (what, (all, right)) in shares {
        text += &format!("  {what}: {right} of {all} right\n");
    }
    for (remark, count) in &verdict.remarks {
        text += &format!("  {count} x {remark}\n");
    }
    progress::tell(&text);
}

/// A confusion matrix: a line for each thing that a block can be, a column for each that it can be taken for.
fn matrix(counts: &BTreeMap<(&'static str, String), u64>) -> String {
    let lines: BTreeSet<&str> = counts.keys().map(|(truth, _)| *truth).collect();
    let columns: BTreeSet<&str> = counts.keys().map(|(_, said)| said.as_str()).collect();
    let mut text = format!("  {:<18}", "");
    columns.iter().for_each(|said| text += &format!(" {said:>9}"));
    for truth in lines {
        text += &format!("\n  {truth:<18}");
        for said in &columns {
            let count = counts.get(&(truth, (*said).to_owned())).copied().unwrap_or_default();
            text += &format!(" {count:>9}");
        }
    }
    text + "\n"
}

#[expect(clippy::cast_precision_loss, reason = "blocks are counted in thousands")]
fn number(count: u64) -> f64 {
    count as f64
}

/// Nothing to be right about is a mistake of the measurement.
fn percent((all, right): (u64, u64)) -> f64 {
    if all == 0 { 0.0 } else { number(right) / number(all) * 100.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_has_a_place_for_every_pair() {
        let counts =
            [(("journal", "metadata"), 7), (("monitored", "data"), 10365), (("monitored", "unknown"), 2)];
        let counts = counts.map(|((truth, said), count)| ((truth, said.to_owned()), count)).into();
        let lines = [
            "                          data  metadata   unknown",
            "  journal                    0         7         0",
            "  monitored              10365         0         2",
        ];
        assert_eq!(matrix(&counts), lines.join("\n") + "\n");
    }

    #[test]
    fn every_file_system_has_its_figures() {
        for kind in FileSystem::ALL {
            let prefix = format!("{}.", kind.name());
            assert_eq!(ACCURACY.metrics.iter().filter(|metric| metric.key.starts_with(&prefix)).count(), 5);
        }
        assert_eq!(ACCURACY.metrics.len(), 5 * FileSystem::ALL.len());
        assert_eq!(ACCURACY.parts.len(), 2 * FileSystem::ALL.len());
    }
}
