//! Writing: what each block of a request becomes, then the data that is new, then the map.
//!
//! The data is written to blocks that nothing leads to, without any lock but that of the region; a failed write leaves
//! the map as it was.

use std::borrow::Cow;
use std::collections::HashMap;

use super::fingerprint::Fingerprint;
use super::options::Verify;
use super::page::BLOCK;
use super::stats::count;
use super::{Core, REGION, lock};
use crate::block::{Error, ErrorKind, Operation, Result, length_of};
use crate::io_class::IoTag;

/// The part of a request that lies in one region.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    /// The first block that it touches.
    pub(super) first: u32,
    /// Bytes of that block before it.
    pub(super) skip: usize,
    pub(super) length: usize,
}

impl Chunk {
    /// The parts of a request that lies on the disk.
    pub(super) fn all(offset: u64, length: u64) -> impl Iterator<Item = Self> {
        let end = offset + length;
        let mut at = offset;
        std::iter::from_fn(move || {
            let region = u64::from(REGION) * BLOCK as u64;
            let next = ((at / region + 1) * region).min(end);
            let chunk = Self {
                first: u32::try_from(at / BLOCK as u64).ok()?,
                skip: usize::try_from(at % BLOCK as u64).ok()?,
                length: usize::try_from(next.checked_sub(at).filter(|length| *length > 0)?).ok()?,
            };
            at = next;
            Some(chunk)
        })
    }

    /// Blocks that it touches.
    pub(super) fn count(&self) -> usize {
        (self.skip + self.length).div_ceil(BLOCK)
    }

    /// Whether these are whole.
    pub(super) fn is_whole(&self) -> bool {
        self.skip == 0 && self.length.is_multiple_of(BLOCK)
    }
}

/// What becomes of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Zeros,
    /// It is there: a reference to this block was taken.
    Shared(u32),
    /// It is the same as that block of the chunk.
    Like(usize),
    /// It is stored, and what it can be found by.
    New(Option<Fingerprint>),
}

impl Core {
    pub(super) fn write_chunk(&self, chunk: Chunk, data: &[u8], tags: &[IoTag]) -> Result<()> {
        self.make_room()?;
        let _region = self.regions.exclusive(chunk.first);
        self.write_locked(chunk, data, tags)
    }

    /// The same by who has the region's lock.
    pub(super) fn write_locked(&self, chunk: Chunk, data: &[u8], tags: &[IoTag]) -> Result<()> {
        let blocks = self.whole(chunk, data)?;
        let mut fates = Vec::new();
        let mut places = vec![0; chunk.count()];
        let written = self
            .decide(&blocks, tags, &mut fates)
            .and_then(|()| self.take_blocks(&fates, &mut places))
            .and_then(|()| self.write_new(&blocks, &places));
        if let Err(error) = written {
            let mut state = lock(&self.state);
            for fate in fates {
                if let Fate::Shared(physical) = fate {
                    state.leave(physical);
                }
            }
            places.into_iter().for_each(|physical| state.space.release(physical));
            return Err(error);
        }
        self.publish(chunk.first, &blocks, tags, &fates, &places);
        Ok(())
    }

    /// What a write makes of the blocks that it touches.
    fn whole<'a>(&self, chunk: Chunk, data: &'a [u8]) -> Result<Cow<'a, [u8]>> {
        if chunk.is_whole() {
            return Ok(Cow::Borrowed(data));
        }
        let mut blocks = vec![0; chunk.count() * BLOCK];
        let end = chunk.skip + chunk.length;
        if chunk.skip > 0 {
            self.read_blocks(chunk.first, &mut blocks[..BLOCK], false)?;
        }
        if !end.is_multiple_of(BLOCK) && (chunk.skip == 0 || chunk.count() > 1) {
            let last = chunk.count() - 1;
            let number = (chunk.first..).nth(last).unwrap_or(u32::MAX);
            self.read_blocks(number, &mut blocks[last * BLOCK..], false)?;
        }
        blocks[chunk.skip..end].copy_from_slice(data);
        Ok(Cow::Owned(blocks))
    }

    fn is_unique(&self, tag: Option<&IoTag>) -> bool {
        let (Some(hints), Some(tag)) = (self.options.hints, tag) else { return false };
        let followed = hints.unique;
        (followed.program && tag.unique.program)
            || (followed.extension && tag.unique.extension)
            || (followed.entropy && tag.unique.entropy)
    }

    /// Finds out what becomes of each block. References that were taken are in `fates` also after an error.
    fn decide(&self, blocks: &[u8], tags: &[IoTag], fates: &mut Vec<Fate>) -> Result<()> {
        let mut named: HashMap<Fingerprint, usize> = HashMap::new();
        for (number, block) in blocks.chunks_exact(BLOCK).enumerate() {
            let tag = tags.get(number);
            let fate = if block == [0; BLOCK] {
                count(&self.counters.zero_blocks, 1);
                Fate::Zeros
            } else if self.is_unique(tag) {
                count(&self.counters.unique_blocks, 1);
                Fate::New(None)
            } else {
                match self.recall(block, tag)? {
                    Some(physical) => Fate::Shared(physical),
                    None => self.look_up(block, |name| {
                        let like = named.get(&name).copied();
                        like.filter(|like| blocks[like * BLOCK..][..BLOCK] == *block)
                    })?,
                }
            };
            if let (Fate::New(Some(name)), 0 | 1) = (fate, self.options.threshold) {
                named.entry(name).or_insert(number);
            }
            fates.push(fate);
        }
        self.drop_short_runs(blocks, fates);
        Ok(())
    }

    /// Duplicates of which too few come in a row are stored again.
    fn drop_short_runs(&self, blocks: &[u8], fates: &mut [Fate]) {
        let mut at = 0;
        let follows = |a: &Fate, b: &Fate| match (a, b) {
            (Fate::Shared(a), Fate::Shared(b)) => a + 1 == *b,
            _ => false,
        };
        while at < fates.len() {
            let more = fates[at..].windows(2).take_while(|pair| follows(&pair[0], &pair[1])).count();
            let run = &mut fates[at..=at + more];
            if (run.len() as u64) < u64::from(self.options.threshold) {
                for (fate, block) in run.iter_mut().zip(blocks[at * BLOCK..].chunks_exact(BLOCK)) {
                    if let Fate::Shared(physical) = *fate {
                        lock(&self.state).leave(physical);
                        count(&self.counters.below_threshold, 1);
                        *fate = Fate::New(Some(self.layout.verify.name(block)));
                    }
                }
            }
            at += more + 1;
        }
    }

    /// What a block is remembered by; nothing if none are remembered.
    pub(super) fn short_name(&self, block: &[u8]) -> Option<Fingerprint> {
        let secret = self.secret.as_ref()?;
        Some(match self.layout.verify {
            Verify::Fingerprint => secret.name(block),
            // These are short themselves, and weak ones are to be found out.
            verify @ Verify::Compare { .. } => verify.name(block),
        })
    }

    /// A block that was read or written lately and holds the same, with a reference taken to it.
    fn recall(&self, block: &[u8], tag: Option<&IoTag>) -> Result<Option<u32>> {
        let Some(name) = self.short_name(block) else { return Ok(None) };
        let mut state = lock(&self.state);
        let Some(claim) = state.recent.get(&name).copied() else { return Ok(None) };
        if !state.reserve(claim) {
            state.recent.remove(&name);
            return Ok(None);
        }
        drop(state);
        count(&self.counters.answered_recent, 1);
        if tag.is_some_and(|tag| tag.copied_from.is_some()) {
            count(&self.counters.answered_copies, 1);
        }
        self.compare(claim.physical, block)
    }

    /// What becomes of a block that is not remembered, if the chunk has none `like` it so far.
    fn look_up(&self, block: &[u8], like: impl Fn(Fingerprint) -> Option<usize>) -> Result<Fate> {
        let name = self.layout.verify.name(block);
        if let Some(like) = like(name) {
            count(&self.counters.answered_request, 1);
            return Ok(Fate::Like(like));
        }
        Ok(self.find(name, block)?.map_or(Fate::New(Some(name)), Fate::Shared))
    }

    /// A block that the index says to hold the same, with a reference taken to it.
    fn find(&self, name: Fingerprint, block: &[u8]) -> Result<Option<u32>> {
        let (claim, answered) = match lock(&self.index).find(&name) {
            Ok(found) => found,
            Err(_) => {
                // The index saves space; a write can do without.
                count(&self.counters.failed_lookups, 1);
                return Ok(None);
            }
        };
        self.counters.answered(answered);
        let Some(claim) = claim else { return Ok(None) };
        if !lock(&self.state).reserve(claim) {
            count(&self.counters.stale_claims, 1);
            return Ok(None);
        }
        self.compare(claim.physical, block)
    }

    /// Keeps the reference to a block that was found if it is equal, where that has to be looked at.
    fn compare(&self, physical: u32, block: &[u8]) -> Result<Option<u32>> {
        if self.layout.verify == Verify::Fingerprint {
            return Ok(Some(physical));
        }
        let mut there = [0; BLOCK];
        let read = self.storage.read(self.layout.data_place(physical), &mut there);
        if read.is_ok() && there == *block {
            return Ok(Some(physical));
        }
        lock(&self.state).leave(physical);
        read?;
        count(&self.counters.collisions, 1);
        Ok(None)
    }

    /// Takes a free block for each that is new. If there are too few, those that wait for a flush are made free by one.
    /// What was taken is in `places` also after an error.
    fn take_blocks(&self, fates: &[Fate], places: &mut [u32]) -> Result<()> {
        if self.take_free(fates, places) {
            return Ok(());
        }
        // Those that are set aside count, too.
        let _aside = lock(&self.aside);
        self.make_durable()?;
        if self.take_free(fates, places) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NoSpace, Operation::Write).because("all blocks are in use"))
    }

    /// Takes what is free now. Answers whether that was enough.
    fn take_free(&self, fates: &[Fate], places: &mut [u32]) -> bool {
        let mut state = lock(&self.state);
        for (place, fate) in places.iter_mut().zip(fates) {
            if *place == 0 && matches!(fate, Fate::New(_)) {
                match state.take() {
                    Some(physical) => *place = physical,
                    None => return false,
                }
            }
        }
        true
    }

    /// Writes the blocks that were given places, side by side where the places are.
    fn write_new(&self, blocks: &[u8], places: &[u32]) -> Result<()> {
        let mut at = 0;
        for run in places.chunk_by(|a, b| *a != 0 && a + 1 == *b) {
            let bytes = &blocks[at * BLOCK..][..run.len() * BLOCK];
            at += run.len();
            let Some(&first) = run.first().filter(|first| **first != 0) else { continue };
            self.storage.write(self.layout.data_place(first), bytes)?;
            count(&self.counters.data_bytes, length_of(bytes));
        }
        Ok(())
    }

    /// The blocks are what was written.
    fn publish(&self, first: u32, blocks: &[u8], tags: &[IoTag], fates: &[Fate], places: &[u32]) {
        let (mut claims, mut duplicates) = (Vec::new(), 0);
        let crcs: Vec<u32> = blocks
            .chunks_exact(BLOCK)
            .zip(places)
            .map(|(block, place)| if *place == 0 { 0 } else { crc32c::crc32c(block) })
            .collect();
        let remembered: Vec<Option<Fingerprint>> = blocks
            .chunks_exact(BLOCK)
            .zip(fates)
            .enumerate()
            .map(|(number, (block, fate))| {
                let known_file = tags.get(number).is_some_and(|tag| tag.source.is_some());
                (known_file && matches!(fate, Fate::New(Some(_)))).then(|| self.short_name(block)).flatten()
            })
            .collect();
        {
            let mut state = lock(&self.state);
            for (number, (logical, fate)) in (first..).zip(fates).enumerate() {
                match *fate {
                    Fate::Zeros => state.unmap(logical, logical + 1),
                    Fate::Shared(physical) => {
                        state.share(logical, physical);
                        duplicates += 1;
                    }
                    Fate::Like(other) => {
                        state.space.refer(places[other]);
                        state.share(logical, places[other]);
                        duplicates += 1;
                    }
                    Fate::New(name) => {
                        let claim = state.store(logical, places[number], crcs[number], name);
                        let Some(name) = name else { continue };
                        claims.push((name, claim));
                        if let Some(short_name) = remembered[number] {
                            state.recent.insert(short_name, claim);
                        }
                    }
                }
            }
        }
        let new = places.iter().filter(|place| **place != 0).count() as u64;
        count(&self.counters.written_blocks, fates.len() as u64);
        count(&self.counters.new_blocks, new);
        count(&self.counters.duplicate_blocks, duplicates);
        let mut index = lock(&self.index);
        claims.into_iter().for_each(|(name, claim)| index.insert(name, claim));
    }

    /// Makes a part of a region zeros.
    pub(super) fn zero_chunk(&self, chunk: Chunk) -> Result<()> {
        let _region = self.regions.exclusive(chunk.first);
        let (begin, end) = (chunk.skip, chunk.skip + chunk.length);
        let block = |number: usize| (chunk.first..).nth(number).unwrap_or(u32::MAX);
        // The disk may end inside a block.
        let last_byte = u64::from(chunk.first) * BLOCK as u64 + end as u64;
        let whole = if last_byte == self.layout.size { end.div_ceil(BLOCK) } else { end / BLOCK };
        let first_whole = begin.div_ceil(BLOCK);
        let edge = |from: usize, to: usize| {
            let number = block(from / BLOCK);
            if from >= to || lock(&self.state).map.get(number) == 0 {
                return Ok(());
            }
            let piece = Chunk { first: number, skip: from % BLOCK, length: to - from };
            self.write_locked(piece, &vec![0; to - from], &[])
        };
        if first_whole > whole {
            return edge(begin, end);
        }
        edge(begin, first_whole * BLOCK)?;
        edge(whole * BLOCK, end)?;
        lock(&self.state).unmap(block(first_whole), block(whole));
        Ok(())
    }
}
