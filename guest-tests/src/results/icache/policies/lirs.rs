//! LIRS with a hundredth of the cache for blocks that are not known to come back soon, and a stack of twice the cache.

use super::Policy;
use super::queue::Queue;

pub(super) struct Lirs {
    /// Blocks by their last use: hot ones, cold ones, and some that are gone. The last one is hot.
    stack: Queue,
    stack_most: u32,
    /// Cold blocks that are there.
    cold: Queue,
    cold_most: u32,
    /// Blocks of the stack that are gone.
    gone: Queue,
    hot: Vec<bool>,
    hot_count: u32,
    hot_most: u32,
}

impl Lirs {
    pub(super) fn new(capacity: u32, blocks: u32) -> Self {
        let cold_most = (capacity / 100).max(1);
        Self {
            stack: Queue::new(blocks),
            stack_most: capacity.saturating_mul(2),
            cold: Queue::new(blocks),
            cold_most,
            gone: Queue::new(blocks),
            hot: vec![false; blocks as usize],
            hot_count: 0,
            hot_most: capacity.saturating_sub(cold_most).max(1),
        }
    }

    /// The oldest cold block goes; it is remembered as long as it is on the stack.
    fn evict(&mut self) {
        if let Some(block) = self.cold.pop()
            && self.stack.contains(block)
        {
            self.gone.push(block);
        }
    }

    /// A block of the stack becomes hot, in the place of the last one if there are enough.
    fn make_hot(&mut self, block: u32) {
        self.hot[block as usize] = true;
        self.hot_count += 1;
        if self.hot_count <= self.hot_most {
            return;
        }
        self.cool();
    }

    /// The last hot block is cold from now on.
    fn cool(&mut self) {
        if let Some(last) = self.stack.pop() {
            self.hot[last as usize] = false;
            self.hot_count -= 1;
            if self.cold.len() >= self.cold_most {
                self.evict();
            }
            self.cold.push(last);
        }
        self.prune();
    }

    fn prune(&mut self) {
        while let Some(last) = self.stack.oldest().filter(|&last| !self.hot[last as usize]) {
            self.stack.pop();
            self.gone.remove(last);
        }
    }

    fn limit(&mut self) {
        while self.stack.len() > self.stack_most {
            let Some(block) = self.gone.pop() else { return };
            self.stack.remove(block);
        }
    }
}

impl Policy for Lirs {
    fn access(&mut self, block: u32) -> bool {
        let on_stack = self.stack.renew(block);
        if self.hot[block as usize] {
            self.prune();
            return true;
        }
        let hit = self.cold.contains(block);
        if on_stack {
            self.cold.remove(block);
            self.gone.remove(block);
            self.make_hot(block);
        } else {
            self.stack.push(block);
            if hit {
                self.cold.renew(block);
                // The paper leaves the hot ones alone; libCacheSim makes room as if this one became hot.
                if self.hot_count >= self.hot_most {
                    self.cool();
                }
            } else if self.hot_count < self.hot_most {
                self.make_hot(block);
            } else {
                if self.cold.len() >= self.cold_most {
                    self.evict();
                }
                self.cold.push(block);
            }
        }
        self.limit();
        hit
    }
}
