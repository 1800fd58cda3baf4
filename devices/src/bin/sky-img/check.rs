//! `sky-img check`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use sky_devices::image::Format;

use crate::arguments::required;
use crate::failure::{Outcome, Result};
use crate::output::Output;

/// The status of `qemu-img check` for the same.
const NOT_SUPPORTED: u8 = 63;

/// Look for mistakes in an image
///
/// The image is not changed.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Format of the image
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<Format>,
    /// The image
    file: PathBuf,
}

impl Check {
    pub(crate) fn run(&self, output: &Output) -> Result<Outcome> {
        let format = required(self.format, "-f", &self.file)?;
        let why = match format {
            Format::Raw => "a raw image has nothing that could be wrong",
            Format::Qcow2 => "`qemu-img check` checks qcow2 images",
            Format::Selfie => "not yet",
        };
        output.print(&json!({ "filename": self.file, "format": format, "supported": false }), || why.into());
        Ok(Outcome(NOT_SUPPORTED))
    }
}
