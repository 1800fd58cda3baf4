//! The structures of an image as they lie there, one by one: to look at with `docs/selfie-format.md` in hand.
//!
//! Nothing is recovered or put together here, and what is no structure is told as such.

use serde::Serialize;

use super::format::{
    BLOCK, BLOCKS, Blocks, CLUSTER, Cluster, Entry, Kind, L1_ENTRY, L2_ENTRY, Lead, SUPERBLOCK,
    SUPERBLOCK_PLACES, Superblock, Virtual, ZONE_ENTRY, ZoneEntry, ZoneKind, decode_l1,
};
use super::superblock;
use crate::block::{Error, ErrorKind, Operation, Result, Storage};

/// One of the two copies of the superblock.
#[derive(Clone, Debug, Serialize)]
pub struct SuperblockDump {
    /// Byte offset in the image.
    pub offset: u64,
    /// What it says.
    pub superblock: Option<Superblock>,
    /// Why it says nothing.
    pub error: Option<String>,
}

/// An entry of the zone table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ZoneDump {
    /// Number of the zone.
    pub zone: u32,
    /// Byte offset of the zone in the image.
    pub offset: u64,
    /// `z`, `n` or `free`; `bad` for bytes that are no entry.
    pub kind: &'static str,
    /// How many of its clusters the summary knows.
    pub committed: u16,
    /// How many of its clusters were zeroed.
    pub zeroed: u16,
    /// How many times it was taken into use.
    pub epoch: u32,
    /// Byte offset of its summary in the image; 0 for none.
    pub summary: u64,
}

/// An entry of the L1 table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct L1Dump {
    /// Number of the table.
    pub table: u32,
    /// Byte offset of the table in the image; nothing for bytes that are no entry.
    pub offset: Option<u64>,
}

/// An entry of an L2 table, or the header of a lead block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EntryDump {
    /// Byte offset of the cluster on the disk.
    pub disk_offset: u64,
    /// `zero`, `embedded` or `plain`; `bad` for bytes that are no entry.
    pub kind: &'static str,
    /// Byte offset of the cluster in the image; 0 for none.
    pub image_offset: u64,
    /// Which of its blocks lies first.
    pub rotation: u8,
    /// Of two that speak of the same cluster the higher one counts.
    pub sequence: u64,
    /// One letter for each block: `d` is data, `f` data that was written after the mapping, `z` zeros, `-` absent.
    pub blocks: String,
}

/// Both copies of the superblock.
///
/// # Errors
/// The medium failed, or is too short for them.
pub fn dump_superblocks(storage: &dyn Storage) -> Result<Vec<SuperblockDump>> {
    let dump = |offset| {
        let mut bytes = [0; SUPERBLOCK];
        storage.read(offset, &mut bytes)?;
        let (superblock, error) = match Superblock::choose([&bytes, &bytes]) {
            Ok(superblock) => (Some(superblock), None),
            Err(error) => (None, Some(error.to_string())),
        };
        Ok(SuperblockDump { offset, superblock, error })
    };
    SUPERBLOCK_PLACES.into_iter().map(dump).collect()
}

/// The zones that have been used.
///
/// # Errors
/// As [`superblock`](super::superblock), or the medium failed.
pub fn dump_zones(storage: &dyn Storage) -> Result<Vec<ZoneDump>> {
    let layout = superblock(storage)?.layout;
    let mut zones = Vec::new();
    for_entries(
        storage,
        layout.zone_table,
        layout.zone_entries,
        |zone, bytes: &[u8; ZONE_ENTRY as usize]| {
            let entry = ZoneEntry::decode(zone, bytes);
            if entry.is_some_and(|entry| entry == ZoneEntry::default()) {
                return;
            }
            let kind = match entry.map(|entry| entry.kind) {
                Some(ZoneKind::Free) => "free",
                Some(ZoneKind::Z) => "z",
                Some(ZoneKind::N) => "n",
                None => "bad",
            };
            let ZoneEntry { committed, zeroed, epoch, summary, .. } = entry.unwrap_or_default();
            let offset = layout.zone(zone).map_or(0, Cluster::offset);
            zones.push(ZoneDump { zone, offset, kind, committed, zeroed, epoch, summary: summary.offset() });
        },
    )?;
    Ok(zones)
}

/// The L2 tables that there are.
///
/// # Errors
/// As [`superblock`](super::superblock), or the medium failed.
pub fn dump_l1(storage: &dyn Storage) -> Result<Vec<L1Dump>> {
    let layout = superblock(storage)?.layout;
    let mut tables = Vec::new();
    for_entries(storage, layout.l1, layout.l1_entries, |table, bytes: &[u8; L1_ENTRY as usize]| {
        match decode_l1(table, *bytes) {
            Some(Cluster::NONE) => {}
            place => tables.push(L1Dump { table, offset: place.map(Cluster::offset) }),
        }
    })?;
    Ok(tables)
}

/// What the L2 table number `table` says; nothing if there is no such table.
///
/// # Errors
/// As [`superblock`](super::superblock), or the table is not in the image, or the medium failed.
pub fn dump_l2(storage: &dyn Storage, table: u32) -> Result<Vec<EntryDump>> {
    let place =
        dump_l1(storage)?.into_iter().find(|entry| entry.table == table).and_then(|entry| entry.offset);
    let Some(place) = place else { return Ok(Vec::new()) };
    let mut entries = Vec::new();
    let count = super::format::L2_ENTRIES;
    for_entries(storage, place, count, |number, bytes: &[u8; L2_ENTRY]| {
        let Some(of) = table.checked_mul(count).and_then(|first| first.checked_add(number)) else { return };
        let entry = Entry::decode(Virtual(of), bytes);
        if entry.is_none_or(|entry| entry.kind != Kind::Empty) {
            entries.push(entry_dump(Virtual(of), entry));
        }
    })?;
    Ok(entries)
}

/// The header of the image's cluster at byte `offset`, if it has one that is its own.
///
/// # Errors
/// [`ErrorKind::Invalid`] if no cluster that can be allocated begins there; as [`superblock`](super::superblock), or
/// the medium failed.
pub fn dump_header(storage: &dyn Storage, offset: u64) -> Result<Option<EntryDump>> {
    let superblock = superblock(storage)?;
    let cluster = u32::try_from(offset / CLUSTER as u64).ok().map(Cluster);
    let slot = cluster.and_then(|cluster| Some((cluster, superblock.layout.slot(cluster)?)));
    let Some((cluster, (zone, _))) = slot.filter(|_| offset.is_multiple_of(CLUSTER as u64)) else {
        let why = "no cluster of a zone begins there";
        return Err(Error::new(ErrorKind::Invalid, Operation::Read).at(offset, BLOCK as u64).because(why));
    };
    let epoch =
        dump_zones(storage)?.into_iter().find(|entry| entry.zone == zone).map_or(0, |entry| entry.epoch);
    let mut block = vec![0; BLOCK];
    storage.read(offset, &mut block)?;
    let lead = Lead::decode(&block, cluster, epoch, &superblock.secret);
    Ok(lead.map(|lead| {
        let Lead { of, rotation, sequence, blocks, .. } = lead;
        entry_dump(
            of,
            Some(Entry { kind: Kind::Embedded, cluster, rotation, sequence, blocks, ..Entry::default() }),
        )
    }))
}

fn entry_dump(of: Virtual, entry: Option<Entry>) -> EntryDump {
    let kind = match entry.map(|entry| entry.kind) {
        Some(Kind::Empty) => "empty",
        Some(Kind::Zero) => "zero",
        Some(Kind::Embedded) => "embedded",
        Some(Kind::Plain) => "plain",
        None => "bad",
    };
    let Entry { cluster, rotation, sequence, blocks, .. } = entry.unwrap_or_default();
    let letter = |block| match blocks.get(block) {
        Blocks::FRESH => 'f',
        Blocks::ZERO => 'z',
        Blocks::HERE => 'd',
        _ => '-',
    };
    EntryDump {
        disk_offset: of.offset(),
        kind,
        image_offset: cluster.offset(),
        rotation,
        sequence,
        blocks: (0..BLOCKS).map(letter).collect(),
    }
}

/// Reads a table of `count` entries of `SIZE` bytes, a cluster at a time.
fn for_entries<const SIZE: usize>(
    storage: &dyn Storage,
    table: u64,
    count: u32,
    mut visit: impl FnMut(u32, &[u8; SIZE]),
) -> Result<()> {
    let mut cluster = vec![0; CLUSTER];
    let (mut number, mut offset) = (0, table);
    while number < count {
        storage.read(offset, &mut cluster)?;
        let (entries, _) = cluster.as_chunks::<SIZE>();
        for entry in entries {
            if number < count {
                visit(number, entry);
                number += 1;
            }
        }
        offset = offset.saturating_add(CLUSTER as u64);
    }
    Ok(())
}
