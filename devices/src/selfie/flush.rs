//! Making things durable. Without a dirty table a flush is one sync, which those who come at the same time share.
//!
//! With one, whoever comes first writes the tables for all: their blocks as the map is now, then one sync. Tables may
//! be durable before the data that they speak of, because that lies where there were zeros before; where it does not,
//! `ordered` has them wait for a sync of the data.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::format::{CLUSTER, Cluster, L1_ENTRY, L2_BLOCK_ENTRIES, L2_ENTRIES, ZoneKind, encode_l1};
use super::map::{Dirty, L2_BLOCK};
use super::{Core, lock};
use crate::block::{Operation, Result};

/// Blocks of tables that are written at once; the map stands still while they are made.
const BATCH: usize = 64;
const BLOCKS_PER_TABLE: u32 = L2_ENTRIES / L2_BLOCK_ENTRIES;

/// Who flushes tables.
#[derive(Debug, Default)]
pub(super) struct Flushing {
    begun: AtomicU64,
    /// The last one that went well; held while one is under way.
    done: Mutex<u64>,
    /// Clusters that are dead once the tables are durable.
    dead: Mutex<Vec<Cluster>>,
    /// Tables to which the L1 table does not lead durably.
    unlinked: Mutex<BTreeSet<u32>>,
}

impl Flushing {
    /// A cluster is given up; the map says so already, and its table is marked.
    pub(super) fn bury(&self, cluster: Cluster) {
        lock(&self.dead).push(cluster);
    }
}

impl Core {
    pub(super) fn flush(&self) -> Result<()> {
        self.check_usable(Operation::Flush)?;
        self.counters.flushes.fetch_add(1, Ordering::Relaxed);
        self.zones.flushed();
        if !self.options.background && !self.options.tended {
            self.commit(false)?;
        }
        self.make_durable()
    }

    /// What has been written is durable, and so is what the tables have to say of it.
    pub(super) fn make_durable(&self) -> Result<()> {
        if !self.map.is_dirty() {
            return self.sync();
        }
        let arrived = self.flushing.begun.load(Ordering::SeqCst);
        let mut done = lock(&self.flushing.done);
        if *done > arrived {
            // One has begun after we came, and went well.
            return Ok(());
        }
        let number = self.flushing.begun.fetch_add(1, Ordering::SeqCst) + 1;
        self.flush_tables()?;
        *done = number;
        Ok(())
    }

    fn flush_tables(&self) -> Result<()> {
        // The dead first: what has replaced them is dirty, or durable.
        let dead = std::mem::take(&mut *lock(&self.flushing.dead));
        let taken = self.map.take();
        if let Err(error) = self.write_tables(&taken) {
            lock(&self.flushing.dead).extend(dead);
            self.map.done(Some(taken));
            return Err(error);
        }
        self.map.done(None);
        self.remove(dead)
    }

    fn write_tables(&self, dirty: &Dirty) -> Result<()> {
        let blocks: Vec<u32> = dirty.blocks.iter().copied().collect();
        for blocks in blocks.chunks(BATCH) {
            let (batch, ordered) = self.map.encode(blocks);
            if dirty.ordered || ordered || self.options.ordered {
                self.sync()?;
            }
            for run in batch.chunk_by(|(a, _), (b, _)| a + 1 == *b && b % BLOCKS_PER_TABLE != 0) {
                let Some((first, _)) = run.first() else { continue };
                let table = first / BLOCKS_PER_TABLE;
                if self.map.place(table).is_none() {
                    self.map.set_place(table, self.zones.allocate(ZoneKind::N, None)?);
                    lock(&self.flushing.unlinked).insert(table);
                }
                let bytes: Vec<u8> = run.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect();
                let at =
                    self.map.place(table).offset() + u64::from(first % BLOCKS_PER_TABLE) * L2_BLOCK as u64;
                self.write_at(at, &bytes)?;
                self.counters.tables.fetch_add(1, Ordering::Relaxed);
            }
        }
        // A table that nobody leads to holds nothing that was promised, and one that is led to too early is zeros.
        let unlinked = lock(&self.flushing.unlinked).clone();
        self.write_l1(&unlinked)?;
        self.sync()?;
        lock(&self.flushing.unlinked).retain(|table| !unlinked.contains(table));
        Ok(())
    }

    /// Writes the blocks of the L1 table that lead to `tables`.
    fn write_l1(&self, tables: &BTreeSet<u32>) -> Result<()> {
        let per_block = self.storage.properties().alignment.max(512) / L1_ENTRY;
        let blocks: BTreeSet<u32> = tables.iter().map(|table| table / per_block).collect();
        for block in blocks {
            let first = block * per_block;
            let bytes: Vec<u8> = (first..first + per_block)
                .flat_map(|table| encode_l1(table, self.map.place(table)))
                .collect();
            let l1 = self.layout.l1;
            self.write_at(l1 + u64::from(first) * u64::from(L1_ENTRY), &bytes)?;
        }
        Ok(())
    }

    /// Gives the space of dead clusters back.
    fn remove(&self, mut dead: Vec<Cluster>) -> Result<()> {
        dead.sort_unstable();
        for run in dead.chunk_by(|a, b| a.0 + 1 == b.0) {
            let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
            let length = last.offset() + CLUSTER as u64 - first.offset();
            self.storage.punch(first.offset(), length)?;
            run.iter().for_each(|&cluster| self.zones.release(cluster));
        }
        self.zones.reap()
    }
}
