//! What can be told of an open image.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::format::{BLOCK, BLOCKS, Blocks, CLUSTER, Flags, Kind, ZONE, ZoneKind};
use super::write::pieces;
use super::{Backing, Selfie, lock};

/// An open image.
#[derive(Clone, Debug, Serialize)]
pub struct Info {
    /// Tells images apart.
    pub uuid: String,
    /// Grows whenever the image is opened for writing.
    pub generation: u64,
    /// Size of the disk in bytes.
    pub size: u64,
    /// How far it can grow, in bytes.
    pub max_size: u64,
    /// Bytes of a block, a cluster, a zone.
    pub block_size: u64,
    /// Bytes of a cluster.
    pub cluster_size: u64,
    /// Bytes of a zone.
    pub zone_size: u64,
    /// State, as it lies in the image.
    pub flags: Flags,
    /// The image below.
    pub backing: Option<Backing>,
    /// Whether blocks carry mappings here: the medium has to write 4096 bytes atomically.
    pub embeds: bool,
    /// Clusters whose blocks carry their mapping.
    pub embedded_clusters: u64,
    /// Clusters of which only a table knows.
    pub plain_clusters: u64,
    /// Clusters that are said to be zeros.
    pub zero_clusters: u64,
    /// Zones of clusters that carry their mapping.
    pub z_zones: u64,
    /// Zones of those that do not.
    pub n_zones: u64,
    /// Zones that can be used again.
    pub free_zones: u64,
    /// Clusters that lie dead in zones that are in use.
    pub dead_clusters: u64,
    /// Bytes of memory that map and zones take.
    pub memory: u64,
}

/// What an open image has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Clusters that were allocated with their mapping in the block.
    pub embedded: u64,
    /// Clusters that were allocated with their mapping in a table.
    pub plain: u64,
    /// Clusters that moved because their lead block did not compress any more.
    pub relocated: u64,
    /// Clusters that were given up.
    pub discarded: u64,
    /// Reads from the image, for the disk's sake.
    pub reads: u64,
    /// Bytes of them.
    pub read_bytes: u64,
    /// Writes to the image, without those of zeros ahead.
    pub writes: u64,
    /// Bytes of them.
    pub written_bytes: u64,
    /// Bytes of zeros that were written ahead.
    pub zeroed_bytes: u64,
    /// Flushes that were asked for.
    pub flushes: u64,
    /// Syncs that were asked of the medium, without those of zeros written ahead.
    pub syncs: u64,
    /// Writes of tables.
    pub tables: u64,
    /// Summaries that were written.
    pub summaries: u64,
    /// Times that its own thread failed to write zeros ahead, or summaries. It tries again, unless a sync has failed.
    pub background_errors: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) embedded: AtomicU64,
    pub(super) plain: AtomicU64,
    pub(super) relocated: AtomicU64,
    pub(super) discarded: AtomicU64,
    pub(super) flushes: AtomicU64,
    pub(super) syncs: AtomicU64,
    pub(super) tables: AtomicU64,
    pub(super) summaries: AtomicU64,
    pub(super) background_errors: AtomicU64,
    reads: AtomicU64,
    read_bytes: AtomicU64,
    writes: AtomicU64,
    written_bytes: AtomicU64,
}

impl Counters {
    pub(super) fn read(&self, bytes: usize) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.read_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn write(&self, bytes: usize) {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.written_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Where a part of the disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ExtentKind {
    /// In the image.
    Data,
    /// Zeros that need no room, or none that is read.
    Zero,
    /// In the backing image, if it is that long.
    Backing,
}

/// A part of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Extent {
    /// Byte offset on the disk.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
    /// Where it is.
    pub kind: ExtentKind,
}

impl Selfie {
    /// What can be told of the image.
    #[must_use]
    pub fn info(&self) -> Info {
        let core = &self.core;
        let superblock = lock(&core.superblock).clone();
        let (mut embedded, mut plain, mut zero) = (0, 0, 0);
        core.map.for_each(|_, entry| match entry.kind {
            Kind::Embedded => embedded += 1,
            Kind::Plain => plain += 1,
            Kind::Zero => zero += 1,
            Kind::Empty => {}
        });
        let (mut z, mut n, mut free, mut dead) = (0, 0, 0, 0);
        core.zones.for_each(|_, zone| {
            match zone.entry.kind {
                ZoneKind::Z => z += 1,
                ZoneKind::N => n += 1,
                ZoneKind::Free => free += 1,
            }
            dead += u64::from(zone.next.saturating_sub(zone.live));
        });
        Info {
            uuid: uuid(&superblock.uuid),
            generation: superblock.generation,
            size: superblock.size,
            max_size: superblock.max_size,
            block_size: BLOCK as u64,
            cluster_size: CLUSTER as u64,
            zone_size: ZONE,
            flags: superblock.flags,
            backing: superblock.backing,
            embeds: core.embeds,
            embedded_clusters: embedded,
            plain_clusters: plain,
            zero_clusters: zero,
            z_zones: z,
            n_zones: n,
            free_zones: free,
            dead_clusters: dead,
            memory: (core.map.memory() + core.zones.memory()) as u64,
        }
    }

    /// What it has done since it was opened.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let counters = &self.core.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            embedded: get(&counters.embedded),
            plain: get(&counters.plain),
            relocated: get(&counters.relocated),
            discarded: get(&counters.discarded),
            reads: get(&counters.reads),
            read_bytes: get(&counters.read_bytes),
            writes: get(&counters.writes),
            written_bytes: get(&counters.written_bytes),
            zeroed_bytes: get(&self.core.zones.zeroed_bytes),
            flushes: get(&counters.flushes),
            syncs: get(&counters.syncs),
            tables: get(&counters.tables),
            summaries: get(&counters.summaries),
            background_errors: get(&counters.background_errors),
        }
    }

    /// Where the parts of a range of the disk are, one behind the other, as large as they are. What lies beyond the
    /// disk is left out.
    #[must_use]
    pub fn map(&self, offset: u64, length: u64) -> Vec<Extent> {
        let core = &self.core;
        let end = offset.saturating_add(length).min(core.size.load(Ordering::Acquire));
        let mut extents: Vec<Extent> = Vec::new();
        for (of, at, length) in pieces(offset.min(end), end.saturating_sub(offset)) {
            let _stays = core.locks.shared(of);
            let entry = core.map.get(of);
            for block in at / BLOCK..(at + length).div_ceil(BLOCK) {
                let absent = if core.has_backing() { ExtentKind::Backing } else { ExtentKind::Zero };
                let kind = match entry.kind {
                    Kind::Empty => absent,
                    Kind::Zero => ExtentKind::Zero,
                    Kind::Embedded | Kind::Plain => match entry.blocks.get(block % BLOCKS) {
                        Blocks::ABSENT => absent,
                        Blocks::ZERO => ExtentKind::Zero,
                        _ => ExtentKind::Data,
                    },
                };
                let start = (of.offset() + (block * BLOCK) as u64).max(offset);
                let stop = (of.offset() + ((block + 1) * BLOCK) as u64).min(end);
                match extents.last_mut() {
                    Some(last) if last.kind == kind => last.length = stop - last.offset,
                    _ => extents.push(Extent { offset: start, length: stop - start, kind }),
                }
            }
        }
        extents
    }
}

/// The usual way to write a UUID.
pub(super) fn uuid(bytes: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (number, byte) in bytes.iter().enumerate() {
        if [4, 6, 8, 10].contains(&number) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}
