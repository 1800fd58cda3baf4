//! `sky-img dump`.

use std::fmt::Write;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use sky_devices::block::{FileOptions, FileStorage};
use sky_devices::image::{Format, parse_size};
use sky_devices::selfie::{
    EntryDump, L1Dump, SuperblockDump, ZoneDump, dump_header, dump_l1, dump_l2, dump_superblocks, dump_zones,
};

use crate::arguments::required;
use crate::failure::{Failure, Outcome, Result};
use crate::output::Output;

/// Show the structures of a Selfie image as they lie in it, for debugging
///
/// Without options: both superblocks, the zones in use and the L1 table. Nothing is recovered, changed or checked; an
/// image that cannot be opened may still have something to show. docs/selfie-format.md says what it all means.
#[derive(Debug, Args)]
pub(crate) struct Dump {
    /// Format of the image: selfie
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<Format>,
    /// Show the entries of this L2 table; each speaks of 256 MiB of the disk
    #[arg(long, value_name = "NUMBER", conflicts_with = "header")]
    table: Option<u32>,
    /// Show the header of the cluster that begins at this byte of the image
    #[arg(long, value_name = "OFFSET", value_parser = parse_size)]
    header: Option<u64>,
    /// The image
    file: PathBuf,
}

impl Dump {
    pub(crate) fn run(&self, output: Output) -> Result<Outcome> {
        if required(self.format, "-f", &self.file)? != Format::Selfie {
            return Err(Failure::Usage("only Selfie images can be dumped: -f selfie".into()));
        }
        let storage = FileStorage::open(FileOptions { read_only: true, ..FileOptions::new(&self.file) })?;
        let named = |error: sky_devices::block::Error| error.on(&self.file);
        if let Some(table) = self.table {
            let entries = dump_l2(&storage, table).map_err(named)?;
            output.print(&entries, || entries.iter().map(entry).collect());
        } else if let Some(offset) = self.header {
            let header = dump_header(&storage, offset).map_err(named)?;
            output.print(&header, || header.as_ref().map_or_else(|| "no header".into(), entry));
        } else {
            let superblocks = dump_superblocks(&storage).map_err(named)?;
            let zones = dump_zones(&storage).unwrap_or_default();
            let tables = dump_l1(&storage).unwrap_or_default();
            let result = json!({ "superblocks": superblocks, "zones": zones, "l1": tables });
            output.print(&result, || text(&superblocks, &zones, &tables));
        }
        Ok(Outcome::DONE)
    }
}

fn entry(entry: &EntryDump) -> String {
    let EntryDump { disk_offset, kind, image_offset, rotation, sequence, blocks } = entry;
    format!(
        "{disk_offset:<#14x} {kind:<9} at {image_offset:<#14x} {blocks} from {rotation:<2} sequence {sequence}\n"
    )
}

fn text(superblocks: &[SuperblockDump], zones: &[ZoneDump], tables: &[L1Dump]) -> String {
    let mut text = String::new();
    // Writing into a string does not fail.
    let mut line = |line: String| {
        let _ = writeln!(text, "{line}");
    };
    for SuperblockDump { offset, superblock, error } in superblocks {
        match (superblock, error) {
            (Some(superblock), _) => line(format!("superblock at {offset:#x}: {superblock:#?}")),
            (None, Some(error)) => line(format!("superblock at {offset:#x}: {error}")),
            (None, None) => {}
        }
    }
    for ZoneDump { zone, offset, kind, committed, zeroed, epoch, summary } in zones {
        line(format!(
            "zone {zone:<6} at {offset:<#14x} {kind:<4} committed {committed:<4} zeroed {zeroed:<4} epoch {epoch} \
             summary at {summary:#x}"
        ));
    }
    for L1Dump { table, offset } in tables {
        match offset {
            Some(offset) => line(format!("table {table:<5} at {offset:#x}")),
            None => line(format!("table {table:<5} is no entry")),
        }
    }
    text
}
