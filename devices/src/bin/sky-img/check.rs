//! `sky-img check`.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use clap::Args;
use serde_json::{Value, json};
use sky_devices::block::{BlockDevice, FileOptions, FileStorage};
use sky_devices::image::{
    BackingPolicy, Format, Image, ImageSpec, NewImage, NewImageOptions, Salvaged, format_size, salvage,
};
use sky_devices::selfie::{CheckReport, Leaks, check};

use crate::arguments::{Working, required};
use crate::failure::{Failure, Outcome, Result};
use crate::output::Output;

/// The statuses of `qemu-img check` for the same.
const CORRUPT: Outcome = Outcome(2);
const LEAKS: Outcome = Outcome(3);
const NOT_SUPPORTED: Outcome = Outcome(63);
/// Problems that people are shown.
const SHOWN: usize = 20;

/// Look for mistakes in an image
///
/// The image is not changed. An image that was not closed is recovered when it is opened next; that is no mistake.
///
/// Leaks are space that the image takes and nothing uses, after a crash or an error of the medium. They do no harm, and
/// come back when all of their zone (64 MiB) is given up, or with a copy of the image.
///
/// With --repair-to, what can be read is copied into a new image, and what was lost is told. The damaged image stays
/// as it is.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Format of the image
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<Format>,
    /// Copy what can be read into this new Selfie image
    #[arg(long, value_name = "FILE")]
    repair_to: Option<PathBuf>,
    #[command(flatten)]
    working: Working,
    /// The image
    file: PathBuf,
}

impl Check {
    pub(crate) fn run(&self, output: Output, stop: &AtomicBool) -> Result<Outcome> {
        let format = required(self.format, "-f", &self.file)?;
        let why = match format {
            Format::Selfie => return self.check(output, stop),
            Format::Raw => "a raw image has nothing that could be wrong",
            Format::Qcow2 => "qemu-img check does that for qcow2 images",
        };
        let result = json!({ "filename": self.file, "format": format, "supported": false });
        output.print(&result, || format!("{}: {why}", self.file.display()));
        Ok(NOT_SUPPORTED)
    }

    fn check(&self, output: Output, stop: &AtomicBool) -> Result<Outcome> {
        let storage = FileStorage::open(FileOptions { read_only: true, ..FileOptions::new(&self.file) })?;
        let report = check(&storage).map_err(|error| error.on(&self.file))?;
        drop(storage);
        let saved = match &self.repair_to {
            Some(new) => Some(self.repair(new, stop)?),
            None => None,
        };
        let mut result = json!(report);
        if let Value::Object(fields) = &mut result {
            fields.insert("filename".into(), json!(self.file));
            fields.insert("repair".into(), json!(saved));
        }
        output.print(&result, || text(&self.file, &report, saved.as_ref()));
        Ok(match report.is_clean() {
            false => CORRUPT,
            true if report.has_leaks() => LEAKS,
            true => Outcome::DONE,
        })
    }

    fn repair(&self, new: &Path, stop: &AtomicBool) -> Result<Salvaged> {
        let spec = ImageSpec::new(&self.file, Format::Selfie).read_only().backing(BackingPolicy::Leave);
        let source = Image::open(&ImageSpec { tolerant: true, ..spec })?;
        let size = source.geometry().size;
        let backing = source.recorded_backing().cloned();
        let new = NewImage::create(&NewImageOptions {
            backing,
            ..NewImageOptions::new(new, Format::Selfie, size)
        })?;
        let saved = self.working.run("repairing", size, stop, |work| salvage(&source, new.image(), work))?;
        new.finish()?;
        Ok::<_, Failure>(saved)
    }
}

fn text(file: &Path, report: &CheckReport, saved: Option<&Salvaged>) -> String {
    let mut text = String::new();
    // Writing into a string does not fail.
    let mut line = |line: String| {
        let _ = writeln!(text, "{line}");
    };
    for problem in report.errors.iter().take(SHOWN) {
        line(problem.to_string());
    }
    if report.errors.len() > SHOWN {
        line(format!("... and {} more", report.errors.len() - SHOWN));
    }
    let verdict = match report.errors.len() {
        0 if report.marked_corrupt => "nothing is wrong now, but it is marked as corrupt".into(),
        0 => "nothing is wrong".into(),
        number => format!("{number} mistakes"),
    };
    line(format!("{}: {verdict}", file.display()));
    if report.dirty {
        line("It was not closed: it will be recovered when it is opened next.".into());
    }
    match report.leaks {
        Some(Leaks { clusters, bytes }) if clusters > 0 => {
            line(format!("{clusters} leaked clusters: {} that nothing uses", format_size(bytes)));
        }
        None if report.errors.is_empty() => {
            line("What is below does not say which space it takes: leaks are not known.".into());
        }
        _ => {}
    }
    let clusters = [report.embedded_clusters, report.plain_clusters, report.dead_clusters];
    let [embedded, plain, dead] = clusters;
    line(format!("{embedded} clusters carry their mapping, {plain} do not, {dead} wait to be used again"));
    if let Some(Salvaged { data, lost, ranges }) = saved {
        line(format!("{} copied, {} lost", format_size(*data), format_size(*lost)));
        for (offset, length) in ranges.iter().take(SHOWN) {
            line(format!("lost: {length} bytes at {offset}"));
        }
    }
    text
}
