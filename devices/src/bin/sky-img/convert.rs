//! `sky-img convert`.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use clap::Args;
use serde_json::json;
use sky_devices::image::{CopyOptions, Format, NewImage, NewImageOptions, copy, format_size};

use crate::arguments::{Source, Working, required};
use crate::failure::{Outcome, Result};
use crate::output::Output;

/// Copy a disk into a new image, of the same or another format
///
/// Zeros are left out of the new image, whether the source holds them or not. The new image appears under its name
/// when all of it is on the medium; if the copy fails or is stopped, nothing is left of it.
#[derive(Debug, Args)]
pub(crate) struct Convert {
    #[command(flatten)]
    source: Source,
    /// Format of the new image: raw or selfie
    #[arg(short = 'O', long, value_name = "FORMAT")]
    output_format: Option<Format>,
    /// Put the new image in the place of what is there; a block device is written only with this
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    working: Working,
    /// The image to copy
    from: PathBuf,
    /// The new image
    to: PathBuf,
}

impl Convert {
    pub(crate) fn run(&self, output: Output, stop: &AtomicBool) -> Result<Outcome> {
        let format = required(self.output_format, "-O", &self.to)?;
        let source = self.source.open(&self.from)?;
        let size = source.size();
        let new = NewImage::create(&NewImageOptions {
            replace: self.force,
            ..NewImageOptions::new(&self.to, format, size)
        })?;
        let options = CopyOptions { granularity: new.image().cluster_size(), zeroed: new.is_zeroed() };
        let copied =
            self.working.run("converting", size, stop, |work| copy(&source, new.image(), options, work))?;
        new.finish()?;
        let result = json!({
            "filename": self.to,
            "format": format,
            "virtual-size": size,
            "data-bytes": copied.data,
            "zero-bytes": copied.zeroes,
        });
        output.print(&result, || {
            format!(
                "{}: {} of data, {} of zeros left out",
                self.to.display(),
                format_size(copied.data),
                format_size(copied.zeroes)
            )
        });
        Ok(Outcome::DONE)
    }
}
