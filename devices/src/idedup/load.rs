//! Reading an image, also after a crash.

use std::collections::BTreeMap;

use super::checkpoint::{Checkpoint, Slot};
use super::fingerprint::Fingerprint;
use super::index::Claim;
use super::journal::{Record, Ring, replay};
use super::layout::Layout;
use super::page::{self, BLOCK, Kind};
use super::state::State;
use crate::block::{Error, ErrorKind, Operation, Result, Storage};

/// Pages that are read at once.
const BATCH: usize = 64;

/// An image as it was found.
pub(super) struct Loaded {
    pub(super) state: State,
    pub(super) checkpoint: Checkpoint,
    /// The first sequence that no page of its journal ever had.
    pub(super) next: u64,
    /// Claims that may be in no bucket.
    pub(super) claims: Vec<(Fingerprint, Claim)>,
    /// Records whose data had not arrived.
    pub(super) left_out: u64,
}

fn corrupt(why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, Operation::Open).because(why)
}

/// The place of the journal.
pub(super) fn ring(layout: &Layout) -> Ring {
    Ring {
        offset: layout.journal,
        pages: layout.journal_pages,
        identity: layout.identity,
        width: layout.verify.width(),
    }
}

/// Reads an image and recovers it in memory.
///
/// # Errors
/// [`ErrorKind::Corrupt`], or the medium failed.
pub(super) fn load(storage: &dyn Storage, layout: &Layout, remembered: usize) -> Result<Loaded> {
    let checkpoint = Checkpoint::read(storage, layout)?;
    let mut state = State::new(layout, remembered);
    read_tables(storage, layout, &checkpoint, &mut state)?;
    let journal = replay(storage, ring(layout), checkpoint.number, checkpoint.start)?;
    let arrived = arrived(storage, layout, &journal.tail)?;
    let mut claims = Vec::new();
    for record in &journal.durable {
        claims.extend(state.replay(layout, record, |_| false)?);
    }
    let is_bad = |physical: u32| arrived.get(&physical) == Some(&false);
    for record in &journal.tail {
        claims.extend(state.replay(layout, record, is_bad)?);
    }
    let left_out = arrived.values().filter(|there| !**there).count() as u64;
    let State { map, space, mapped, .. } = &mut state;
    for (logical, physical) in map.iter() {
        if logical >= layout.logical || physical > layout.physical {
            return Err(corrupt("its map leads to a block that is none"));
        }
        space.refer(physical);
        *mapped += 1;
    }
    Ok(Loaded { state, checkpoint, next: journal.next, claims, left_out })
}

fn read_tables(
    storage: &dyn Storage,
    layout: &Layout,
    checkpoint: &Checkpoint,
    state: &mut State,
) -> Result<()> {
    let mut numbers = (0..layout.table_pages).filter(|page| checkpoint.slot(*page) != Slot::None);
    loop {
        let batch: Vec<u64> = numbers.by_ref().take(BATCH).collect();
        if batch.is_empty() {
            return Ok(());
        }
        let mut bytes = vec![0; batch.len() * BLOCK];
        let place = |page: u64| layout.table_place(page, checkpoint.slot(page).number());
        let mut reads: Vec<_> =
            batch.iter().zip(bytes.chunks_mut(BLOCK)).map(|(page, bytes)| (place(*page), bytes)).collect();
        storage.read_many(&mut reads)?;
        for (number, bytes) in batch.iter().zip(bytes.chunks(BLOCK)) {
            if page::number(Kind::Table, layout.identity, bytes) != Some(*number) {
                return Err(corrupt("a page of its tables is none").at(place(*number), BLOCK as u64));
            }
            let (table, first) = if *number < layout.map_pages {
                (&mut state.map, 0)
            } else {
                (&mut state.generations, layout.map_pages)
            };
            table.decode(u32::try_from(number - first).unwrap_or(u32::MAX), bytes);
        }
    }
}

/// Which of the blocks that a tail calls new have the content that it tells of.
fn arrived(storage: &dyn Storage, layout: &Layout, tail: &[Record]) -> Result<BTreeMap<u32, bool>> {
    let mut arrived = BTreeMap::new();
    let mut block = [0; BLOCK];
    for record in tail {
        let Record::New { physical, crc, .. } = *record else { continue };
        if !(1..=layout.physical).contains(&physical) {
            return Err(corrupt("its journal makes no sense"));
        }
        storage.read(layout.data_place(physical), &mut block)?;
        let same = crc32c::crc32c(&block) == crc;
        arrived.entry(physical).and_modify(|there| *there &= same).or_insert(same);
    }
    Ok(arrived)
}
