//! A small format that appends, in a right version and in several that each forget one thing: what proves that the
//! oracle can fail.
//!
//! Blocks of data lie in slots, each written once; a log of 512-byte records says which block is in which slot. A flush
//! writes the data, syncs, writes the records, and syncs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use sky_devices::block::simulated::SimulatedDisk;
use sky_devices::block::{BlockDevice, MemoryDisk, Storage};

use super::subject::{Image, Outcome, Subject, said};

const BLOCK: u64 = 4096;
const RECORD: u64 = 512;
const RECORDS: u64 = 1024;
/// The slot of a block of zeros.
const ZEROS: u64 = u64::MAX;

/// What a version of the format forgets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Toy {
    Nothing,
    /// The sync between data and records.
    DataSync,
    /// The sync at the end of a flush.
    LastSync,
    /// That the old slot of a block holds its durable version until the next one is durable.
    OldSlot,
    /// That a block of zeros hides the parent.
    Zeros,
    /// What the rest of a block holds in which a few sectors are written.
    Rest,
    /// Which records were there already when it is opened after a crash.
    OldRecords,
    /// That an error of the medium is not a success.
    Errors,
}

impl Subject for Toy {
    fn name(&self) -> &'static str {
        match self {
            Self::Nothing => "toy",
            Self::DataSync => "toy-data-sync",
            Self::LastSync => "toy-last-sync",
            Self::OldSlot => "toy-old-slot",
            Self::Zeros => "toy-zeros",
            Self::Rest => "toy-rest",
            Self::OldRecords => "toy-old-records",
            Self::Errors => "toy-errors",
        }
    }

    fn create(&self, disk: &Arc<SimulatedDisk>, size: u64, _parent: bool) -> Outcome<()> {
        disk.grow(RECORD * RECORDS + size.next_multiple_of(BLOCK)).and_then(|()| disk.sync()).map_err(said)
    }

    fn open(&self, disk: &Arc<SimulatedDisk>, parent: Option<&Arc<MemoryDisk>>) -> Outcome<Box<dyn Image>> {
        // Records of the last life that a crash may still take are made durable before anything follows them.
        disk.sync().map_err(said)?;
        let mut state =
            State { map: BTreeMap::new(), fresh: BTreeMap::new(), records: 0, slots: 0, free: Vec::new() };
        let mut records = vec![0; (RECORDS * RECORD) as usize];
        disk.read(0, &mut records).map_err(said)?;
        for (number, record) in (0..).zip(records.chunks(RECORD as usize)) {
            let word = |at: usize| u64::from_le_bytes(record[at..at + 8].try_into().unwrap());
            if word(0) == 0 {
                continue;
            }
            state.map.insert(word(8), word(16));
            if *self != Self::OldRecords {
                state.records = number + 1;
            }
            if word(16) != ZEROS {
                state.slots = state.slots.max(word(16) + 1);
            }
        }
        let (disk, parent) = (Arc::clone(disk), parent.cloned());
        Ok(Box::new(ToyImage { forgets: *self, disk, parent, state: Mutex::new(state) }))
    }
}

struct State {
    /// Slots of blocks, and of those whose records are not written yet.
    map: BTreeMap<u64, u64>,
    fresh: BTreeMap<u64, u64>,
    records: u64,
    slots: u64,
    /// Slots before the last one that are written again.
    free: Vec<u64>,
}

struct ToyImage {
    forgets: Toy,
    disk: Arc<SimulatedDisk>,
    parent: Option<Arc<MemoryDisk>>,
    state: Mutex<State>,
}

impl ToyImage {
    fn read_block(&self, state: &State, block: u64) -> Outcome<Vec<u8>> {
        let mut bytes = vec![0; BLOCK as usize];
        match state.fresh.get(&block).or_else(|| state.map.get(&block)) {
            Some(&ZEROS) if self.forgets != Toy::Zeros => {}
            Some(&slot) if slot != ZEROS => {
                self.disk.read(RECORD * RECORDS + slot * BLOCK, &mut bytes).map_err(said)?;
            }
            _ => {
                if let Some(parent) = &self.parent {
                    let size = parent.geometry().size;
                    let length = BLOCK.min(size - block * BLOCK) as usize;
                    parent.read(block * BLOCK, &mut bytes[..length], &[]).map_err(said)?;
                }
            }
        }
        Ok(bytes)
    }

    fn write_block(&self, state: &mut State, block: u64, bytes: &[u8]) -> Outcome<()> {
        let slot = state.free.pop().unwrap_or(state.slots);
        let end = RECORD * RECORDS + (slot + 1) * BLOCK;
        self.disk.grow(end).map_err(said)?;
        self.disk.write(end - BLOCK, bytes).map_err(said)?;
        state.slots = state.slots.max(slot + 1);
        state.fresh.insert(block, slot);
        if self.forgets == Toy::OldSlot {
            state.free.extend(state.map.remove(&block).filter(|slot| *slot != ZEROS));
        }
        Ok(())
    }

    /// Calls `change` with each block that a range touches, where it begins in the range, and the part of the block.
    fn blocks(
        &self,
        offset: u64,
        length: u64,
        mut change: impl FnMut(u64, usize, std::ops::Range<usize>) -> Outcome<()>,
    ) -> Outcome<()> {
        let mut at = offset;
        while at < offset + length {
            let start = at % BLOCK;
            let end = (start + offset + length - at).min(BLOCK);
            change(at / BLOCK, (at - offset) as usize, start as usize..end as usize)?;
            at += end - start;
        }
        Ok(())
    }

    fn sync(&self) -> Outcome<()> {
        match self.disk.sync() {
            Err(error) if self.forgets != Toy::Errors => Err(said(error)),
            _ => Ok(()),
        }
    }
}

impl Image for ToyImage {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Outcome<()> {
        let state = self.state.lock().unwrap();
        self.blocks(offset, buffer.len() as u64, |block, at, part| {
            let bytes = &self.read_block(&state, block)?[part];
            buffer[at..at + bytes.len()].copy_from_slice(bytes);
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> Outcome<()> {
        let mut state = self.state.lock().unwrap();
        self.blocks(offset, data.len() as u64, |block, at, part| {
            let mut bytes = match self.forgets {
                Toy::Rest => vec![0; BLOCK as usize],
                _ => self.read_block(&state, block)?,
            };
            let length = part.len();
            bytes[part].copy_from_slice(&data[at..at + length]);
            self.write_block(&mut state, block, &bytes)
        })
    }

    fn flush(&self) -> Outcome<()> {
        let state = &mut *self.state.lock().unwrap();
        if self.forgets != Toy::DataSync {
            self.sync()?;
        }
        if state.records + state.fresh.len() as u64 > RECORDS {
            return Err("the toy is full".to_owned());
        }
        let mut records = Vec::new();
        for (&block, &slot) in &state.fresh {
            let mut record = [0; RECORD as usize];
            record[..8].copy_from_slice(&[1; 8]);
            record[8..16].copy_from_slice(&block.to_le_bytes());
            record[16..24].copy_from_slice(&slot.to_le_bytes());
            records.extend(record);
        }
        self.disk.write(state.records * RECORD, &records).map_err(said)?;
        state.records += state.fresh.len() as u64;
        if self.forgets != Toy::LastSync {
            self.sync()?;
        }
        state.map.append(&mut state.fresh);
        Ok(())
    }

    fn discard(&self, offset: u64, length: u64) -> Outcome<()> {
        self.write_zeroes(offset, length, true)
    }

    fn write_zeroes(&self, offset: u64, length: u64, _unmap: bool) -> Outcome<()> {
        let mut state = self.state.lock().unwrap();
        self.blocks(offset, length, |block, _, part| {
            if part.len() as u64 == BLOCK {
                state.fresh.insert(block, ZEROS);
                return Ok(());
            }
            let mut bytes = self.read_block(&state, block)?;
            bytes[part].fill(0);
            self.write_block(&mut state, block, &bytes)
        })
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        self.flush()
    }
}
