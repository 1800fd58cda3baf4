//! Garbage collection: what nothing leads to goes back, and what the index has lost it learns again.
//!
//! ```text
//!   buckets ──void claims out──▶ blocks that no claim names ──read, fingerprint──▶ claims ──▶ free space ──punch
//! ```
//!
//! It may run beside everything else, since each of its steps is one that the engine does anyway: buckets are
//! rewritten with fewer claims, claims wait until the journal has made durable what they say, and free blocks lose their
//! content as they do when they are given out. So a crash at any time leaves what a crash always may. No block that is
//! free is given out while its space goes back.

use serde::Serialize;

use super::index::{Claim, Swept};
use super::page::BLOCK;
use super::table::Table;
use super::{Core, Idedup, lock};
use crate::block::{Error, ErrorKind, Operation, Result};

/// Blocks of data that are read at once.
const BATCH: usize = 256;
/// Blocks that are looked at while the map is locked.
const LOOK: u32 = 1 << 16;
/// Blocks whose space goes back at once.
const PUNCH: u32 = 4096;

/// How much data is read for the index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reread {
    /// None.
    Nothing,
    /// Blocks that no claim names: their claims were lost with a torn or a full bucket, or a hint had called them unique.
    #[default]
    Unnamed,
    /// All of it: no claim is trusted, and the index is made anew.
    Everything,
}

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Claims of the index are looked at.
    Claims,
    /// Data is read and named.
    Data,
    /// Free space goes back.
    Space,
}

/// How far a stage is, in bytes. The total may grow while others write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// Bytes that are behind.
    pub done: u64,
    /// Bytes of the stage.
    pub total: u64,
}

/// What a collection has found and done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// Claims that spoke of what is gone, or were not trusted, and were thrown out.
    pub void_claims: u64,
    /// Buckets that a crash had torn.
    pub torn_buckets: u64,
    /// Blocks that were claimed again.
    pub claimed_blocks: u64,
    /// Blocks that were read and have the fingerprint of another one, which is claimed.
    pub twin_blocks: u64,
    /// Blocks that could not be read.
    pub unreadable_blocks: u64,
    /// Free blocks whose space was given back, had they any or not.
    pub given_back_blocks: u64,
    /// The medium below takes no space back.
    pub keeps_space: bool,
}

/// Physical blocks, a bit for each of them where there is any.
struct Blocks(Table);

impl Blocks {
    fn new(physical: u32) -> Self {
        Self(Table::new(physical.div_ceil(32)))
    }

    fn add(&mut self, physical: u32) {
        let at = physical.wrapping_sub(1);
        self.0.set(at / 32, self.0.get(at / 32) | 1 << (at % 32));
    }

    fn has(&self, physical: u32) -> bool {
        let at = physical.wrapping_sub(1);
        self.0.get(at / 32) >> (at % 32) & 1 == 1
    }
}

impl Idedup {
    /// Collects garbage, also while others use the disk. `watch` hears of each step, and says whether to go on.
    ///
    /// # Errors
    /// [`ErrorKind::Interrupted`] if `watch` said so, [`ErrorKind::ReadOnly`], or the medium failed. What was done so far
    /// stays.
    pub fn collect(&self, reread: Reread, watch: &mut dyn FnMut(Progress) -> bool) -> Result<Collected> {
        self.core.check_usable(Operation::Discard)?;
        let mut report = Collected::default();
        // So that what the guest has freed is free, and all claims are where they are swept.
        self.core.settle()?;
        let named = self.core.sweep(reread, watch, &mut report)?;
        if reread != Reread::Nothing {
            self.core.claim_again(&named, watch, &mut report)?;
        }
        self.core.settle()?;
        self.core.give_back(watch, &mut report)?;
        self.core.sync()?;
        Ok(report)
    }
}

fn step(watch: &mut dyn FnMut(Progress) -> bool, stage: Stage, done: u64, total: u64) -> Result<()> {
    let (done, total) = (done * BLOCK as u64, total.max(done) * BLOCK as u64);
    if watch(Progress { stage, done, total }) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Interrupted, Operation::Discard))
}

impl Core {
    /// Throws void claims out. Answers the blocks that the others name.
    fn sweep(
        &self,
        reread: Reread,
        watch: &mut dyn FnMut(Progress) -> bool,
        report: &mut Collected,
    ) -> Result<Blocks> {
        let mut named = Blocks::new(self.layout.physical);
        let total = lock(&self.index).written_buckets();
        let (mut next, mut swept) = (Some(0), Swept::default());
        while let Some(first) = next {
            step(watch, Stage::Claims, swept.buckets, total)?;
            let mut keep = |claim: Claim| {
                let kept = reread != Reread::Everything && lock(&self.state).is_valid(claim);
                if kept {
                    named.add(claim.physical);
                }
                kept
            };
            next = lock(&self.index).sweep(first, &mut keep, &mut swept)?;
        }
        step(watch, Stage::Claims, swept.buckets, total)?;
        let index = lock(&self.index);
        let state = lock(&self.state);
        index.waiting().filter(|claim| state.is_valid(*claim)).for_each(|claim| named.add(claim.physical));
        (report.void_claims, report.torn_buckets) = (swept.void, swept.torn);
        Ok(named)
    }

    /// Reads the blocks that nobody has named, and claims them.
    fn claim_again(
        &self,
        named: &Blocks,
        watch: &mut dyn FnMut(Progress) -> bool,
        report: &mut Collected,
    ) -> Result<()> {
        let mut total = 0;
        let (mut at, mut done) = (0, 0);
        while at < self.layout.physical {
            total += self.unnamed(named, &mut at, usize::MAX).len() as u64;
        }
        at = 0;
        let mut bytes = vec![0; BATCH * BLOCK];
        while at < self.layout.physical {
            let claims = self.unnamed(named, &mut at, BATCH);
            if claims.is_empty() {
                continue;
            }
            step(watch, Stage::Data, done, total)?;
            let bytes = &mut bytes[..claims.len() * BLOCK];
            self.name_blocks(&claims, bytes, report)?;
            done += claims.len() as u64;
            self.make_room()?;
        }
        step(watch, Stage::Data, done, total)
    }

    /// What is in the next blocks that are in use and have no name, `most` of them at most.
    fn unnamed(&self, named: &Blocks, at: &mut u32, most: usize) -> Vec<Claim> {
        let state = lock(&self.state);
        let end = at.saturating_add(LOOK).min(self.layout.physical);
        let mut claims = Vec::new();
        while *at < end && claims.len() < most {
            *at = state.space.skip(*at, end);
            if *at == end {
                break;
            }
            *at += 1;
            if state.space.references(*at) > 0 && !named.has(*at) {
                claims.push(state.claim(*at));
            }
        }
        claims
    }

    /// Reads blocks and claims what they hold.
    fn name_blocks(&self, claims: &[Claim], bytes: &mut [u8], report: &mut Collected) -> Result<()> {
        let mut reads: Vec<(u64, &mut [u8])> = Vec::new();
        let mut rest = &mut *bytes;
        for run in claims.chunk_by(|a, b| a.physical + 1 == b.physical) {
            let Some(first) = run.first() else { continue };
            let (buffer, behind) = rest.split_at_mut(run.len() * BLOCK);
            rest = behind;
            reads.push((self.layout.data_place(first.physical), buffer));
        }
        let all = self.storage.read_many(&mut reads).is_ok();
        for (claim, block) in claims.iter().zip(bytes.chunks_exact_mut(BLOCK)) {
            // One bad place of the medium costs one block.
            if !all && self.storage.read(self.layout.data_place(claim.physical), block).is_err() {
                report.unreadable_blocks += 1;
                continue;
            }
            let name = self.layout.verify.name(block);
            let mut index = lock(&self.index);
            let there = index.find(&name).ok().and_then(|(there, _)| there);
            let state = lock(&self.state);
            // Only a block that was never given back held this all the time.
            if !state.is_valid(*claim) {
                continue;
            }
            match there {
                // Somebody was quicker.
                Some(there) if there == *claim => {}
                Some(there) if state.is_valid(there) => report.twin_blocks += 1,
                _ => {
                    index.insert(name, *claim);
                    report.claimed_blocks += 1;
                }
            }
        }
        Ok(())
    }

    /// Brings all claims to their buckets, and has a checkpoint know these.
    fn settle(&self) -> Result<()> {
        let mark = lock(&self.index).mark();
        let mut commit = lock(&self.commit);
        self.commit(&mut commit)?;
        self.spill(mark)?;
        lock(&self.index).settle(&|claim| lock(&self.state).is_valid(claim))?;
        self.checkpoint(&mut commit, 0)
    }

    /// Gives the space of all free blocks back.
    fn give_back(&self, watch: &mut dyn FnMut(Progress) -> bool, report: &mut Collected) -> Result<()> {
        let mut at = 0;
        loop {
            let total = u64::from(lock(&self.state).space.free());
            step(watch, Stage::Space, report.given_back_blocks, total)?;
            let _aside = lock(&self.aside);
            let Some(run) = lock(&self.state).space.set_aside(at, PUNCH) else { return Ok(()) };
            let length = u64::from(run.end - run.start) * BLOCK as u64;
            let punched = self.storage.punch(self.layout.data_place(run.start), length);
            lock(&self.state).space.end_aside();
            if !punched? {
                report.keeps_space = true;
                return Ok(());
            }
            report.given_back_blocks += u64::from(run.end - run.start);
            at = run.end - 1;
        }
    }
}
