//! Reading an image: what its tables, its summaries and, after a crash, its headers say, the newest of them counting.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

use super::format::{
    BLOCK, BLOCKS, Blocks, CLUSTER, Cluster, Entry, Kind, L1_ENTRY, L2_ENTRIES, L2_ENTRY, Lead, SLOTS,
    SUMMARY, SUMMARY_ENTRY, Summarised, Superblock, Virtual, ZONE, ZONE_ENTRY, ZoneEntry, ZoneKind,
    decode_l1, is_zero,
};
use super::map::Map;
use super::zones::Zone;
use crate::block::{Result, Storage};

/// Reads that are under way at once.
const DEPTH: usize = 32;
/// Problems that are told; of a ruined image there are too many.
const MAX_PROBLEMS: usize = 1000;

/// Something that an image says and that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "problem", rename_all = "snake_case")]
pub enum Problem {
    /// An entry of the zone table is no entry, or its summary is nowhere.
    Zone {
        /// Number of the zone.
        zone: u32,
    },
    /// An entry of the L1 table is no entry, or leads to no table.
    L1 {
        /// Number of the table.
        table: u32,
    },
    /// An entry of an L2 table is no entry, or leads nowhere.
    L2 {
        /// Byte offset on the disk of the cluster that it is about.
        offset: u64,
    },
    /// An entry of a summary is no entry, or speaks of no cluster of the disk.
    Summary {
        /// Number of the zone.
        zone: u32,
        /// Which of its clusters.
        slot: u16,
    },
    /// A header speaks of no cluster of the disk.
    Header {
        /// Number of the zone.
        zone: u32,
        /// Which of its clusters.
        slot: u16,
    },
    /// Two use the same cluster of the image.
    Overlap {
        /// Byte offset in the image.
        offset: u64,
    },
    /// The lead block of a cluster does not say what the map says, or cannot be expanded.
    Lead {
        /// Byte offset on the disk of the cluster.
        offset: u64,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zone { zone } => write!(f, "the zone table is wrong about zone {zone}"),
            Self::L1 { table } => write!(f, "the L1 table is wrong about table {table}"),
            Self::L2 { offset } => write!(f, "an L2 table is wrong about the disk's cluster at {offset}"),
            Self::Summary { zone, slot } => {
                write!(f, "the summary of zone {zone} is wrong about its cluster {slot}")
            }
            Self::Header { zone, slot } => write!(f, "the header of cluster {slot} of zone {zone} is wrong"),
            Self::Overlap { offset } => write!(f, "the image's cluster at {offset} is used twice"),
            Self::Lead { offset } => write!(f, "the lead block of the disk's cluster at {offset} is wrong"),
        }
    }
}

/// An image in memory.
pub(super) struct Loaded {
    pub(super) map: Map,
    pub(super) zones: Vec<Zone>,
    /// The highest sequence that was seen.
    pub(super) sequence: u64,
    pub(super) problems: Vec<Problem>,
    /// Headers that were looked at.
    pub(super) scanned: u64,
    /// Byte offsets of blocks in the image that hold what was never durably the disk's, and have to be zeros.
    pub(super) stray: Vec<u64>,
    /// Of each zone which clusters are in use, a bit each; nothing for a zone of which none is.
    pub(super) used: Vec<Box<[u64]>>,
}

impl Loaded {
    /// Whether a cluster of a zone is in use.
    pub(super) fn is_used(&self, zone: usize, slot: u16) -> bool {
        let word = self.used.get(zone).and_then(|bits| bits.get(usize::from(slot) / 64));
        word.is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }
}

struct Loader<'a> {
    storage: &'a dyn Storage,
    superblock: &'a Superblock,
    /// Clusters of the disk, as far as it can grow.
    clusters: u64,
    loaded: Loaded,
    /// What other structures than the map use.
    claimed: Vec<(Cluster, ZoneKind)>,
}

/// Reads an image. Only a medium that fails is an error; what is wrong with the image is in the result.
pub(super) fn load(storage: &dyn Storage, superblock: &Superblock) -> Result<Loaded> {
    let map = Map::new(superblock.layout.l1_entries);
    let loaded = Loaded {
        map,
        zones: Vec::new(),
        sequence: 0,
        problems: Vec::new(),
        scanned: 0,
        stray: Vec::new(),
        used: Vec::new(),
    };
    let clusters = superblock.max_size.div_ceil(CLUSTER as u64);
    let mut loader = Loader { storage, superblock, clusters, loaded, claimed: Vec::new() };
    loader.zones()?;
    loader.tables()?;
    loader.summaries()?;
    if superblock.flags.dirty {
        loader.headers()?;
    }
    loader.occupy();
    Ok(loader.loaded)
}

impl Loader<'_> {
    fn problem(&mut self, problem: Problem) {
        if self.loaded.problems.len() < MAX_PROBLEMS {
            self.loaded.problems.push(problem);
        }
    }

    /// Reads `length` bytes at each of `places`, many at a time, and gives each to `visit` with its number.
    fn read_all(
        &mut self,
        places: &[u64],
        length: usize,
        mut visit: impl FnMut(&mut Self, usize, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut buffer = vec![0; length * DEPTH.min(places.len())];
        for (batch, offsets) in places.chunks(DEPTH).enumerate() {
            let mut requests: Vec<_> = offsets.iter().copied().zip(buffer.chunks_exact_mut(length)).collect();
            self.storage.read_many(&mut requests)?;
            drop(requests);
            for (number, bytes) in buffer.chunks_exact(length).take(offsets.len()).enumerate() {
                visit(self, batch * DEPTH + number, bytes)?;
            }
        }
        Ok(())
    }

    fn zones(&mut self) -> Result<()> {
        let layout = self.superblock.layout;
        // A zone that is cut off by the end of the file was not in use yet.
        let there = self.storage.size().saturating_sub(layout.zones) / ZONE;
        let count = u32::try_from(there).unwrap_or(u32::MAX).min(layout.zone_entries);
        let length = (u64::from(count) * u64::from(ZONE_ENTRY)).next_multiple_of(BLOCK as u64);
        let places: Vec<u64> =
            (0..length / BLOCK as u64).map(|block| layout.zone_table + block * BLOCK as u64).collect();
        self.read_all(&places, BLOCK, |this, _, bytes| {
            for bytes in bytes.as_chunks::<{ ZONE_ENTRY as usize }>().0 {
                let number = u32::try_from(this.loaded.zones.len()).unwrap_or(u32::MAX);
                if number >= count {
                    break;
                }
                let entry = ZoneEntry::decode(number, bytes).unwrap_or_else(|| {
                    this.problem(Problem::Zone { zone: number });
                    ZoneEntry::default()
                });
                this.loaded.zones.push(Zone::new(entry));
            }
            Ok(())
        })?;
        self.check_summary_places();
        Ok(())
    }

    /// A summary lies in the first cluster of a Z zone that keeps its own there, and nowhere else's.
    fn check_summary_places(&mut self) {
        let mut taken = BTreeSet::new();
        for number in 0..self.loaded.zones.len() {
            let entry = self.loaded.zones[number].entry;
            if entry.kind != ZoneKind::Z {
                continue;
            }
            let zone = u32::try_from(number).unwrap_or(u32::MAX);
            let keeper = self.superblock.layout.slot(entry.summary).filter(|&(_, slot)| slot == 0);
            let keeper = keeper.and_then(|(keeper, _)| self.loaded.zones.get(keeper as usize));
            let kept = keeper.is_some_and(|keeper| {
                keeper.entry.kind == ZoneKind::Z
                    && keeper.entry.part == 0
                    && keeper.entry.summary == entry.summary
            });
            if !kept || !taken.insert((entry.summary, entry.part)) {
                self.problem(Problem::Zone { zone });
            }
            if kept && entry.part == 0 {
                self.claimed.push((entry.summary, ZoneKind::Z));
            }
        }
    }

    /// The zone of a cluster and which of its clusters it is, if the image has it in a zone of this kind.
    fn in_zone(&self, cluster: Cluster, kind: ZoneKind) -> Option<(u32, u16)> {
        let (number, slot) = self.superblock.layout.slot(cluster)?;
        let zone = self.loaded.zones.get(number as usize)?;
        (zone.entry.kind == kind).then_some((number, slot))
    }

    fn tables(&mut self) -> Result<()> {
        let layout = self.superblock.layout;
        let length = (u64::from(layout.l1_entries) * u64::from(L1_ENTRY)).next_multiple_of(BLOCK as u64);
        let places: Vec<u64> =
            (0..length / BLOCK as u64).map(|block| layout.l1 + block * BLOCK as u64).collect();
        let mut tables = Vec::new();
        self.read_all(&places, BLOCK, |this, block, bytes| {
            let first = u32::try_from(block * (BLOCK / L1_ENTRY as usize)).unwrap_or(u32::MAX);
            for (table, bytes) in (first..layout.l1_entries).zip(bytes.as_chunks::<{ L1_ENTRY as usize }>().0)
            {
                match decode_l1(table, *bytes) {
                    Some(Cluster::NONE) => {}
                    Some(cluster) if this.in_zone(cluster, ZoneKind::N).is_some() => {
                        tables.push((table, cluster))
                    }
                    _ => this.problem(Problem::L1 { table }),
                }
            }
            Ok(())
        })?;
        let mut seen = BTreeSet::new();
        tables.retain(|&(table, cluster)| {
            let first = seen.insert(cluster);
            if !first {
                self.problem(Problem::L1 { table });
            }
            first
        });
        for &(table, cluster) in &tables {
            self.loaded.map.set_place(table, cluster);
            self.claimed.push((cluster, ZoneKind::N));
        }
        let places: Vec<u64> = tables.iter().map(|(_, cluster)| cluster.offset()).collect();
        self.read_all(&places, CLUSTER, |this, number, bytes| {
            let Some(&(table, _)) = tables.get(number) else { return Ok(()) };
            for (at, bytes) in (0..L2_ENTRIES).zip(bytes.as_chunks::<L2_ENTRY>().0) {
                this.table_entry(Virtual(table * L2_ENTRIES + at), bytes);
            }
            Ok(())
        })
    }

    fn table_entry(&mut self, of: Virtual, bytes: &[u8; L2_ENTRY]) {
        let entry = Entry::decode(of, bytes).filter(|entry| {
            let known = u64::from(of.0) < self.clusters || entry.kind == Kind::Empty;
            known
                && match entry.kind {
                    Kind::Empty | Kind::Zero => true,
                    // Whether it still counts there, or its zone has become another, is seen when all is known.
                    Kind::Embedded | Kind::Plain => self.superblock.layout.slot(entry.cluster).is_some(),
                }
        });
        match entry {
            None => self.problem(Problem::L2 { offset: of.offset() }),
            Some(entry) if entry.kind == Kind::Empty => {}
            Some(entry) => {
                self.loaded.sequence = self.loaded.sequence.max(entry.sequence);
                self.loaded.map.set(of, &entry);
            }
        }
    }

    fn summaries(&mut self) -> Result<()> {
        let committed: Vec<(u32, ZoneEntry)> = (0u32..)
            .zip(&self.loaded.zones)
            .filter(|(_, zone)| zone.entry.committed > 0)
            .map(|(number, zone)| (number, zone.entry))
            .filter(|(_, entry)| self.in_zone(entry.summary, ZoneKind::Z).is_some())
            .collect();
        let place = |entry: &ZoneEntry| entry.summary.offset() + u64::from(entry.part) * SUMMARY as u64;
        let places: Vec<u64> = committed.iter().map(|(_, entry)| place(entry)).collect();
        self.read_all(&places, SUMMARY, |this, number, bytes| {
            let Some(&(zone, entry)) = committed.get(number) else { return Ok(()) };
            let Some(first) = this.superblock.layout.zone(zone) else { return Ok(()) };
            for (slot, bytes) in (0..entry.committed).zip(bytes.as_chunks::<SUMMARY_ENTRY>().0) {
                let at = Cluster(first.0 + u32::from(slot));
                match Summarised::decode(at, bytes) {
                    Ok(None) => {}
                    Ok(Some(found)) if u64::from(found.of.0) < this.clusters => {
                        this.candidate(found.of, at, found.rotation, found.sequence, found.blocks);
                    }
                    _ => this.problem(Problem::Summary { zone, slot }),
                }
            }
            Ok(())
        })
    }

    /// An embedded cluster says of itself, or its summary says, whose it is.
    fn candidate(&mut self, of: Virtual, cluster: Cluster, rotation: u8, sequence: u64, blocks: Blocks) {
        self.loaded.sequence = self.loaded.sequence.max(sequence);
        let old = self.loaded.map.get(of);
        // A header may have changed since its table spoke with the same number.
        let same = sequence == old.sequence && old.cluster == cluster;
        if old.kind == Kind::Empty || sequence > old.sequence || same {
            // Of an older one its table knows, or it is in this state itself.
            let over = old.kind != Kind::Empty;
            let entry =
                Entry { kind: Kind::Embedded, cluster, rotation, sequence, blocks, over, tabled: false };
            self.loaded.map.set(of, &entry);
            if matches!(old.kind, Kind::Plain | Kind::Embedded) && old.tabled | (old.kind == Kind::Plain) {
                // The table is to forget a cluster that is nobody's now.
                self.loaded.map.mark(of);
            }
        } else if old.kind == Kind::Embedded && old.cluster != cluster {
            self.loaded.map.set(of, &Entry { over: true, ..old });
        }
    }

    /// Looks at every cluster of a Z zone of which no summary speaks. One zone after the other: a small file can say
    /// that it has many.
    fn headers(&mut self) -> Result<()> {
        let mut looked_at = Vec::new();
        for number in 0..self.loaded.zones.len() {
            let entry = self.loaded.zones[number].entry;
            let zone = u32::try_from(number).unwrap_or(u32::MAX);
            let Some(first) = self.superblock.layout.zone(zone) else { continue };
            if entry.kind == ZoneKind::Z {
                self.headers_of(zone, entry, first, &mut looked_at)?;
            }
        }
        looked_at.into_iter().try_for_each(|(of, cluster)| self.settle(of, cluster))
    }

    fn headers_of(
        &mut self,
        zone: u32,
        entry: ZoneEntry,
        first: Cluster,
        looked_at: &mut Vec<(Virtual, Cluster)>,
    ) -> Result<()> {
        let slots = entry.committed..SLOTS;
        self.loaded.scanned += slots.len() as u64;
        let at = |slot: u16| Cluster(first.0 + u32::from(slot));
        let places: Vec<u64> = slots.clone().map(|slot| at(slot).offset()).collect();
        self.read_all(&places, BLOCK, |this, number, bytes| {
            let Some(slot) = slots.clone().nth(number) else { return Ok(()) };
            let cluster = at(slot);
            let Some(lead) = Lead::decode(bytes, cluster, entry.epoch, &this.superblock.secret) else {
                return Ok(());
            };
            if u64::from(lead.of.0) >= this.clusters {
                this.problem(Problem::Header { zone, slot });
                return Ok(());
            }
            this.candidate(lead.of, cluster, lead.rotation, lead.sequence, lead.blocks);
            if lead.blocks != Blocks::ALL_HERE {
                looked_at.push((lead.of, cluster));
            }
            Ok(())
        })
    }

    /// Finds out which blocks of an embedded cluster were durable when all ended, if it is the one that counts. What
    /// is there although nobody spoke of it must not turn up when somebody does.
    fn settle(&mut self, of: Virtual, cluster: Cluster) -> Result<()> {
        let entry = self.loaded.map.get(of);
        if entry.cluster != cluster {
            return Ok(());
        }
        let mut bytes = vec![0; CLUSTER];
        self.storage.read(cluster.offset(), &mut bytes)?;
        let mut blocks = entry.blocks;
        for block in (0..BLOCKS).filter(|&block| !entry.is_lead(block)) {
            let at = entry.position(block) * BLOCK;
            let zero = is_zero(&bytes[at..at + BLOCK]);
            match blocks.get(block) {
                Blocks::FRESH if zero => blocks = blocks.with(block, Blocks::ABSENT),
                Blocks::ABSENT | Blocks::ZERO if !zero => self.loaded.stray.push(entry.offset(block)),
                _ => {}
            }
        }
        self.loaded.map.set(of, &Entry { blocks, ..entry });
        Ok(())
    }

    /// Now that it is known what counts, everything that is used is in use.
    fn occupy(&mut self) {
        let layout = self.superblock.layout;
        self.loaded.used.resize_with(self.loaded.zones.len(), Box::default);
        let mut problems = Vec::new();
        let mut wrong = Vec::new();
        {
            let Loaded { map, zones, used, .. } = &mut self.loaded;
            let mut claim = |cluster: Cluster, kind: ZoneKind, of: Option<Virtual>| {
                let (number, slot) = layout.slot(cluster)?;
                let zone = zones.get_mut(number as usize).filter(|zone| zone.entry.kind == kind)?;
                let bits = used.get_mut(number as usize)?;
                if bits.is_empty() {
                    *bits = vec![0; usize::from(SLOTS) / 64].into();
                }
                let word = bits.get_mut(usize::from(slot) / 64)?;
                let first = *word >> (slot % 64) & 1 == 0;
                *word |= 1 << (slot % 64);
                if first {
                    zone.occupy(slot, of.filter(|_| zone.entry.committed < SLOTS));
                }
                Some(first)
            };
            for &(cluster, kind) in &self.claimed {
                if claim(cluster, kind, None) == Some(false) {
                    problems.push(Problem::Overlap { offset: cluster.offset() });
                }
            }
            map.for_each(|of, entry| {
                let kind = match entry.kind {
                    Kind::Embedded => ZoneKind::Z,
                    Kind::Plain => ZoneKind::N,
                    Kind::Empty | Kind::Zero => return,
                };
                match claim(entry.cluster, kind, Some(of)) {
                    Some(true) => {}
                    Some(false) => {
                        problems.push(Problem::Overlap { offset: entry.cluster.offset() });
                        wrong.push(of);
                    }
                    None => {
                        problems.push(Problem::L2 { offset: of.offset() });
                        wrong.push(of);
                    }
                }
            });
        }
        for problem in problems {
            self.problem(problem);
        }
        for of in wrong {
            // To be read as nothing, if it is to be read at all.
            self.loaded.map.set(of, &Entry::default());
        }
        for zone in &mut self.loaded.zones {
            zone.next = zone.next.max(zone.entry.committed);
            let known = !self.superblock.flags.dirty && zone.entry.zeroed >= zone.next;
            zone.zeroed = if known { zone.entry.zeroed } else { 0 };
        }
    }
}
