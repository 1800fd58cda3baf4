//! `sky-img dedup`.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use sky_devices::block::Storage;
use sky_devices::idedup::{CheckReport, Idedup, OpenOptions, check};
use sky_devices::image::{Image, format_size};
use sky_devices::layers::DeviceStorage;

use crate::arguments::Source;
use crate::failure::{Outcome, Result};
use crate::output::Output;

const CORRUPT: Outcome = Outcome(2);
/// Problems that people are shown.
const SHOWN: usize = 20;

/// Look at a deduplicated disk that nobody has open
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
    pub(crate) fn run(&self, output: Output) -> Result<Outcome> {
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
                });
                output.print(&result, || {
                    let bytes = |blocks: u64| format_size(blocks.saturating_mul(4096));
                    format!(
                        "{}: {} of data in {} of space, {} saved; {} are free",
                        target.file.display(),
                        bytes(stats.mapped_blocks),
                        bytes(stats.used_blocks),
                        format_size(stats.saved_bytes()),
                        bytes(stats.free_blocks),
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
        }
    }
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
