//! The paper's baseline: an index of fingerprints as a B-tree on the disk, of which little is in memory.
//!
//! It does what the hash index of dmdedup does for each block that is written: look the fingerprint up from the root
//! down, and insert it where it is not found. Nodes are read when they are not in memory, kept by least recent use, and
//! written when a changed one has to make room. What it leaves out would only make it slower: its second tree, from
//! logical blocks to places, which costs nothing here; copying the path to the root at each commit; commits before the
//! end.
//!
//! Nodes lie beside the disk, which only tells how long it would take to read and to write them.

use std::collections::{BTreeMap, HashMap};

use sky_devices::block::Storage;
use sky_devices::block::simulated::SimulatedDisk;

use super::streams::BLOCK;
use crate::error::Result;
use crate::results::selfie::failed;

/// Entries of a node of 4 KiB, with a header of 16 bytes: 32 bytes of fingerprint and 8 of where it leads.
const CAPACITY: usize = 102;

/// Fingerprints stand for themselves by their first 64 bits: no two of a run are equal in these.
type Key = u64;

#[derive(Clone, Debug, Default)]
struct Node {
    keys: Vec<Key>,
    /// One for each key, which is the lowest below it; none in a leaf.
    children: Vec<usize>,
}

/// The tree, and which of its nodes are in memory.
#[derive(Clone, Debug)]
pub(super) struct Btree {
    nodes: Vec<Node>,
    root: usize,
    /// Nodes in memory: when each was used last, and whether it has changed since it was written.
    cached: HashMap<usize, (u64, bool)>,
    uses: BTreeMap<u64, usize>,
    clock: u64,
    capacity: usize,
}

impl Btree {
    /// An empty tree, all of which has room in memory.
    pub(super) fn new() -> Self {
        Self {
            nodes: vec![Node::default()],
            root: 0,
            cached: HashMap::from([(0, (0, true))]),
            uses: BTreeMap::from([(0, 0)]),
            clock: 0,
            capacity: usize::MAX,
        }
    }

    /// All nodes are on the disk, none is in memory, and from now on so many bytes of them can be.
    pub(super) fn cool(&mut self, memory: usize) {
        self.cached.clear();
        self.uses.clear();
        self.capacity = (memory / BLOCK).max(1);
    }

    /// A node is used, and changed or not.
    fn touch(&mut self, disk: &SimulatedDisk, node: usize, read: bool, change: bool) -> Result<()> {
        self.clock += 1;
        let before = self.cached.insert(node, (self.clock, change));
        self.uses.insert(self.clock, node);
        if let Some((used, changed)) = before {
            self.uses.remove(&used);
            self.cached.insert(node, (self.clock, changed || change));
            return Ok(());
        }
        if read {
            disk.read(place(node), &mut [0; BLOCK]).map_err(failed)?;
        }
        if self.cached.len() > self.capacity
            && let Some((_, oldest)) = self.uses.pop_first()
            && let Some((_, true)) = self.cached.remove(&oldest)
        {
            disk.write(place(oldest), &[0; BLOCK]).map_err(failed)?;
        }
        Ok(())
    }

    /// The way from the root to the leaf of a key, each node with the place of the child that was taken.
    fn descend(&mut self, disk: &SimulatedDisk, key: Key) -> Result<(Vec<(usize, usize)>, usize)> {
        let (mut path, mut at) = (Vec::new(), self.root);
        loop {
            self.touch(disk, at, true, false)?;
            let node = &self.nodes[at];
            if node.children.is_empty() {
                return Ok((path, at));
            }
            let child = node.keys.partition_point(|lowest| *lowest <= key).saturating_sub(1);
            path.push((at, child));
            at = node.children[child];
        }
    }

    /// Looks a fingerprint up, and inserts it if it is not there. Answers whether it was.
    pub(super) fn find_or_insert(&mut self, disk: &SimulatedDisk, key: Key) -> Result<bool> {
        let (mut path, mut at) = self.descend(disk, key)?;
        let Err(place) = self.nodes[at].keys.binary_search(&key) else { return Ok(true) };
        self.nodes[at].keys.insert(place, key);
        self.touch(disk, at, true, true)?;
        while self.nodes[at].keys.len() > CAPACITY {
            let new = self.nodes.len();
            let node = &mut self.nodes[at];
            let keys = node.keys.split_off(CAPACITY / 2);
            let children = node.children.split_off(node.children.len().min(CAPACITY / 2));
            let (low, high) = (node.keys[0], keys[0]);
            self.nodes.push(Node { keys, children });
            self.touch(disk, new, false, true)?;
            let (parent, child) = match path.pop() {
                Some(above) => above,
                None => {
                    self.root = self.nodes.len();
                    self.nodes.push(Node { keys: vec![low], children: vec![at] });
                    self.touch(disk, self.root, false, true)?;
                    (self.root, 0)
                }
            };
            self.nodes[parent].keys.insert(child + 1, high);
            self.nodes[parent].children.insert(child + 1, new);
            self.touch(disk, parent, true, true)?;
            at = parent;
        }
        Ok(false)
    }

    /// Writes every node that has changed, in the order in which they lie.
    pub(super) fn commit(&mut self, disk: &SimulatedDisk) -> Result<()> {
        let mut changed: Vec<usize> =
            self.cached.iter().filter(|(_, (_, changed))| *changed).map(|(node, _)| *node).collect();
        changed.sort_unstable();
        for node in changed {
            disk.write(place(node), &[0; BLOCK]).map_err(failed)?;
            if let Some((_, changed)) = self.cached.get_mut(&node) {
                *changed = false;
            }
        }
        disk.sync().map_err(failed)
    }
}

/// Where a node lies: from the beginning of the disk on.
fn place(node: usize) -> u64 {
    (node * BLOCK) as u64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use sky_devices::block::simulated::SimulatedOptions;

    use super::*;

    fn disk() -> SimulatedDisk {
        SimulatedDisk::new(SimulatedOptions { size: 64 << 20, record: false, ..SimulatedOptions::file() })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 24, ..ProptestConfig::default() })]
        #[test]
        fn finds_what_a_set_has(keys in proptest::collection::vec(0..9000u64, 0..6000), cached in 1..60usize) {
            let (disk, mut tree, mut set) = (disk(), Btree::new(), BTreeSet::new());
            tree.cool(cached * BLOCK);
            for key in keys {
                let key = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                prop_assert_eq!(tree.find_or_insert(&disk, key).unwrap(), !set.insert(key));
                prop_assert!(tree.cached.len() <= cached && tree.uses.len() == tree.cached.len());
            }
        }
    }

    #[test]
    fn a_cold_tree_reads_its_height_and_a_warm_one_nothing() {
        let (disk, mut tree) = (disk(), Btree::new());
        (0..50_000).for_each(|key| assert!(!tree.find_or_insert(&disk, key * 7919 % 50_021).unwrap()));
        assert_eq!((disk.counts().reads, disk.counts().writes), (0, 0));
        tree.cool(usize::MAX);
        assert!(tree.find_or_insert(&disk, 17).unwrap());
        assert_eq!(disk.counts().reads, 3);
        assert!(tree.find_or_insert(&disk, 17).unwrap());
        assert_eq!(disk.counts().reads, 3);
        // A new key in a leaf that has room is one node to be written; a full one would be three.
        tree.find_or_insert(&disk, 60_000).unwrap();
        tree.commit(&disk).unwrap();
        let written = disk.counts().writes;
        assert!((1..=4).contains(&written));
        tree.commit(&disk).unwrap();
        assert_eq!(disk.counts().writes, written);
    }
}
