//! What was seen lately: maps that forget the oldest.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::Hash;

use super::{Address, Fingerprint};

/// A map of bounded size.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    limit: usize,
    /// With the number of the insertion.
    entries: HashMap<K, (u64, V)>,
    /// Oldest first; an entry that was removed, or inserted again later, is stale.
    order: VecDeque<(u64, K)>,
    inserted: u64,
}

impl<K: Copy + Eq + Hash, V> Recent<K, V> {
    /// Of up to `limit` entries.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, entries: HashMap::new(), order: VecDeque::new(), inserted: 0 }
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(_, value)| value)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &K> {
        self.entries.keys()
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        self.entries.remove(key).map(|(_, value)| value)
    }

    /// Returns the entry that is forgotten for it.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<(K, V)> {
        self.inserted += 1;
        self.entries.insert(key, (self.inserted, value));
        self.order.push_back((self.inserted, key));
        let mut forgotten = None;
        if self.entries.len() > self.limit {
            forgotten = self.remove_oldest();
        }
        if self.order.len() > 2 * self.limit {
            let entries = &self.entries;
            self.order.retain(|(number, key)| entries.get(key).is_some_and(|(at, _)| at == number));
        }
        forgotten
    }

    fn remove_oldest(&mut self) -> Option<(K, V)> {
        while let Some((number, key)) = self.order.pop_front() {
            if self.entries.get(&key).is_some_and(|(at, _)| *at == number) {
                return self.remove(&key).map(|value| (key, value));
            }
        }
        None
    }
}

/// Blocks of disks that were read, and of which nobody knows yet whose they are.
#[derive(Debug)]
pub(super) struct Unnamed {
    by_address: Recent<Address, Fingerprint>,
    by_content: BTreeSet<(Fingerprint, Address)>,
}

impl Unnamed {
    /// Of up to `limit` blocks.
    pub(super) fn new(limit: usize) -> Self {
        Self { by_address: Recent::new(limit), by_content: BTreeSet::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.by_address.len()
    }

    /// A block was read.
    pub(super) fn add(&mut self, address: Address, content: Fingerprint) {
        self.remove(address);
        if let Some((oldest, content)) = self.by_address.insert(address, content) {
            self.by_content.remove(&(content, oldest));
        }
        self.by_content.insert((content, address));
    }

    /// Something else is there now.
    pub(super) fn remove(&mut self, address: Address) {
        if let Some(content) = self.by_address.remove(&address) {
            self.by_content.remove(&(content, address));
        }
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.by_address.keys()
    }

    /// Somebody has named a block of this content: which one it is, of several the first on the disk.
    pub(super) fn take(&mut self, content: Fingerprint) -> Option<Address> {
        let &(_, address) =
            self.by_content.range((content, Address::FIRST)..=(content, Address::LAST)).next()?;
        self.remove(address);
        Some(address)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a list.
        #[test]
        fn the_oldest_is_forgotten(limit in 1usize..6, steps in proptest::collection::vec((0..8u8, any::<bool>()), 1..200)) {
            let mut recent = Recent::new(limit);
            let mut model: Vec<(u8, usize)> = Vec::new();
            for (value, (key, insert)) in steps.into_iter().enumerate() {
                let at = model.iter().position(|entry| entry.0 == key);
                let before = at.map(|at| model.remove(at).1);
                if insert {
                    model.push((key, value));
                    let forgotten = (model.len() > limit).then(|| model.remove(0));
                    prop_assert_eq!(recent.insert(key, value), forgotten);
                } else {
                    prop_assert_eq!(recent.remove(&key), before);
                }
                for key in 0..8 {
                    let expected = model.iter().find(|entry| entry.0 == key).map(|entry| &entry.1);
                    prop_assert_eq!(recent.get(&key), expected);
                }
                prop_assert!(recent.order.len() <= 2 * limit);
            }
        }

        /// Against a map of what is where.
        #[test]
        fn what_is_taken_is_there(steps in proptest::collection::vec((0..4u8, 0..6u64, 0..4u128), 1..200)) {
            let mut unnamed = Unnamed::new(1000);
            let mut model = std::collections::BTreeMap::new();
            for (what, place, content) in steps {
                let address = Address::new(7, place * 4096).unwrap();
                match what {
                    0 | 1 => {
                        unnamed.add(address, content);
                        model.insert(address, content);
                    }
                    2 => {
                        unnamed.remove(address);
                        model.remove(&address);
                    }
                    _ => {
                        let expected = model.iter().find(|(_, at)| **at == content).map(|(&address, _)| address);
                        prop_assert_eq!(unnamed.take(content), expected);
                        expected.map(|address| model.remove(&address));
                    }
                }
                prop_assert_eq!((unnamed.len(), unnamed.by_content.len()), (model.len(), model.len()));
            }
        }
    }
}
