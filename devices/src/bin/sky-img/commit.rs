//! `sky-img commit`.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use clap::Args;

use crate::arguments::Working;
use crate::failure::{Failure, Outcome, Result};
use crate::output::Output;

/// Write what an image holds into its backing image
#[derive(Debug, Args)]
pub(crate) struct Commit {
    #[command(flatten)]
    working: Working,
    /// The image
    file: PathBuf,
}

impl Commit {
    pub(crate) fn run(&self, _output: &Output, _stop: &AtomicBool) -> Result<Outcome> {
        let _ = &self.working;
        Err(Failure::Refused(format!("cannot commit {}", self.file.display())))
    }
}
