//! What is known in memory of an open image: the map, and what changes it.

use super::fingerprint::Fingerprint;
use super::index::Claim;
use super::journal::Record;
use super::layout::Layout;
use super::lru::Lru;
use super::space::Space;
use super::table::Table;
use crate::block::{Error, ErrorKind, Operation, Result};

/// The map and all that follows from it.
#[derive(Debug)]
pub(super) struct State {
    pub(super) map: Table,
    /// The generation of physical block p is number p - 1.
    pub(super) generations: Table,
    pub(super) space: Space,
    /// Logical blocks that lead somewhere.
    pub(super) mapped: u32,
    /// What the journal has not been told.
    pub(super) pending: Vec<Record>,
    /// Blocks whose last reference has gone since the journal was told.
    pub(super) freed: Vec<u32>,
    /// Blocks that may be written again soon.
    pub(super) recent: Lru<Fingerprint, Claim>,
}

impl State {
    pub(super) fn new(layout: &Layout, remembered: usize) -> Self {
        Self {
            map: Table::new(layout.logical),
            generations: Table::new(layout.physical),
            space: Space::new(layout.physical),
            mapped: 0,
            pending: Vec::new(),
            freed: Vec::new(),
            recent: Lru::new(remembered),
        }
    }

    /// Bytes of memory that the map takes, and what follows from it.
    pub(super) fn map_memory(&self) -> u64 {
        self.map.memory() + self.generations.memory() + self.space.memory()
    }

    /// What is in a physical block now.
    pub(super) fn claim(&self, physical: u32) -> Claim {
        Claim { physical, generation: self.generations.get(physical.wrapping_sub(1)) }
    }

    /// Whether a claim speaks of what is in its block now.
    pub(super) fn is_valid(&self, claim: Claim) -> bool {
        self.space.references(claim.physical) > 0 && self.claim(claim.physical) == claim
    }

    /// Takes a reference to the block of a claim, if it is valid.
    pub(super) fn reserve(&mut self, claim: Claim) -> bool {
        let valid = self.is_valid(claim);
        if valid {
            self.space.refer(claim.physical);
        }
        valid
    }

    /// Gives a reference back.
    pub(super) fn leave(&mut self, physical: u32) {
        if self.space.leave(physical) {
            self.freed.push(physical);
        }
    }

    /// A free block, which nothing leads to yet.
    pub(super) fn take(&mut self) -> Option<u32> {
        let generations = &self.generations;
        self.space.take(|physical| generations.get(physical.wrapping_sub(1)) < u32::MAX)
    }

    fn lead(&mut self, logical: u32, physical: u32) {
        let old = self.map.get(logical);
        self.map.set(logical, physical);
        if old != 0 {
            self.mapped -= 1;
            self.leave(old);
        }
        if physical != 0 {
            self.mapped += 1;
        }
    }

    /// A logical block leads to a block that was taken, and has content by now.
    pub(super) fn store(
        &mut self,
        logical: u32,
        physical: u32,
        crc: u32,
        name: Option<Fingerprint>,
    ) -> Claim {
        let at = physical.wrapping_sub(1);
        self.generations.set(at, self.generations.get(at).saturating_add(1));
        self.space.refer(physical);
        self.lead(logical, physical);
        self.pending.push(Record::New { logical, physical, crc, name });
        self.claim(physical)
    }

    /// A logical block leads to a block to which a reference was taken. Answers whether it did not before.
    pub(super) fn share(&mut self, logical: u32, physical: u32) -> bool {
        if self.map.get(logical) == physical {
            self.leave(physical);
            return false;
        }
        self.lead(logical, physical);
        self.pending.push(Record::Share { logical, physical });
        true
    }

    /// Logical blocks become zeros.
    pub(super) fn unmap(&mut self, first: u32, end: u32) {
        let mut at = self.map.skip(first, end);
        while at < end {
            if self.map.get(at) != 0 {
                self.lead(at, 0);
                match self.pending.last_mut() {
                    Some(Record::Unmap { logical, count }) if *logical + *count == at => *count += 1,
                    _ => self.pending.push(Record::Unmap { logical: at, count: 1 }),
                }
            }
            at = self.map.skip(at + 1, end);
        }
    }

    /// Does what a record says, without references, which are counted in the end. Of a block that is `bad` only the
    /// generation is as it says.
    pub(super) fn replay(
        &mut self,
        layout: &Layout,
        record: &Record,
        bad: impl Fn(u32) -> bool,
    ) -> Result<Option<(Fingerprint, Claim)>> {
        let corrupt =
            || Error::new(ErrorKind::Corrupt, Operation::Open).because("its journal makes no sense");
        let known = |logical: u32, physical: u32| {
            logical < layout.logical && (1..=layout.physical).contains(&physical)
        };
        match *record {
            Record::New { logical, physical, name, .. } if known(logical, physical) => {
                let at = physical - 1;
                let generation = self.generations.get(at).checked_add(1).ok_or_else(corrupt)?;
                self.generations.set(at, generation);
                if bad(physical) {
                    return Ok(None);
                }
                self.map.set(logical, physical);
                Ok(name.map(|name| (name, Claim { physical, generation })))
            }
            Record::Share { logical, physical } if known(logical, physical) => {
                if !bad(physical) {
                    self.map.set(logical, physical);
                }
                Ok(None)
            }
            Record::Unmap { logical, count } => {
                let end = logical.checked_add(count).filter(|end| *end <= layout.logical);
                let end = end.ok_or_else(corrupt)?;
                let mut at = self.map.skip(logical, end);
                while at < end {
                    self.map.set(at, 0);
                    at = self.map.skip(at + 1, end);
                }
                Ok(None)
            }
            _ => Err(corrupt()),
        }
    }
}
