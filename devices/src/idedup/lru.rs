//! A bounded memory that forgets what was not used for longest.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

#[derive(Debug)]
pub(super) struct Lru<K, V> {
    values: HashMap<K, (u64, V)>,
    /// When each was used last.
    uses: BTreeMap<u64, K>,
    clock: u64,
    capacity: usize,
}

impl<K: Copy + Eq + Hash, V> Lru<K, V> {
    pub(super) fn new(capacity: usize) -> Self {
        Self { values: HashMap::new(), uses: BTreeMap::new(), clock: 0, capacity }
    }

    /// What is known of `key`, which is used now.
    pub(super) fn get(&mut self, key: &K) -> Option<&V> {
        let (used, value) = self.values.get_mut(key)?;
        self.clock += 1;
        self.uses.remove(used);
        self.uses.insert(self.clock, *key);
        *used = self.clock;
        Some(value)
    }

    /// Whether something is known of `key`; that is no use of it.
    pub(super) fn has(&self, key: &K) -> bool {
        self.values.contains_key(key)
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        if self.capacity == 0 {
            return;
        }
        self.clock += 1;
        if let Some((used, _)) = self.values.insert(key, (self.clock, value)) {
            self.uses.remove(&used);
        } else if self.values.len() > self.capacity
            && let Some((_, oldest)) = self.uses.pop_first()
        {
            self.values.remove(&oldest);
        }
        self.uses.insert(self.clock, key);
    }

    pub(super) fn remove(&mut self, key: &K) {
        if let Some((used, _)) = self.values.remove(key) {
            self.uses.remove(&used);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_unused_goes_first() {
        let mut memory = Lru::new(2);
        memory.insert(1, 'a');
        memory.insert(2, 'b');
        assert_eq!(memory.get(&1), Some(&'a'));
        memory.insert(3, 'c');
        assert!(!memory.has(&2) && memory.has(&1));
        memory.insert(1, 'd');
        memory.insert(4, 'e');
        assert_eq!(memory.get(&1), Some(&'d'));
        assert_eq!(memory.get(&3), None);
        assert_eq!(memory.uses.len(), 2);
        memory.remove(&1);
        assert!(!memory.has(&1) && memory.uses.len() == 1);
        let mut none = Lru::new(0);
        none.insert(1, 1);
        assert!(!none.has(&1));
    }
}
