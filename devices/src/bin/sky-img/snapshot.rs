//! `sky-img snapshot`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use sky_devices::image::{Format, NewImage, NewImageOptions, Parent};

use crate::arguments::required;
use crate::failure::{Outcome, Result};
use crate::output::Output;

/// Keep a disk as it is now, and go on in an overlay
///
/// The overlay is a Selfie image over FILE and reads as it. From now on the machine is to use the overlay: FILE has to
/// stay as it is, which the overlay checks whenever it is opened. `sky-img commit` brings what has been written back.
#[derive(Debug, Args)]
pub(crate) struct Snapshot {
    /// Format of the image: raw or selfie
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<Format>,
    /// The image to keep
    file: PathBuf,
    /// The new image over it
    overlay: PathBuf,
}

impl Snapshot {
    pub(crate) fn run(&self, output: Output) -> Result<Outcome> {
        let format = required(self.format, "-f", &self.file)?;
        let parent = Parent::find(&self.file, format, &self.overlay)?;
        let size = parent.size();
        let backing = Some(parent.backing);
        let options =
            NewImageOptions { backing, ..NewImageOptions::new(&self.overlay, Format::Selfie, size) };
        NewImage::create(&options)?.finish()?;
        let result = json!({ "filename": self.overlay, "backing-filename": self.file, "virtual-size": size });
        output.print(&result, || format!("{}: over {}", self.overlay.display(), self.file.display()));
        Ok(Outcome::DONE)
    }
}
