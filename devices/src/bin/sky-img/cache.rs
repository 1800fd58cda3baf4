//! `sky-img cache`.

use std::fmt::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;
use sky_devices::icache::{Cached, ICache};
use sky_devices::image::{format_size, parse_size};
use sky_devices::layers::{CacheStats, Stack, StackSpec};

use crate::arguments::{LayerArgs, Source};
use crate::failure::{Failure, Outcome, Result};
use crate::output::Output;

/// Look into, empty, or resize the cache before a disk that nobody has open
///
/// The disk is named as for `serve`: its image, its layers and the fast tier.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  sky-img cache flush -f selfie disk.selfie --layers cache --cache /nvme/disk.icache
  sky-img cache resize 8G -f selfie disk.selfie --layers cache --cache /nvme/disk.icache")]
pub(crate) struct Cache {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show what each class holds
    Stats(Target),
    /// List the parts of the disk that are held, with their classes
    List(Target),
    /// Write back what the image does not have yet
    Flush(Target),
    /// Write back, and forget everything
    Clear(Target),
    /// Have the fast tier use more or fewer bytes: what is worth keeping stays
    Resize {
        /// The new size
        #[arg(value_parser = parse_size)]
        size: u64,
        #[command(flatten)]
        target: Target,
    },
}

#[derive(Debug, Args)]
struct Target {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    layers: LayerArgs,
    /// The image of the disk
    file: PathBuf,
}

/// A part of the disk whose blocks have the same class and state.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Extent {
    offset: u64,
    length: u64,
    class: u8,
    dirty: bool,
}

impl Cache {
    pub(crate) fn run(&self, output: Output) -> Result<Outcome> {
        let (Action::Stats(target)
        | Action::List(target)
        | Action::Flush(target)
        | Action::Clear(target)
        | Action::Resize { target, .. }) = &self.action;
        let spec =
            StackSpec { image: target.source.spec(&target.file)?, layers: target.layers.keys()?.build()? };
        let missing = || Failure::Usage("there is no cache without --layers cache and --cache PATH".into());
        if spec.layers.cache.is_none() {
            // Before the image is opened, which would have to be recovered.
            return Err(missing());
        }
        let disk = Stack::open(&spec)?;
        let cache = disk.cache().ok_or_else(missing)?;
        match self.action {
            Action::Stats(_) => {
                if let Some(stats) = disk.stats().cache {
                    output.print(&stats, || table(&stats));
                }
            }
            Action::List(_) => {
                let extents = extents(cache);
                output.print(&extents, || {
                    let line = |extent: &Extent| {
                        let state = if extent.dirty { "  not written back" } else { "" };
                        let Extent { offset, length, class, .. } = extent;
                        format!("{offset:>15}  {length:>12}  class {class}{state}")
                    };
                    extents.iter().map(line).collect::<Vec<_>>().join("\n")
                });
            }
            Action::Flush(_) | Action::Clear(_) => {
                let dirty = cache.stats().dirty;
                if matches!(self.action, Action::Clear(_)) {
                    cache.clear()?
                } else {
                    cache.write_back_all()?
                }
                let written = format_size(u64::from(dirty) * 4096);
                output.print(&json!({ "written-back-blocks": dirty }), || format!("{written} written back"));
            }
            Action::Resize { size, .. } => {
                let old = cache.stats().size;
                cache.resize(size)?;
                let new = cache.stats().size;
                let result = json!({ "old-size": old, "size": new });
                output.print(&result, || format!("{} has become {}", format_size(old), format_size(new)));
            }
        }
        disk.close()?;
        Ok(Outcome::DONE)
    }
}

fn extents(cache: &ICache) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::new();
    for Cached { offset, class, dirty } in cache.cached() {
        match extents.last_mut() {
            Some(last)
                if last.offset + last.length == offset
                    && (last.class, last.dirty) == (class.get(), dirty) =>
            {
                last.length += 4096;
            }
            _ => extents.push(Extent { offset, length: 4096, class: class.get(), dirty }),
        }
    }
    extents
}

fn table(stats: &CacheStats) -> String {
    let mut text = String::new();
    let size = |blocks: u32| format_size(u64::from(blocks) * 4096);
    // Writing into a string does not fail.
    let _ = writeln!(text, "class  {:<24} held", "name");
    for class in stats.classes.iter().filter(|class| class.counters.lines > 0) {
        let _ = writeln!(text, "{:>5}  {:<24} {}", class.id, class.name, size(class.counters.lines));
    }
    let held = stats.classes.iter().map(|class| class.counters.lines).sum();
    let _ = writeln!(
        text,
        "{} of {}, {} of it not written back; {} of the fast tier are used",
        size(held),
        size(stats.capacity_blocks),
        size(stats.dirty_blocks),
        format_size(stats.size_bytes)
    );
    text
}
