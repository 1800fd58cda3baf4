//! `sky-img create`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use sky_devices::image::{Format, NewImage, NewImageOptions, Parent, format_size, parse_size};
use sky_devices::layers::{NewDedup, create_dedup};

use crate::arguments::required;
use crate::failure::{Failure, Outcome, Result};
use crate::output::Output;

/// Make a new image, whose disk reads as zeros, or as that of another image
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Format of the new image: raw or selfie
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<Format>,
    /// Put a Selfie image over this one: what is not written is read there, and that image must not be changed
    #[arg(short, long, value_name = "FILE")]
    backing: Option<PathBuf>,
    /// Format of the image below: raw or selfie
    #[arg(short = 'F', long, value_name = "FORMAT", requires = "backing")]
    backing_format: Option<Format>,
    /// How far a Selfie image can grow; it needs a little more room in memory and on the medium for that
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_size: Option<u64>,
    /// Store equal blocks once: the image holds a deduplicated disk, to be opened with layers=dedup
    #[arg(long, conflicts_with_all = ["backing", "max_size"])]
    dedup: bool,
    /// Room for blocks that differ in a deduplicated disk [default: that of the disk and a little more]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, requires = "dedup")]
    capacity: Option<u64>,
    /// Put the image in the place of what is there
    #[arg(long)]
    force: bool,
    /// The new file
    file: PathBuf,
    /// Size of the disk; that of the image below, if there is one
    #[arg(value_parser = parse_size)]
    size: Option<u64>,
}

impl Create {
    pub(crate) fn run(&self, output: Output) -> Result<Outcome> {
        let format = required(self.format, "-f", &self.file)?;
        let parent = match &self.backing {
            Some(path) => Some(Parent::find(path, required(self.backing_format, "-F", path)?, &self.file)?),
            None => None,
        };
        let Some(size) = self.size.or(parent.as_ref().map(Parent::size)) else {
            return Err(Failure::Usage("the size of the disk must be given".into()));
        };
        let options = NewImageOptions {
            max_size: self.max_size,
            backing: parent.map(|parent| parent.backing),
            replace: self.force,
            ..NewImageOptions::new(&self.file, format, size)
        };
        if self.dedup {
            return self.dedup(options, output);
        }
        NewImage::create(&options)?.finish()?;
        let backing = options.backing.as_ref().map(|backing| &backing.path);
        let result = json!({ "filename": self.file, "format": format, "virtual-size": size, "backing-filename": backing });
        output.print(&result, || {
            let over = backing.map_or_else(String::new, |backing| format!(" over {backing}"));
            format!("{}: a {format} image of {}{over}", self.file.display(), format_size(size))
        });
        Ok(Outcome::DONE)
    }

    fn dedup(&self, image: NewImageOptions, output: Output) -> Result<Outcome> {
        let (format, size) = (image.format, image.size);
        let bytes = create_dedup(&NewDedup { image, capacity: self.capacity })?;
        let result = json!({
            "filename": self.file, "format": format, "virtual-size": size, "layers": "dedup", "image-size": bytes,
        });
        output.print(&result, || {
            let (size, bytes) = (format_size(size), format_size(bytes));
            format!("{}: a deduplicated disk of {size}, in a {format} image of {bytes}", self.file.display())
        });
        Ok(Outcome::DONE)
    }
}
