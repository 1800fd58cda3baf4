//! Where every cluster of the disk lies, in memory: 12 bytes for each, 16 where blocks differ from their neighbours.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::format::{Blocks, Cluster, Entry, Kind, L2_BLOCK_ENTRIES, L2_ENTRIES, L2_ENTRY, Virtual};

const TABLE: usize = L2_ENTRIES as usize;
const SEQUENCE: u64 = (1 << 48) - 1;
const KIND: u32 = 48;
const OVER: u32 = 50;
const TABLED: u32 = 51;
const ROTATION: u32 = 52;
/// Bytes of one block of an L2 table.
pub(super) const L2_BLOCK: usize = L2_BLOCK_ENTRIES as usize * L2_ENTRY;
/// One as it lies in the image.
type L2Block = Box<[u8; L2_BLOCK]>;

/// The map.
#[derive(Debug)]
pub(super) struct Map {
    tables: Box<[OnceLock<Box<RwLock<Table>>>]>,
    /// Where the image keeps each table; 0 for one that it does not have.
    places: Box<[AtomicU32]>,
    dirty: Mutex<Dirty>,
    /// A flush has taken what was dirty and is not done with it.
    in_progress: AtomicBool,
}

/// What 256 MiB of the disk are.
#[derive(Debug)]
struct Table {
    clusters: Box<[u32]>,
    /// Sequence, kind, flags and rotation.
    words: Box<[u64]>,
    /// Block states, once one of them is not what its kind says.
    blocks: Option<Box<[u32]>>,
}

/// What the image's tables do not say yet.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    /// Blocks of L2 tables, counted from the first table's.
    pub(super) blocks: BTreeSet<u32>,
    /// Data has to be durable before a table speaks of it.
    pub(super) ordered: bool,
}

fn usual(kind: Kind) -> Blocks {
    match kind {
        Kind::Empty => Blocks::default(),
        Kind::Zero => Blocks::ALL_ZERO,
        Kind::Embedded | Kind::Plain => Blocks::ALL_HERE,
    }
}

impl Table {
    fn new() -> Self {
        Self { clusters: vec![0; TABLE].into(), words: vec![0; TABLE].into(), blocks: None }
    }

    fn get(&self, at: usize) -> Entry {
        let word = self.words[at];
        let kind = kind(word);
        Entry {
            kind,
            cluster: Cluster(self.clusters[at]),
            rotation: u8::try_from(word >> ROTATION & 0xf).unwrap_or(0),
            sequence: word & SEQUENCE,
            blocks: self.blocks.as_ref().map_or_else(|| usual(kind), |blocks| Blocks(blocks[at])),
            over: word >> OVER & 1 == 1,
            tabled: word >> TABLED & 1 == 1,
        }
    }

    fn set(&mut self, at: usize, entry: &Entry) {
        let number = match entry.kind {
            Kind::Empty => 0u64,
            Kind::Zero => 1,
            Kind::Embedded => 2,
            Kind::Plain => 3,
        };
        self.clusters[at] = entry.cluster.0;
        self.words[at] = entry.sequence & SEQUENCE
            | number << KIND
            | u64::from(entry.over) << OVER
            | u64::from(entry.tabled) << TABLED
            | u64::from(entry.rotation & 0xf) << ROTATION;
        if self.blocks.is_none() && entry.blocks != usual(entry.kind) {
            self.blocks = Some(self.words.iter().map(|&word| usual(kind(word)).0).collect());
        }
        if let Some(blocks) = &mut self.blocks {
            blocks[at] = entry.blocks.0;
        }
    }
}

fn kind(word: u64) -> Kind {
    match word >> KIND & 3 {
        0 => Kind::Empty,
        1 => Kind::Zero,
        2 => Kind::Embedded,
        _ => Kind::Plain,
    }
}

impl Map {
    /// An empty map of `tables` L2 tables.
    pub(super) fn new(tables: u32) -> Self {
        Self {
            tables: (0..tables).map(|_| OnceLock::new()).collect(),
            places: (0..tables).map(|_| AtomicU32::new(0)).collect(),
            dirty: Mutex::default(),
            in_progress: AtomicBool::new(false),
        }
    }

    fn read(table: &RwLock<Table>) -> RwLockReadGuard<'_, Table> {
        // A panic cannot leave half an entry: nothing between two of its stores can panic.
        table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(table: &RwLock<Table>) -> RwLockWriteGuard<'_, Table> {
        table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of a cluster; nothing is of one beyond the map.
    pub(super) fn get(&self, of: Virtual) -> Entry {
        let (table, at) = of.place();
        let table = self.tables.get(table).and_then(OnceLock::get);
        table.map_or_else(Entry::default, |table| Self::read(table).get(at))
    }

    /// Changes it.
    pub(super) fn set(&self, of: Virtual, entry: &Entry) {
        let (table, at) = of.place();
        if let Some(table) = self.tables.get(table) {
            Self::write(table.get_or_init(|| Box::new(RwLock::new(Table::new())))).set(at, entry);
        }
    }

    /// Calls `visit` with every cluster of which something is known, in order.
    pub(super) fn for_each(&self, mut visit: impl FnMut(Virtual, Entry)) {
        for (number, table) in (0u32..).zip(&self.tables) {
            let Some(table) = table.get() else { continue };
            let table = Self::read(table);
            for at in 0..L2_ENTRIES {
                let entry = table.get(at as usize);
                if entry.kind != Kind::Empty {
                    visit(Virtual(number * L2_ENTRIES + at), entry);
                }
            }
        }
    }

    /// Changes what the image's tables have to learn, too. With `ordered`, only when all data that has been written so
    /// far is durable.
    pub(super) fn update(&self, of: Virtual, entry: &Entry, ordered: bool) {
        // At once: a flush that sees the entry knows that it has to wait for its data.
        let mut dirty = self.dirty();
        self.set(of, entry);
        dirty.blocks.insert(of.0 / L2_BLOCK_ENTRIES);
        dirty.ordered |= ordered;
    }

    /// What a table says of a cluster is out of date.
    pub(super) fn mark(&self, of: Virtual) {
        self.dirty().blocks.insert(of.0 / L2_BLOCK_ENTRIES);
    }

    fn dirty(&self) -> MutexGuard<'_, Dirty> {
        self.dirty.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a flush has tables to write, or to wait for.
    pub(super) fn is_dirty(&self) -> bool {
        // In this order: whoever takes what is dirty says so first.
        !self.dirty().blocks.is_empty() || self.in_progress.load(Ordering::SeqCst)
    }

    /// Takes what is dirty, for a flush, which calls [`done`](Self::done).
    pub(super) fn take(&self) -> Dirty {
        self.in_progress.store(true, Ordering::SeqCst);
        std::mem::take(&mut self.dirty())
    }

    /// The flush is over. What it could not write is dirty again.
    pub(super) fn done(&self, left: Option<Dirty>) {
        if let Some(left) = left {
            let mut dirty = self.dirty();
            dirty.blocks.extend(left.blocks);
            dirty.ordered |= left.ordered;
        }
        self.in_progress.store(false, Ordering::SeqCst);
    }

    /// Blocks of L2 tables as they are to lie in the image, and whether data that they speak of has to be durable first.
    pub(super) fn encode(&self, blocks: &[u32]) -> (Vec<(u32, L2Block)>, bool) {
        let dirty = self.dirty();
        (blocks.iter().map(|&block| (block, self.encode_block(block))).collect(), dirty.ordered)
    }

    fn encode_block(&self, block: u32) -> L2Block {
        let mut bytes = Box::new([0; L2_BLOCK]);
        let first = block * L2_BLOCK_ENTRIES;
        let (table, at) = Virtual(first).place();
        if let Some(table) = self.tables.get(table).and_then(OnceLock::get) {
            let table = Self::read(table);
            for (number, place) in (0u32..).zip(bytes.chunks_exact_mut(L2_ENTRY)) {
                let entry = table.get(at + number as usize).in_table();
                place.copy_from_slice(&entry.encode(Virtual(first + number)));
            }
        }
        bytes
    }

    /// Where the image keeps table `number`.
    pub(super) fn place(&self, number: u32) -> Cluster {
        let place = self.places.get(number as usize);
        Cluster(place.map_or(0, |place| place.load(Ordering::Acquire)))
    }

    pub(super) fn set_place(&self, number: u32, cluster: Cluster) {
        if let Some(place) = self.places.get(number as usize) {
            place.store(cluster.0, Ordering::Release);
        }
    }

    /// Bytes of memory that it takes.
    pub(super) fn memory(&self) -> usize {
        let tables = self.tables.iter().filter_map(OnceLock::get);
        let of_tables: usize =
            tables.map(|table| TABLE * if Self::read(table).blocks.is_some() { 16 } else { 12 }).sum();
        of_tables + self.tables.len() * (size_of::<OnceLock<Box<RwLock<Table>>>>() + size_of::<AtomicU32>())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn entry() -> impl Strategy<Value = Entry> {
        let kind = prop_oneof![Just(Kind::Zero), Just(Kind::Embedded), Just(Kind::Plain)];
        (kind, 1..100u32, 0..16u8, 0..=SEQUENCE, prop_oneof![Just(None), any::<u32>().prop_map(Some)])
            .prop_map(|(kind, cluster, rotation, sequence, blocks)| Entry {
                kind,
                cluster: if kind == Kind::Zero { Cluster::NONE } else { Cluster(cluster) },
                rotation: if kind == Kind::Embedded { rotation } else { 0 },
                sequence,
                blocks: blocks.map_or_else(|| usual(kind), Blocks),
                over: kind == Kind::Embedded && sequence % 2 == 0,
                tabled: kind == Kind::Embedded && cluster % 2 == 0,
            })
    }

    proptest! {
        #[test]
        fn it_is_a_map(steps in proptest::collection::vec((0..3 * L2_ENTRIES, entry()), 0..100)) {
            let map = Map::new(3);
            let mut model = BTreeMap::new();
            for (of, entry) in steps {
                map.update(Virtual(of), &entry, false);
                model.insert(of, entry);
                prop_assert_eq!(map.get(Virtual(of)), entry);
            }
            let mut seen = BTreeMap::new();
            map.for_each(|of, entry| { seen.insert(of.0, entry); });
            prop_assert_eq!(&seen, &model);
            let blocks: Vec<u32> = map.take().blocks.into_iter().collect();
            for (block, bytes) in map.encode(&blocks).0 {
                for (number, bytes) in (0u32..).zip(bytes.chunks_exact(L2_ENTRY)) {
                    let of = block * L2_BLOCK_ENTRIES + number;
                    let entry = Entry::decode(Virtual(of), bytes.try_into().unwrap()).unwrap();
                    let mut expected = model.get(&of).copied().unwrap_or_default().in_table();
                    expected.over = false;
                    prop_assert_eq!(entry, expected);
                }
            }
        }
    }

    #[test]
    fn what_is_dirty_is_so_until_a_flush_is_done() {
        let map = Map::new(1);
        assert!(!map.is_dirty());
        map.update(Virtual(300), &Entry::zero(1), true);
        let taken = map.take();
        assert_eq!((taken.blocks.iter().copied().collect::<Vec<_>>(), taken.ordered), (vec![1], true));
        assert!(map.is_dirty(), "on its way");
        map.done(Some(taken));
        assert!(map.is_dirty(), "it failed");
        map.take();
        map.done(None);
        assert!(!map.is_dirty());
        // Beyond the map there is nothing, and nothing happens.
        map.set(Virtual(u32::MAX), &Entry { kind: Kind::Zero, ..Entry::default() });
        assert_eq!(map.get(Virtual(u32::MAX)).kind, Kind::Empty);
    }
}
