//! A bounded memory that forgets what was not used for longest.

use std::collections::HashMap;
use std::hash::Hash;

#[derive(Debug)]
pub(super) struct Lru<K, V> {
    /// Where in `entries` each key is.
    places: HashMap<K, usize>,
    /// In no order; links lead from the oldest to the newest.
    entries: Vec<Entry<K, V>>,
    oldest: Option<usize>,
    newest: Option<usize>,
    capacity: usize,
}

#[derive(Debug)]
struct Entry<K, V> {
    key: K,
    value: V,
    older: Option<usize>,
    newer: Option<usize>,
}

impl<K: Copy + Eq + Hash, V> Lru<K, V> {
    pub(super) fn new(capacity: usize) -> Self {
        Self { places: HashMap::new(), entries: Vec::new(), oldest: None, newest: None, capacity }
    }

    /// What is known of `key`, which is used now.
    pub(super) fn get(&mut self, key: &K) -> Option<&V> {
        let at = *self.places.get(key)?;
        self.use_now(at);
        self.entries.get(at).map(|entry| &entry.value)
    }

    /// Whether something is known of `key`; that is no use of it.
    pub(super) fn has(&self, key: &K) -> bool {
        self.places.contains_key(key)
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        if self.capacity == 0 {
            return;
        }
        if let Some(&at) = self.places.get(&key) {
            self.entries[at].value = value;
            self.use_now(at);
            return;
        }
        let at = match self.oldest.filter(|_| self.entries.len() >= self.capacity) {
            Some(oldest) => {
                self.unlink(oldest);
                let entry = &mut self.entries[oldest];
                self.places.remove(&entry.key);
                (entry.key, entry.value) = (key, value);
                oldest
            }
            None => {
                self.entries.push(Entry { key, value, older: None, newer: None });
                self.entries.len() - 1
            }
        };
        self.places.insert(key, at);
        self.link(at);
    }

    pub(super) fn remove(&mut self, key: &K) {
        let Some(at) = self.places.remove(key) else { return };
        self.unlink(at);
        self.entries.swap_remove(at);
        // The last one has moved to its place.
        let Some(moved) = self.entries.get(at) else { return };
        let (older, newer) = (moved.older, moved.newer);
        self.places.insert(moved.key, at);
        self.join(older, Some(at));
        self.join(Some(at), newer);
    }

    fn use_now(&mut self, at: usize) {
        if self.newest != Some(at) {
            self.unlink(at);
            self.link(at);
        }
    }

    /// One follows the other; nothing stands for the ends.
    fn join(&mut self, older: Option<usize>, newer: Option<usize>) {
        match older {
            Some(older) => self.entries[older].newer = newer,
            None => self.oldest = newer,
        }
        match newer {
            Some(newer) => self.entries[newer].older = older,
            None => self.newest = older,
        }
    }

    fn unlink(&mut self, at: usize) {
        let Entry { older, newer, .. } = self.entries[at];
        self.join(older, newer);
    }

    /// Makes one that is not linked the newest.
    fn link(&mut self, at: usize) {
        self.join(self.newest, Some(at));
        self.join(Some(at), None);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn remembers_as_a_row_does(capacity in 0..6usize, steps in proptest::collection::vec((0..4u8, 0..9u32), 0..200)) {
            let mut memory = Lru::new(capacity);
            // The longest unused first.
            let mut row: Vec<(u32, usize)> = Vec::new();
            for (value, (what, key)) in steps.into_iter().enumerate() {
                let found = row.iter().position(|(there, _)| *there == key);
                match what {
                    0 => {
                        prop_assert_eq!(memory.get(&key).copied(), found.map(|at| row[at].1));
                        if let Some(at) = found {
                            let used = row.remove(at);
                            row.push(used);
                        }
                    }
                    1 => prop_assert_eq!(memory.has(&key), found.is_some()),
                    2 => {
                        memory.remove(&key);
                        found.map(|at| row.remove(at));
                    }
                    _ => {
                        memory.insert(key, value);
                        found.map(|at| row.remove(at));
                        row.push((key, value));
                        if row.len() > capacity {
                            row.remove(0);
                        }
                    }
                }
                prop_assert_eq!(memory.entries.len(), row.len());
                prop_assert_eq!(memory.places.len(), row.len());
            }
        }
    }
}
