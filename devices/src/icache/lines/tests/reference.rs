//! The policies to compare with, written to be read.

use super::*;

/// Least recently used.
pub(super) struct Lru {
    capacity: usize,
    /// When each block was used, and the other way round.
    used: HashMap<u32, u64>,
    order: BTreeMap<u64, u32>,
    now: u64,
    pub(super) hits: u64,
}

impl Lru {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, used: HashMap::new(), order: BTreeMap::new(), now: 0, hits: 0 }
    }

    pub(super) fn access(&mut self, block: u32) {
        self.now += 1;
        if let Some(then) = self.used.insert(block, self.now) {
            self.order.remove(&then);
            self.hits += 1;
        } else if self.used.len() > self.capacity {
            let (_, block) = self.order.pop_first().unwrap();
            self.used.remove(&block);
        }
        self.order.insert(self.now, block);
    }
}

/// LIRS as its paper has it, with a hundredth of the cache for cold blocks and a stack of three times the cache.
pub(super) struct Lirs {
    hot_most: usize,
    cold_most: usize,
    stack_most: usize,
    stack: BTreeMap<u64, u32>,
    in_stack: HashMap<u32, u64>,
    hot: HashMap<u32, ()>,
    cold: VecDeque<u32>,
    now: u64,
    pub(super) hits: u64,
}

impl Lirs {
    pub(super) fn new(capacity: usize) -> Self {
        let cold_most = (capacity / 100).max(1);
        Self {
            hot_most: capacity - cold_most,
            cold_most,
            stack_most: capacity * 3,
            stack: BTreeMap::new(),
            in_stack: HashMap::new(),
            hot: HashMap::new(),
            cold: VecDeque::new(),
            now: 0,
            hits: 0,
        }
    }

    /// Puts a block on the top of the stack, and says whether it was in it.
    fn push(&mut self, block: u32) -> bool {
        self.now += 1;
        let then = self.in_stack.insert(block, self.now);
        then.map(|then| self.stack.remove(&then));
        self.stack.insert(self.now, block);
        then.is_some()
    }

    /// The last of the stack is hot.
    fn prune(&mut self) {
        while let Some((&at, &block)) = self.stack.first_key_value() {
            if self.hot.contains_key(&block) && self.stack.len() <= self.stack_most {
                return;
            }
            if self.hot.contains_key(&block) {
                // Too long: the oldest that is not hot goes.
                let Some((&at, &block)) = self.stack.iter().find(|(_, block)| !self.hot.contains_key(block))
                else {
                    return;
                };
                self.stack.remove(&at);
                self.in_stack.remove(&block);
                continue;
            }
            self.stack.remove(&at);
            self.in_stack.remove(&block);
        }
    }

    fn demote_last(&mut self) {
        let (_, block) = self.stack.pop_first().unwrap();
        self.in_stack.remove(&block);
        self.hot.remove(&block);
        self.cold.push_back(block);
        self.prune();
    }

    pub(super) fn access(&mut self, block: u32) {
        if self.hot.contains_key(&block) {
            self.hits += 1;
            self.push(block);
            self.prune();
            return;
        }
        let place = self.cold.iter().position(|&other| other == block);
        if let Some(place) = place {
            self.hits += 1;
            self.cold.remove(place);
        } else if self.hot.len() < self.hot_most {
            self.push(block);
            self.hot.insert(block, ());
            return;
        } else if self.cold.len() >= self.cold_most {
            self.cold.pop_front();
        }
        if self.push(block) {
            self.hot.insert(block, ());
            self.demote_last();
        } else {
            self.cold.push_back(block);
        }
        self.prune();
    }
}
