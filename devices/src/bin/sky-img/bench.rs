//! `sky-img bench`: a load of our own, and what it costs.

mod generator;
mod report;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use clap::{Args, ValueEnum};
use sky_devices::image::parse_size;

use crate::arguments::{Source, open};
use crate::failure::{Failure, Outcome, Result};
use crate::output::Output;

use generator::Load;

/// Bytes of one request at most.
const LARGEST: u64 = 16 << 20;

/// Measure an image under load
///
/// Requests of one size go to the disk from several threads, each of which waits for one before it sends the next.
/// Printed are requests per second, how long a request takes (the median and the slowest in a hundred), and how many
/// writes and syncs of the file below each request has cost.
///
/// With --write the content of the disk is lost.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    #[command(flatten)]
    source: Source,
    /// Write, and so destroy what the disk holds; without this, read
    #[arg(short, long)]
    write: bool,
    /// Where requests go: one after the other, each thread in a part of its own, or anywhere
    #[arg(short, long, value_name = "seq|rand", default_value = "rand")]
    pattern: Pattern,
    /// Bytes of a request
    #[arg(short = 's', long, value_name = "SIZE", value_parser = parse_size, default_value = "4K")]
    size: u64,
    /// Requests in flight, each from a thread
    #[arg(short, long, visible_alias = "threads", value_name = "N", default_value = "1")]
    depth: NonZeroUsize,
    /// Requests in all
    #[arg(short, long, value_name = "N", default_value = "10000")]
    count: u64,
    /// Flush after every so many writes of a thread; 0 is never
    #[arg(long, value_name = "N", default_value = "0")]
    flush_interval: u64,
    /// What is written
    #[arg(long, value_name = "text|random|zero", default_value = "text")]
    data: Data,
    /// Begin of the random numbers: the same one gives the same requests
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,
    /// The image
    file: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pattern {
    Seq,
    Rand,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Data {
    /// Like text: compresses well.
    Text,
    /// Does not compress.
    Random,
    Zero,
}

impl Bench {
    pub(crate) fn run(&self, output: Output, stop: &AtomicBool) -> Result<Outcome> {
        if self.size == 0 || !self.size.is_multiple_of(512) || self.size > LARGEST {
            return Err(Failure::Usage(format!("--size must be a multiple of 512 up to {LARGEST}")));
        }
        let mut spec = self.source.spec(&self.file)?;
        spec.read_only = !self.write;
        let image = open(&spec)?;
        let slots = image.size() / self.size;
        if slots < self.depth.get() as u64 {
            return Err(Failure::Refused(format!("the disk is too small for --depth {}", self.depth)));
        }
        let load = Load {
            write: self.write,
            pattern: self.pattern,
            size: self.size,
            depth: self.depth.get() as u64,
            count: self.count,
            flush_interval: self.flush_interval,
            data: self.data,
            seed: self.seed,
            slots,
        };
        let zeroed = || image.selfie().map(|selfie| selfie.stats().zeroed_bytes);
        let (before, zeroed_before) = (image.counts(), zeroed());
        let measured = generator::run(&load, &image, stop)?;
        let host = report::since(before, image.counts());
        let zeroed = zeroed().zip(zeroed_before).map(|(after, before)| after.saturating_sub(before));
        image.close()?;
        let report = report::Report::new(&load, &measured, host, zeroed);
        output.print(&report, || report.to_string());
        Ok(Outcome::DONE)
    }
}
