//! `sky-img rebase`.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use serde_json::json;
use sky_devices::block::BlockDevice;
use sky_devices::image::{BackingPolicy, Format, Image, ImageSpec, Parent, format_size, reattach, rebase};

use crate::arguments::{Working, required};
use crate::failure::{Outcome, Result};
use crate::output::Output;

/// Put a Selfie image over another backing image, or over none
///
/// The disk stays what it is: what it has from the old backing image and would not have from the new one is written
/// into the image first; an image on its own says of its zeros that they are, where the new one has something else. It can
/// be stopped at any time. With --unsafe nothing is compared or written but the image's record of what lies below.
#[derive(Debug, Args)]
pub(crate) struct Rebase {
    /// The new backing image; without it, or with "", the image becomes one on its own
    #[arg(short, long, value_name = "FILE", value_parser = OsStringValueParser::new().map(PathBuf::from))]
    backing: Option<PathBuf>,
    /// Format of the new backing image: raw or selfie
    #[arg(short = 'F', long, value_name = "FORMAT", requires = "backing")]
    backing_format: Option<Format>,
    /// Only change the record: for a backing image that has moved, or is known to be right
    #[arg(short, long)]
    r#unsafe: bool,
    #[command(flatten)]
    working: Working,
    /// The image
    file: PathBuf,
}

impl Rebase {
    pub(crate) fn run(&self, output: Output, stop: &AtomicBool) -> Result<Outcome> {
        let parent = match self.backing.as_ref().filter(|path| !path.as_os_str().is_empty()) {
            Some(path) => {
                let format = required(self.backing_format, "-F", path)?;
                Some((path.as_path(), Parent::find(path, format, &self.file)?))
            }
            None => None,
        };
        let written = if self.r#unsafe {
            reattach(&self.file, parent.as_ref().map(|(_, parent)| parent))?;
            0
        } else {
            let spec = ImageSpec::new(&self.file, Format::Selfie).read_only().backing(BackingPolicy::Leave);
            let size = Image::open(&spec)?.geometry().size;
            let parent = parent.as_ref().map(|(path, parent)| (*path, parent));
            self.working.run("rebasing", size, stop, |work| rebase(&self.file, parent, work))?
        };
        let result = json!({
            "filename": self.file,
            "backing-filename": parent.as_ref().map(|(_, parent)| &parent.backing.path),
            "written-bytes": written,
        });
        output.print(&result, || {
            let over = parent.as_ref().map_or_else(
                || "on its own".to_owned(),
                |(_, parent)| format!("over {}", parent.backing.path),
            );
            format!("{}: {over}, {} written into it", self.file.display(), format_size(written))
        });
        Ok(Outcome::DONE)
    }
}
