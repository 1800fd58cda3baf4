//! Where clusters come from: zones that are zeroed ahead, and handed out from the first cluster to the last.
//!
//! ```text
//!            activate: grow, zero the first clusters, table entry, sync      all dead, and that is durable
//!   free ──────────────────────────────▶ open ──────▶ full ─────────────────────────────▶ free, epoch + 1
//!                                         │ zero more, sync, then hand out
//! ```
//!
//! No cluster is handed out twice while its zone is in use: one that is given up stays dead, with a hole in its place,
//! until the whole zone is. So a header, or a table that speaks of a cluster, is never about something else's data.

mod streams;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::format::{Cluster, Layout, SLOTS, SUMMARIES, Virtual, ZONE, ZONE_ENTRY, ZoneEntry, ZoneKind};
use super::options::{OpenOptions, Summaries, Zeroing};
use crate::block::{Error, ErrorKind, Operation, Result, Storage};

/// Clusters that are zeroed at once, at least and at most: the first ones of a new image should not take long, and
/// every piece costs a sync.
const PIECES: (u16, u16) = (16, 128);
/// How far ahead zeros are written at most, in clusters.
const AHEAD: u64 = 512;
/// Bytes of one write of zeros.
const ZEROES: usize = 1 << 20;
const PAGE: usize = 4096;

/// One zone.
#[derive(Debug)]
pub(super) struct Zone {
    pub(super) entry: ZoneEntry,
    /// The next cluster that is handed out; those before are in use or dead.
    pub(super) next: u16,
    /// Clusters before this one, and not before `next`, are zeros, durably.
    pub(super) zeroed: u16,
    /// Clusters in use.
    pub(super) live: u16,
    /// Headers of clusters before this one do not change any more: a summary is being written, or was.
    pub(super) frozen: u16,
    /// What is zeros ahead is holes, so that the next time that the image is opened counts on nothing.
    holes: bool,
    /// Of a Z zone that the summary does not know entirely: what was put into its clusters.
    owners: Vec<Option<Virtual>>,
}

impl Zone {
    /// A zone as its entry describes it, none of whose clusters is known to be in use.
    pub(super) fn new(entry: ZoneEntry) -> Self {
        Self { entry, next: 0, zeroed: 0, live: 0, frozen: entry.committed, holes: false, owners: Vec::new() }
    }

    /// A cluster can be handed out.
    fn ready(&self) -> bool {
        self.next < self.zeroed.min(SLOTS)
    }

    /// Cluster `slot` holds `of`, or something that is not the disk's.
    pub(super) fn occupy(&mut self, slot: u16, of: Option<Virtual>) {
        self.live += 1;
        self.next = self.next.max(slot.saturating_add(1));
        self.own(slot, of);
    }

    fn own(&mut self, slot: u16, of: Option<Virtual>) {
        let slot = usize::from(slot);
        if self.entry.kind == ZoneKind::Z && of.is_some() {
            if self.owners.len() <= slot {
                self.owners.resize(slot + 1, None);
            }
            self.owners[slot] = of;
        }
    }
}

#[derive(Debug, Default)]
struct Inner {
    zones: Vec<Zone>,
    /// Zones of either kind that are not full, the one in use first.
    open: [VecDeque<u32>; 2],
    /// The zones that streams take clusters from, which are not among the others. They are holes.
    streams: [Option<u32>; 2],
    /// There was no room for such a zone, and none was freed since; or the medium makes no holes.
    no_streams: bool,
    /// Z zones that are full and whose summaries do not know all.
    full: Vec<u32>,
    /// Zones that are free, of which the medium may say otherwise.
    freed: Vec<u32>,
    /// Clusters that were handed out, by kind, but for those of a stream.
    handed: [u64; 2],
    /// Clusters that were handed out since the last flush.
    unflushed: u64,
    /// [`PACE`] times as many as were handed out between two flushes, on average of the last ones.
    pace: u64,
}

impl Inner {
    /// Zones of a kind that are not full.
    fn unfilled(&self, kind: ZoneKind) -> impl Iterator<Item = u32> {
        self.open[index(kind)].iter().copied().chain(self.streams[index(kind)])
    }
}

/// All zones of an image.
#[derive(Debug)]
pub(super) struct Zones {
    layout: Layout,
    storage: Arc<dyn Storage>,
    /// The engine's: a sync has failed.
    failed: Arc<AtomicBool>,
    zeroing: Zeroing,
    stream: u64,
    summaries: Summaries,
    inner: Mutex<Inner>,
    /// Held by whoever zeroes, or frees zones: one at a time.
    preparing: Mutex<()>,
    /// Held while a block of the zone table is made and written.
    table: Mutex<()>,
    pub(super) zeroed_bytes: AtomicU64,
}

fn index(kind: ZoneKind) -> usize {
    usize::from(kind == ZoneKind::N)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic in between leaves clusters that nobody uses, nothing worse.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a batch of a Z zone's clusters holds, for its summary.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) zone: u32,
    pub(super) entry: ZoneEntry,
    /// Up to which cluster.
    pub(super) end: u16,
    pub(super) owners: Vec<Option<Virtual>>,
}

impl Zones {
    /// The zones of an image; those that are not full are handed out from where they were left.
    pub(super) fn new(
        layout: Layout,
        storage: Arc<dyn Storage>,
        failed: Arc<AtomicBool>,
        options: &OpenOptions,
        zones: Vec<Zone>,
    ) -> Self {
        let mut inner = Inner { zones, ..Inner::default() };
        for (number, zone) in (0u32..).zip(&mut inner.zones) {
            match zone.entry.kind {
                ZoneKind::Free => {}
                kind if zone.next < SLOTS => inner.open[index(kind)].push_back(number),
                ZoneKind::Z if zone.entry.committed < SLOTS => inner.full.push(number),
                _ => {}
            }
        }
        Self {
            layout,
            storage,
            failed,
            zeroing: options.zeroing,
            stream: options.stream,
            summaries: options.summaries,
            inner: Mutex::new(inner),
            preparing: Mutex::default(),
            table: Mutex::default(),
            zeroed_bytes: AtomicU64::new(0),
        }
    }

    fn sync(&self) -> Result<()> {
        self.storage.sync().inspect_err(|_| self.failed.store(true, Ordering::Release))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// Hands out a cluster that is zeros, for `of` or for something that is not the disk's.
    ///
    /// # Errors
    /// [`ErrorKind::NoSpace`] when the image cannot grow; nothing has changed then.
    pub(super) fn allocate(&self, kind: ZoneKind, of: Option<Virtual>) -> Result<Cluster> {
        self.allocate_run(kind, &[of]).map(|(cluster, _)| cluster)
    }

    /// As [`allocate`](Self::allocate), for several: hands out one and as many behind it as there are, and says how many.
    pub(super) fn allocate_run(&self, kind: ZoneKind, of: &[Option<Virtual>]) -> Result<(Cluster, usize)> {
        self.begin_stream(kind)?;
        let mut any = false;
        loop {
            if let Some(run) = self.hand_out(kind, of, any) {
                return Ok(run);
            }
            match self.prepare(kind, 1) {
                // There may be some left that are kept for streams.
                Err(error) if error.kind() == ErrorKind::NoSpace && !any => any = true,
                prepared => prepared?,
            }
        }
    }

    /// Takes the next clusters of a zone that has one: of the stream's if there is a stream, or if `any` will do.
    fn hand_out(&self, kind: ZoneKind, of: &[Option<Virtual>], any: bool) -> Option<(Cluster, usize)> {
        let mut inner = self.lock();
        let streaming = inner.streaming(self.stream);
        let Inner { zones, open, streams, full, handed, unflushed, .. } = &mut *inner;
        let (open, stream) = (&mut open[index(kind)], &mut streams[index(kind)]);
        // After a crash zones may be open behind the first, and none of them has zeros.
        let ready = |&number: &u32| zones.get(number as usize).is_some_and(Zone::ready);
        let number = stream.filter(|_| streaming || any).or_else(|| open.iter().copied().find(ready))?;
        let zone = zones.get_mut(number as usize)?;
        let slot = zone.next;
        let count = of.len().min(usize::from(zone.zeroed.min(SLOTS) - slot));
        (slot..).zip(&of[..count]).for_each(|(slot, &of)| zone.occupy(slot, of));
        if !streaming {
            handed[index(kind)] += count as u64;
        }
        *unflushed += count as u64;
        if zone.next >= SLOTS {
            open.retain(|&other| other != number);
            stream.take_if(|other| *other == number);
            if kind == ZoneKind::Z {
                full.push(number);
            }
        }
        Some((Cluster(self.layout.zone(number)?.0 + u32::from(slot)), count))
    }

    /// How many clusters of a kind can be handed out without waiting.
    fn ready(inner: &Inner, kind: ZoneKind) -> u64 {
        let open = inner.open[index(kind)].iter().filter_map(|&number| inner.zones.get(number as usize));
        open.map(|zone| u64::from(zone.zeroed.saturating_sub(zone.next))).sum()
    }

    /// Whether zeros should be written ahead for clusters of this kind: as many as were handed out so far, so that an
    /// image that is hardly used stays small. What is written in a stream needs none.
    pub(super) fn wants_zeroes(&self, kind: ZoneKind) -> Option<u64> {
        let inner = self.lock();
        let ahead = inner.handed[index(kind)].min(AHEAD);
        (Self::ready(&inner, kind) < ahead).then_some(ahead)
    }

    /// Zeroes the next clusters of a kind, unless `ahead` are ready.
    ///
    /// # Errors
    /// [`ErrorKind::NoSpace`], or the medium failed. Nothing has changed then.
    pub(super) fn prepare(&self, kind: ZoneKind, ahead: u64) -> Result<()> {
        let _one = lock(&self.preparing);
        let extended = {
            let inner = self.lock();
            if Self::ready(&inner, kind) >= ahead {
                return Ok(());
            }
            inner.open[index(kind)].iter().find_map(|&number| {
                let zone = inner.zones.get(number as usize)?;
                let from = zone.zeroed.max(zone.next);
                (from < SLOTS).then_some((number, from))
            })
        };
        let (number, from) = match extended {
            Some(place) => place,
            None => {
                self.settle()?;
                (self.choose()?, 0)
            }
        };
        let end = from.saturating_add(from.clamp(PIECES.0, PIECES.1)).min(SLOTS);
        let first = self.layout.zone(number).ok_or_else(no_space)?;
        if extended.is_none() {
            self.storage.grow(first.offset() + ZONE)?;
        }
        self.zero(Cluster(first.0 + u32::from(from)), u32::from(end - from))?;
        if extended.is_none() {
            self.enter(number, kind)?;
        }
        if let Err(error) = self.sync() {
            if extended.is_none() {
                self.leave(number);
            }
            return Err(error);
        }
        let mut inner = self.lock();
        let Inner { zones, open, .. } = &mut *inner;
        if let Some(zone) = zones.get_mut(number as usize) {
            zone.zeroed = end;
            if extended.is_none() {
                open[index(kind)].push_back(number);
            }
        }
        Ok(())
    }

    /// How many zones can still be taken into use.
    fn room(&self) -> u64 {
        let entries = u64::from(self.layout.zone_entries);
        let properties = self.storage.properties();
        let fit = self.storage.size().saturating_sub(self.layout.zones) / ZONE;
        let most = if properties.growable { entries } else { entries.min(fit) };
        let used = self.lock().zones.iter().filter(|zone| zone.entry.kind != ZoneKind::Free).count();
        most.saturating_sub(used as u64)
    }

    /// A zone that is free, or a new one.
    fn choose(&self) -> Result<u32> {
        let mut inner = self.lock();
        let free = inner.zones.iter().position(|zone| zone.entry.kind == ZoneKind::Free);
        let number = free.unwrap_or(inner.zones.len());
        let number = u32::try_from(number).map_err(|_| no_space())?;
        let fits = self.layout.zone(number).is_some_and(|first| {
            self.storage.properties().growable || first.offset() + ZONE <= self.storage.size()
        });
        if !fits {
            return Err(no_space());
        }
        if free.is_none() {
            inner.zones.push(Zone::new(ZoneEntry::default()));
        }
        Ok(number)
    }

    fn zero(&self, first: Cluster, count: u32) -> Result<()> {
        let (mut at, end) = (first.offset(), Cluster(first.0 + count).offset());
        let are_zeroes = match self.zeroing {
            Zeroing::Written => false,
            Zeroing::Sparse => self.storage.punch(at, end - at)?,
            Zeroing::Allocated => self.storage.allocate(at, end - at)?,
        };
        if are_zeroes {
            return Ok(());
        }
        self.zeroed_bytes.fetch_add(end - at, Ordering::Relaxed);
        // Aligned, so that they need not be copied to where they are.
        let zeroes = vec![0u8; ZEROES + PAGE];
        let start = zeroes.as_ptr().align_offset(PAGE).min(PAGE);
        while at < end {
            let length = ZEROES.min(usize::try_from(end - at).unwrap_or(ZEROES));
            self.storage.write(at, &zeroes[start..start + length])?;
            at += length as u64;
        }
        Ok(())
    }

    /// Takes a free zone into use.
    fn enter(&self, number: u32, kind: ZoneKind) -> Result<()> {
        {
            let mut inner = self.lock();
            let summary = (kind == ZoneKind::Z).then(|| self.summary_place(&inner, number)).flatten();
            let Some(zone) = inner.zones.get_mut(number as usize) else { return Err(no_space()) };
            let epoch = zone.entry.epoch.wrapping_add(1);
            let (summary, part) = summary.unwrap_or_default();
            *zone = Zone::new(ZoneEntry { kind, epoch, summary, part, ..ZoneEntry::default() });
            if kind == ZoneKind::Z && part == 0 {
                // The first cluster is for the summaries of this zone and of the next ones.
                zone.occupy(0, None);
            }
        }
        let written = self.write_entry(number);
        if written.is_err() {
            self.leave(number);
        }
        written
    }

    fn leave(&self, number: u32) {
        let mut inner = self.lock();
        if let Some(zone) = inner.zones.get_mut(number as usize) {
            *zone = Zone::new(ZoneEntry { epoch: zone.entry.epoch, ..ZoneEntry::default() });
            inner.freed.push(number);
        }
    }

    /// Where the summary of a new Z zone goes: behind those of others, or into its own first cluster.
    fn summary_place(&self, inner: &Inner, number: u32) -> Option<(Cluster, u8)> {
        let mut parts = std::collections::BTreeMap::<Cluster, u8>::new();
        for zone in inner.zones.iter().filter(|zone| zone.entry.kind == ZoneKind::Z) {
            *parts.entry(zone.entry.summary).or_default() |= 1 << (zone.entry.part % SUMMARIES);
        }
        // Nothing but summaries keeps such a zone, and it is free once there are none.
        for first in Self::dead(inner).filter_map(|(number, _)| self.layout.zone(number)) {
            parts.remove(&first);
        }
        // Part 0 is the zone's whose cluster it is: where that is gone, so is the cluster.
        let shared =
            parts.into_iter().rev().find(|&(_, parts)| parts & 1 == 1 && parts != (1 << SUMMARIES) - 1);
        if let (Some((cluster, parts)), Summaries::Shared | Summaries::None) = (shared, self.summaries) {
            return Some((cluster, u8::try_from(parts.trailing_ones()).ok()?));
        }
        Some((self.layout.zone(number)?, 0))
    }

    /// Writes the block of the zone table with the entry of a zone.
    fn write_entry(&self, number: u32) -> Result<()> {
        let _table = lock(&self.table);
        let unit = self.storage.properties().alignment.max(512);
        let per_block = unit / ZONE_ENTRY;
        let first = number / per_block * per_block;
        let mut block = vec![0; unit as usize];
        {
            let inner = self.lock();
            for (number, place) in (first..).zip(block.chunks_exact_mut(ZONE_ENTRY as usize)) {
                if let Some(zone) = inner.zones.get(number as usize) {
                    let zeroed = if zone.holes { zone.next } else { zone.zeroed.max(zone.next) };
                    let mut entry = ZoneEntry { zeroed, ..zone.entry };
                    if entry.kind == ZoneKind::N {
                        // What has died at its end looks as though it had never been handed out.
                        entry.committed = zone.next;
                    }
                    place.copy_from_slice(&entry.encode(number));
                }
            }
        }
        self.storage.write(self.layout.zone_table + u64::from(first) * u64::from(ZONE_ENTRY), &block)
    }

    /// Writes all entries of zones that are not full: how far they are zeroed.
    pub(super) fn write_open(&self) -> Result<()> {
        let open: Vec<u32> = {
            let inner = self.lock();
            inner.unfilled(ZoneKind::Z).chain(inner.unfilled(ZoneKind::N)).collect()
        };
        open.into_iter().try_for_each(|number| self.write_entry(number))
    }

    /// What a cluster's header has to know, and whether it may still change: its zone's epoch, and whether a summary
    /// speaks of it.
    pub(super) fn state(&self, cluster: Cluster) -> Option<(u32, bool)> {
        let (number, slot) = self.layout.slot(cluster)?;
        let inner = self.lock();
        let zone = inner.zones.get(number as usize)?;
        Some((zone.entry.epoch, slot < zone.frozen))
    }

    /// Whether a summary that is durable speaks of a cluster.
    pub(super) fn is_committed(&self, cluster: Cluster) -> bool {
        let Some((number, slot)) = self.layout.slot(cluster) else { return false };
        self.lock().zones.get(number as usize).is_some_and(|zone| slot < zone.entry.committed)
    }

    /// A cluster is dead, durably.
    pub(super) fn release(&self, cluster: Cluster) {
        if let Some((number, _)) = self.layout.slot(cluster) {
            self.unpin(number);
        }
    }

    /// A zone has one reason less to stay.
    fn unpin(&self, number: u32) {
        if let Some(zone) = self.lock().zones.get_mut(number as usize) {
            zone.live = zone.live.saturating_sub(1);
        }
    }

    /// Frees zones all of whose clusters are dead, durably.
    pub(super) fn reap(&self) -> Result<()> {
        // Most of the time there is none.
        if Self::dead(&self.lock()).next().is_none() {
            return Ok(());
        }
        // No zone is taken into use meanwhile: what is free here is so on the medium when that happens.
        let _one = lock(&self.preparing);
        // A zone that keeps summaries outlives the others that have theirs there: of two sectors of the table either
        // may be durable first, and a zone without its summary is corrupt.
        for keepers in [false, true] {
            let freed = self.free_dead(keepers);
            self.settle()?;
            for first in freed.into_iter().filter_map(|number| self.layout.zone(number)) {
                // Its clusters are holes, unless something went wrong. The one with the summaries is not.
                self.storage.punch(first.offset(), ZONE)?;
            }
        }
        Ok(())
    }

    /// What is free here is so on the medium.
    fn settle(&self) -> Result<()> {
        let freed = std::mem::take(&mut self.lock().freed);
        if freed.is_empty() {
            return Ok(());
        }
        let written = freed.iter().try_for_each(|&number| self.write_entry(number));
        let settled = written.and_then(|()| self.sync());
        settled.inspect_err(|_| self.lock().freed.extend(freed))
    }

    /// Frees, in memory, dead zones that keep summaries, or those that do not. Gives their numbers.
    fn free_dead(&self, keepers: bool) -> Vec<u32> {
        let mut inner = self.lock();
        let mut users = std::collections::BTreeMap::<Cluster, u32>::new();
        for zone in inner.zones.iter().filter(|zone| zone.entry.kind == ZoneKind::Z) {
            *users.entry(zone.entry.summary).or_default() += 1;
        }
        let dead: Vec<u32> = Self::dead(&inner)
            .filter(|&(number, zone)| {
                let keeps = self.layout.zone(number) == Some(zone.entry.summary);
                let alone = !keeps || users.get(&zone.entry.summary) == Some(&1);
                keeps == keepers && zone.live == u16::from(keeps) && alone
            })
            .map(|(number, _)| number)
            .collect();
        for &number in &dead {
            if let Some(zone) = inner.zones.get_mut(number as usize) {
                *zone = Zone::new(ZoneEntry { epoch: zone.entry.epoch, ..ZoneEntry::default() });
            }
        }
        inner.full.retain(|number| !dead.contains(number));
        inner.freed.extend(&dead);
        inner.no_streams &= dead.is_empty();
        dead
    }

    /// Zones that may be dead: nothing lives in them, except for summaries.
    fn dead(inner: &Inner) -> impl Iterator<Item = (u32, &Zone)> {
        (0u32..).zip(&inner.zones).filter(|(_, zone)| zone.next >= SLOTS && zone.live <= 1)
    }

    /// Whether there are Z zones that are full and have to be summarised.
    pub(super) fn full(&self) -> usize {
        self.lock().full.len()
    }

    /// Freezes what a summary could speak of, of full zones or of all. Their zones stay until each batch is
    /// [let go](Self::let_go).
    pub(super) fn freeze(&self, all: bool) -> Vec<Batch> {
        let mut inner = self.lock();
        let mut numbers = inner.full.clone();
        if all {
            numbers.extend(inner.unfilled(ZoneKind::Z));
        }
        let mut batches = Vec::new();
        for number in numbers {
            let Some(zone) = inner.zones.get_mut(number as usize) else { continue };
            if zone.next > zone.entry.committed {
                zone.frozen = zone.next;
                zone.live += 1;
                let (entry, end, owners) = (zone.entry, zone.next, zone.owners.clone());
                batches.push(Batch { zone: number, entry, end, owners });
            }
        }
        batches
    }

    /// A zone's summary is durable, and its entry is to say so.
    ///
    /// # Errors
    /// The entry could not be written: the headers count as before, and the zone waits for another summary.
    pub(super) fn committed(&self, batch: &Batch) -> Result<()> {
        self.set_committed(batch.zone, batch.end);
        if let Err(error) = self.write_entry(batch.zone) {
            self.set_committed(batch.zone, batch.entry.committed);
            return Err(error);
        }
        let mut inner = self.lock();
        let Inner { zones, full, .. } = &mut *inner;
        if let Some(zone) = zones.get_mut(batch.zone as usize).filter(|_| batch.end >= SLOTS) {
            full.retain(|&number| number != batch.zone);
            zone.owners = Vec::new();
        }
        Ok(())
    }

    fn set_committed(&self, number: u32, end: u16) {
        if let Some(zone) = self.lock().zones.get_mut(number as usize) {
            zone.entry.committed = end;
        }
    }

    /// Nobody works with a zone's summary any more.
    pub(super) fn let_go(&self, batch: &Batch) {
        self.unpin(batch.zone);
    }

    /// Calls `visit` with every zone.
    pub(super) fn for_each(&self, mut visit: impl FnMut(u32, &Zone)) {
        let inner = self.lock();
        (0u32..).zip(&inner.zones).for_each(|(number, zone)| visit(number, zone));
    }

    /// Bytes of memory that they take.
    pub(super) fn memory(&self) -> usize {
        let inner = self.lock();
        let owners: usize =
            inner.zones.iter().map(|zone| zone.owners.capacity() * size_of::<Option<Virtual>>()).sum();
        inner.zones.capacity() * size_of::<Zone>() + owners
    }
}

fn no_space() -> Error {
    Error::new(ErrorKind::NoSpace, Operation::Write).because("the image cannot get another zone")
}
