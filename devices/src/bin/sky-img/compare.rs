//! `sky-img compare`.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use clap::Args;
use serde_json::json;
use sky_devices::block::BlockDevice;
use sky_devices::image::{BackingPolicy, Format, ImageSpec, compare};

use crate::arguments::{Working, open, required};
use crate::failure::{Outcome, Result};
use crate::output::Output;

/// Compare the content of two disks
///
/// Where one disk is longer, the other counts as followed by zeros, unless --strict is given.
#[derive(Debug, Args)]
pub(crate) struct Compare {
    /// Format of the first image
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<Format>,
    /// Format of the second image
    #[arg(short = 'F', long, value_name = "FORMAT")]
    second_format: Option<Format>,
    /// Open the images that they name as their backing images, too
    #[arg(long)]
    with_backing: bool,
    /// Disks of different sizes differ
    #[arg(short, long)]
    strict: bool,
    #[command(flatten)]
    working: Working,
    /// The first image
    first: PathBuf,
    /// The second image
    second: PathBuf,
}

impl Compare {
    pub(crate) fn run(&self, output: Output, stop: &AtomicBool) -> Result<Outcome> {
        let policy = if self.with_backing { BackingPolicy::Open } else { BackingPolicy::Refuse };
        let spec = |path: &PathBuf, format| ImageSpec::new(path, format).read_only().backing(policy);
        let first = open(&spec(&self.first, required(self.format, "-f", &self.first)?))?;
        let second = open(&spec(&self.second, required(self.second_format, "-F", &self.second)?))?;
        let size = first.geometry().size.max(second.geometry().size);
        let found = self.working.run("comparing", size, stop, |work| compare(&first, &second, work))?;
        let equal = found.first_difference.is_none() && (found.same_size || !self.strict);
        let result = json!({
            "equal": equal,
            "first-difference": found.first_difference,
            "same-size": found.same_size,
        });
        output.print(&result, || match found.first_difference {
            Some(offset) => format!("the disks differ at byte {offset}"),
            None if found.same_size => "the disks are equal".into(),
            None if equal => "the disks are equal, but for zeros at the end of the longer one".into(),
            None => format!("the disks differ in size: {} and {} bytes", first.size(), second.size()),
        });
        Ok(Outcome(u8::from(!equal)))
    }
}
