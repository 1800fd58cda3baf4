//! `sky-img dedup`.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use sky_devices::block::Storage;
use sky_devices::idedup::{CheckReport, Collected, Idedup, OpenOptions, Reread, Stage, check};
use sky_devices::image::{Image, format_size};
use sky_devices::layers::{DeviceStorage, LayerKeys, Stack, StackSpec};

use crate::arguments::Source;
use crate::failure::{Failure, Outcome, Result};
use crate::output::Output;
use crate::progress::Progress;

const CORRUPT: Outcome = Outcome(2);
/// Problems that people are shown.
const SHOWN: usize = 20;

/// Look at a deduplicated disk that nobody has open, or collect its garbage
///
/// `create --dedup` makes one, `serve --layers dedup` serves it.
#[derive(Debug, Args)]
pub(crate) struct Dedup {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show how much is stored, and how much that saves
    Stats(Target),
    /// Look for mistakes; all data that the index knows is read and compared with its fingerprint
    Check(Target),
    /// Give back the space that nothing uses, throw claims out of the index that are void, and read the data that it has
    /// lost so that it knows it again
    ///
    /// Killed at any time, it leaves a disk that is whole; what it had done stays. Give it the memory that the disk is
    /// served with.
    Gc(Gc),
}

#[derive(Debug, Args)]
struct Gc {
    #[command(flatten)]
    target: Target,
    /// Read no data: what the index has lost stays lost
    #[arg(long, conflicts_with = "rebuild")]
    quick: bool,
    /// Trust nothing of the index and read all data
    #[arg(long)]
    rebuild: bool,
    /// Memory for the index [default: 32M]
    #[arg(long, value_name = "SIZE")]
    dedup_memory: Option<String>,
    /// Tell the progress even if standard error is no terminal
    #[arg(long)]
    progress: bool,
}

#[derive(Debug, Args)]
struct Target {
    #[command(flatten)]
    source: Source,
    /// The image that holds the disk
    file: PathBuf,
}

impl Target {
    /// The image as the place where the disk lies. It is not changed.
    fn open(&self) -> Result<Arc<dyn Storage>> {
        let image: Image = self.source.open(&self.file)?;
        Ok(Arc::new(DeviceStorage(Arc::new(image))))
    }
}

impl Dedup {
    pub(crate) fn run(&self, output: Output, stop: &AtomicBool) -> Result<Outcome> {
        match &self.action {
            Action::Stats(target) => {
                let options = OpenOptions { read_only: true, ..OpenOptions::default() };
                let disk = Idedup::open(target.open()?, options).map_err(|error| error.on(&target.file))?;
                let stats = disk.stats();
                let result = json!({
                    "filename": target.file,
                    "mapped-blocks": stats.mapped_blocks,
                    "used-blocks": stats.used_blocks,
                    "free-blocks": stats.free_blocks,
                    "saved-bytes": stats.saved_bytes(),
                    "map-memory-bytes": stats.map_memory_bytes,
                });
                output.print(&result, || {
                    let bytes = |blocks: u64| format_size(blocks.saturating_mul(4096));
                    format!(
                        "{}: {} of data in {} of space, {} saved; {} are free\nwhoever serves it needs {} of memory for its map",
                        target.file.display(),
                        bytes(stats.mapped_blocks),
                        bytes(stats.used_blocks),
                        format_size(stats.saved_bytes()),
                        bytes(stats.free_blocks),
                        format_size(stats.map_memory_bytes),
                    )
                });
                Ok(Outcome::DONE)
            }
            Action::Check(target) => {
                let report = check(&target.open()?).map_err(|error| error.on(&target.file))?;
                let mut result = json!(report);
                if let Value::Object(fields) = &mut result {
                    fields.insert("filename".into(), json!(target.file));
                }
                output.print(&result, || text(&target.file, &report));
                Ok(if report.is_clean() { Outcome::DONE } else { CORRUPT })
            }
            Action::Gc(gc) => gc.run(output, stop),
        }
    }
}

impl Gc {
    fn run(&self, output: Output, stop: &AtomicBool) -> Result<Outcome> {
        let mut keys = LayerKeys::default();
        let given = [("layers", Some("dedup")), ("dedup-memory", self.dedup_memory.as_deref())];
        for (key, value) in given {
            if let Some(value) = value {
                keys.set(key, value).map_err(|error| Failure::Usage(error.to_string()))?;
            }
        }
        let spec = StackSpec { image: self.target.source.spec(&self.target.file)?, layers: keys.build()? };
        let disk = Stack::open(&spec)?;
        let reread = match (self.quick, self.rebuild) {
            (true, _) => Reread::Nothing,
            (_, true) => Reread::Everything,
            _ => Reread::Unnamed,
        };
        let collected = match disk.dedup() {
            Some(dedup) => collect(dedup, reread, self.progress, stop),
            None => Err(Failure::Usage("there is no deduplicated disk".into())),
        };
        // Also after Ctrl-C, so that what was done need not be recovered.
        disk.close()?;
        let collected = collected?;
        let mut result = json!(collected);
        if let Value::Object(fields) = &mut result {
            fields.insert("filename".into(), json!(self.target.file));
        }
        output.print(&result, || gc_text(&self.target.file, &collected));
        Ok(Outcome::DONE)
    }
}

fn collect(disk: &Idedup, reread: Reread, forced: bool, stop: &AtomicBool) -> Result<Collected> {
    let mut shown: Option<(Stage, Progress, u64)> = None;
    let collected = disk.collect(reread, &mut |now| {
        let what = match now.stage {
            Stage::Claims => "claims",
            Stage::Data => "data",
            Stage::Space => "free space",
        };
        if let Some((_, bar, _)) = shown.take_if(|(stage, ..)| *stage != now.stage) {
            bar.end();
        }
        let (_, bar, told) =
            shown.get_or_insert_with(|| (now.stage, Progress::new(what, now.total, forced), 0));
        bar.add(now.done.saturating_sub(*told));
        *told = now.done;
        !stop.load(Ordering::Relaxed)
    });
    if let Some((_, bar, _)) = shown {
        bar.end();
    }
    Ok(collected?)
}

fn gc_text(file: &Path, collected: &Collected) -> String {
    let mut text = String::new();
    let bytes = |blocks: u64| format_size(blocks.saturating_mul(4096));
    let Collected { void_claims, torn_buckets, claimed_blocks, twin_blocks, unreadable_blocks, .. } =
        collected;
    // Writing into a string does not fail.
    let _ = writeln!(
        text,
        "{}: {void_claims} void claims and {torn_buckets} torn buckets are out of the index, {claimed_blocks} blocks are in \
         it again",
        file.display()
    );
    if *twin_blocks > 0 {
        let _ = writeln!(text, "{twin_blocks} blocks are stored though others have their fingerprints");
    }
    if *unreadable_blocks > 0 {
        let _ = writeln!(text, "{unreadable_blocks} blocks could not be read");
    }
    let _ = if collected.keeps_space {
        writeln!(text, "what lies below takes no space back")
    } else {
        writeln!(text, "{} are free, and take no space below", bytes(collected.given_back_blocks))
    };
    text
}

fn text(file: &Path, report: &CheckReport) -> String {
    let mut text = String::new();
    // Writing into a string does not fail.
    for block in report.false_claims.iter().take(SHOWN) {
        let _ = writeln!(text, "block {block} does not hold what the index says");
    }
    let verdict = match report.false_claims.len() {
        0 => "nothing is wrong".to_owned(),
        number => format!("{number} blocks do not hold what the index says"),
    };
    let _ = writeln!(text, "{}: {verdict}", file.display());
    let _ = writeln!(
        text,
        "{} blocks of the disk in {} blocks of the image; the index knows {} of them, and {} that are gone",
        report.mapped_blocks, report.used_blocks, report.valid_claims, report.void_claims
    );
    text
}
