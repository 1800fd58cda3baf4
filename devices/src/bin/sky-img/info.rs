//! `sky-img info`.

use std::fmt::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use sky_devices::image::{BackingPolicy, Format, Image, ImageSpec, NamedBacking, format_size};
use sky_devices::selfie::{self, Selfie};

use crate::arguments::{open, required};
use crate::failure::{Failure, Outcome, Result};
use crate::output::Output;

/// Show what an image says of itself
///
/// The image is not changed, and what it names as its backing image is not opened without --with-backing.
#[derive(Debug, Args)]
pub(crate) struct Info {
    /// Format of the image: raw, qcow2 or selfie
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<Format>,
    /// Show the images below it, too: then the result is a list
    #[arg(long)]
    with_backing: bool,
    /// The image
    file: PathBuf,
}

/// One image; the keys are those of `qemu-img info --output=json` where it has them.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Report {
    filename: PathBuf,
    format: Format,
    virtual_size: u64,
    file_size: u64,
    actual_size: u64,
    cluster_size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    backing_filename: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backing_filename_format: Option<String>,
    /// It is open, or was when its user died.
    #[serde(skip_serializing_if = "Option::is_none")]
    dirty_flag: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    format_specific: Option<Specific>,
}

#[derive(Debug, Serialize)]
struct Specific {
    r#type: Format,
    data: selfie::Info,
}

impl Info {
    pub(crate) fn run(&self, output: Output) -> Result<Outcome> {
        let format = required(self.format, "-f", &self.file)?;
        let policy = if self.with_backing { BackingPolicy::Open } else { BackingPolicy::Leave };
        // A damaged image can say something of itself, too.
        let spec = ImageSpec::new(&self.file, format).read_only().backing(policy);
        let image = open(&ImageSpec { tolerant: true, ..spec })?;
        let reports = image.chain().map(report).collect::<Result<Vec<_>>>()?;
        match reports.as_slice() {
            [one] if !self.with_backing => output.print(one, || text(one)),
            all => output.print(&all, || all.iter().map(text).collect::<Vec<_>>().join("\n")),
        }
        Ok(Outcome::DONE)
    }
}

fn report(image: &Image) -> Result<Report> {
    let (file_size, actual_size) = file_sizes(image.path())?;
    let (backing_filename, backing_filename_format) = match image.named_backing() {
        Some(NamedBacking { name, format }) => (Some(name), format),
        None => (None, None),
    };
    let selfie = image.selfie().map(Selfie::info);
    Ok(Report {
        filename: image.path().to_owned(),
        format: image.format(),
        virtual_size: image.size(),
        file_size,
        actual_size,
        cluster_size: image.cluster_size(),
        backing_filename,
        backing_filename_format,
        dirty_flag: selfie.as_ref().map(|info| info.flags.dirty),
        format_specific: selfie.map(|data| Specific { r#type: Format::Selfie, data }),
    })
}

/// Length of the file, and the space that it takes, in bytes.
fn file_sizes(path: &Path) -> Result<(u64, u64)> {
    let metadata = std::fs::metadata(path)
        .map_err(|error| Failure::System(format!("look at {}", path.display()), error))?;
    Ok((metadata.len(), metadata.blocks().saturating_mul(512)))
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing into a string does not fail.
        let _ = writeln!(text, "{name:<14} {value}");
    };
    let size = |bytes| format!("{} ({bytes} bytes)", format_size(bytes));
    line("image", report.filename.display().to_string());
    line("format", report.format.to_string());
    line("disk size", size(report.virtual_size));
    line("file size", size(report.file_size));
    line("space taken", size(report.actual_size));
    line("cluster size", format_size(report.cluster_size));
    if let Some(name) = &report.backing_filename {
        let format = report.backing_filename_format.as_deref().unwrap_or("no format recorded");
        line("backing image", format!("{name} ({format})"));
    }
    if let Some(Specific { data, .. }) = &report.format_specific {
        line("can grow to", format_size(data.max_size));
        line("uuid", data.uuid.clone());
        line("generation", data.generation.to_string());
        let state = match (data.flags.corrupt, data.flags.dirty) {
            (true, _) => "marked as corrupt: sky-img check says more",
            (false, true) => "not closed: it is recovered when it is opened for writing",
            (false, false) => "clean",
        };
        line("state", state.into());
        let [embedded, plain, zero] = [data.embedded_clusters, data.plain_clusters, data.zero_clusters];
        line("clusters", format!("{embedded} carry their mapping, {plain} do not, {zero} are zeros"));
        line("zones", format!("{} Z, {} N, {} free again", data.z_zones, data.n_zones, data.free_zones));
        line("memory", format_size(data.memory));
    }
    text
}
