//! `sky-img commit`.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use clap::Args;
use serde_json::json;
use sky_devices::block::{BlockDevice, Cache};
use sky_devices::image::{BackingPolicy, Format, Image, ImageSpec, commit, format_size};

use crate::arguments::Working;
use crate::failure::{Outcome, Result};
use crate::output::Output;

/// Write what a Selfie image holds into the image below it
///
/// Both then read the same, and the image over it can be deleted or used on. Other images over the same backing image
/// are lost by this: they refuse to be opened.
///
/// If it is stopped, the image still holds all of its part, and its backing image some of it as well; `sky-img rebase
/// --unsafe` makes the two fit again, and then it can be repeated.
#[derive(Debug, Args)]
pub(crate) struct Commit {
    /// Use the host's page cache
    #[arg(long)]
    buffered: bool,
    #[command(flatten)]
    working: Working,
    /// The image over another one
    file: PathBuf,
}

impl Commit {
    pub(crate) fn run(&self, output: Output, stop: &AtomicBool) -> Result<Outcome> {
        let spec = ImageSpec::new(&self.file, Format::Selfie).read_only().backing(BackingPolicy::Leave);
        let size = Image::open(&spec)?.geometry().size;
        let cache = self.buffered.then_some(Cache::Buffered);
        let copied = self.working.run("committing", size, stop, |work| commit(&self.file, cache, work))?;
        let result = json!({ "filename": self.file, "data-bytes": copied.data, "zero-bytes": copied.zeroes });
        output.print(&result, || {
            let [data, zeroes] = [copied.data, copied.zeroes].map(format_size);
            format!("{}: {data} of data and {zeroes} of zeros went into the image below", self.file.display())
        });
        Ok(Outcome::DONE)
    }
}
