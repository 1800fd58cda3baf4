//! What is wrong with an image that nobody has open.

use serde::Serialize;

use super::format::{BLOCK, Entry, Kind, Lead, Superblock, Virtual, ZoneKind, expand};
use super::leaks::{Leaks, leaks};
use super::load::{Loaded, Problem, load};
use super::superblock;
use crate::block::{Result, Storage};

/// Lead blocks that are read at once.
const BATCH: usize = 256;
/// Problems with lead blocks that are told.
const MAX_PROBLEMS: usize = 1000;

/// The result of [`check`].
#[derive(Clone, Debug, Default, Serialize)]
pub struct CheckReport {
    /// What is wrong. Nothing of it is repaired: what can be read can be copied.
    pub errors: Vec<Problem>,
    /// It was not closed: recovery is done when it is opened.
    pub dirty: bool,
    /// It is marked as corrupt.
    pub marked_corrupt: bool,
    /// Clusters whose blocks carry their mapping.
    pub embedded_clusters: u64,
    /// Clusters of which only a table knows.
    pub plain_clusters: u64,
    /// Clusters that were allocated once and are nobody's; their zones are used again when all of theirs are.
    pub dead_clusters: u64,
    /// Headers that recovery has to look at.
    pub scanned: u64,
    /// Space that nothing uses. Nothing where the medium cannot tell, or there are errors: what an image has lost looks the
    /// same.
    pub leaks: Option<Leaks>,
}

impl CheckReport {
    /// Whether nothing is wrong; space that nothing uses is not.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.errors.is_empty() && !self.marked_corrupt
    }

    /// Whether there is space that nothing uses.
    #[must_use]
    pub fn has_leaks(&self) -> bool {
        self.leaks.is_some_and(|leaks| leaks.clusters > 0)
    }
}

/// Looks at everything that an image says of itself: tables, summaries, headers, every lead block. Writes nothing.
///
/// # Errors
/// It is no image of this format, or the medium failed.
pub fn check(storage: &dyn Storage) -> Result<CheckReport> {
    let superblock = superblock(storage)?;
    let loaded = load(storage, &superblock)?;
    let mut report = CheckReport {
        errors: loaded.problems.clone(),
        dirty: superblock.flags.dirty,
        marked_corrupt: superblock.flags.corrupt,
        scanned: loaded.scanned,
        ..CheckReport::default()
    };
    for zone in &loaded.zones {
        report.dead_clusters += u64::from(zone.next.saturating_sub(zone.live));
    }
    let mut leads: Vec<(Virtual, Entry)> = Vec::new();
    loaded.map.for_each(|of, entry| match entry.kind {
        Kind::Embedded => {
            report.embedded_clusters += 1;
            leads.push((of, entry));
        }
        Kind::Plain => report.plain_clusters += 1,
        Kind::Empty | Kind::Zero => {}
    });
    leads.sort_unstable_by_key(|(_, entry)| entry.cluster);
    let mut buffer = vec![0; BATCH * BLOCK];
    for batch in leads.chunks(BATCH) {
        let places = batch.iter().map(|(_, entry)| entry.cluster.offset());
        let mut requests: Vec<_> = places.zip(buffer.chunks_exact_mut(BLOCK)).collect();
        storage.read_many(&mut requests)?;
        for ((of, entry), block) in batch.iter().zip(buffer.chunks_exact(BLOCK)) {
            if !is_lead(&superblock, &loaded, *of, entry, block) && report.errors.len() < MAX_PROBLEMS {
                report.errors.push(Problem::Lead { offset: of.offset() });
            }
        }
    }
    if report.errors.is_empty() {
        report.leaks = leaks(storage, &superblock.layout, &loaded)?;
    }
    Ok(report)
}

/// Whether a block is the lead block of a cluster, and can be read.
fn is_lead(superblock: &Superblock, loaded: &Loaded, of: Virtual, entry: &Entry, block: &[u8]) -> bool {
    let zone =
        superblock.layout.slot(entry.cluster).and_then(|(number, _)| loaded.zones.get(number as usize));
    let Some(zone) = zone.filter(|zone| zone.entry.kind == ZoneKind::Z) else { return false };
    let lead = Lead::decode(block, entry.cluster, zone.entry.epoch, &superblock.secret);
    let Some(lead) = lead.filter(|lead| lead.of == of && lead.rotation == entry.rotation) else {
        return false;
    };
    // Its table may have spoken since, with a higher sequence; a header never runs ahead of what is known.
    lead.sequence <= entry.sequence
        && lead.payload(block).is_some_and(|payload| expand(payload, &mut vec![0; BLOCK]))
}
