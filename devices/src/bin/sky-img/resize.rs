//! `sky-img resize`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;
use sky_devices::image::{BackingPolicy, Format, ImageSpec, format_size, parse_size};

use crate::arguments::{open, required};
use crate::failure::{Failure, Outcome, Result};
use crate::output::Output;

/// Make a disk larger
///
/// What is new reads as zeros. A disk is not made smaller: that would cut off what is behind the new end.
#[derive(Debug, Args)]
pub(crate) struct Resize {
    /// Format of the image: raw or selfie
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<Format>,
    /// The image
    file: PathBuf,
    /// The new size, or with + before it what is to be added
    #[arg(value_parser = parse_change)]
    size: Change,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    To(u64),
    By(u64),
}

fn parse_change(text: &str) -> std::result::Result<Change, sky_devices::image::NotASize> {
    match text.strip_prefix('+') {
        Some(more) => parse_size(more).map(Change::By),
        None => parse_size(text).map(Change::To),
    }
}

impl Resize {
    pub(crate) fn run(&self, output: Output) -> Result<Outcome> {
        let format = required(self.format, "-f", &self.file)?;
        let image = open(&ImageSpec::new(&self.file, format).backing(BackingPolicy::Open))?;
        let old = image.size();
        let new = wanted(&self.file, old, self.size)?;
        image.grow(new)?;
        let result = json!({ "filename": self.file, "old-virtual-size": old, "virtual-size": new });
        output.print(&result, || {
            format!("{}: {} has become {}", self.file.display(), format_size(old), format_size(new))
        });
        Ok(Outcome::DONE)
    }
}

const TOO_LARGE: &str = "no disk is that large";

fn wanted(file: &Path, old: u64, change: Change) -> Result<u64> {
    let refuse = |why: String| Err(Failure::Refused(format!("cannot resize {}: {why}", file.display())));
    let Some(new) = (match change {
        Change::To(size) => Some(size),
        Change::By(more) => old.checked_add(more),
    }) else {
        return refuse(TOO_LARGE.into());
    };
    if i64::try_from(new).is_err() {
        return refuse(TOO_LARGE.into());
    }
    if new < old {
        return refuse(format!("it has {old} bytes, and making it smaller would cut off data"));
    }
    Ok(new)
}
