//! `sky-img create`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use sky_devices::image::{Format, NewImage, NewImageOptions, format_size, parse_size};

use crate::arguments::required;
use crate::failure::{Outcome, Result};
use crate::output::Output;

/// Make a new image, whose disk reads as zeros
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Format of the new image: raw or selfie
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<Format>,
    /// Put the image in the place of what is there
    #[arg(long)]
    force: bool,
    /// The new file
    file: PathBuf,
    /// Size of the disk
    #[arg(value_parser = parse_size)]
    size: u64,
}

impl Create {
    pub(crate) fn run(&self, output: &Output) -> Result<Outcome> {
        let format = required(self.format, "-f", &self.file)?;
        let options =
            NewImageOptions { path: self.file.clone(), format, size: self.size, replace: self.force };
        NewImage::create(&options)?.finish()?;
        let result = json!({ "filename": self.file, "format": format, "virtual-size": self.size });
        output.print(&result, || {
            format!("{}: a {format} image of {}", self.file.display(), format_size(self.size))
        });
        Ok(Outcome::DONE)
    }
}
