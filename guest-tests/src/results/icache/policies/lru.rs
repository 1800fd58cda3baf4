//! Least recently used.

use super::Policy;
use super::queue::Queue;

pub(super) struct Lru {
    capacity: u32,
    queue: Queue,
}

impl Lru {
    pub(super) fn new(capacity: u32, blocks: u32) -> Self {
        Self { capacity, queue: Queue::new(blocks) }
    }
}

impl Policy for Lru {
    fn access(&mut self, block: u32) -> bool {
        if self.queue.renew(block) {
            return true;
        }
        if self.queue.len() >= self.capacity {
            self.queue.pop();
        }
        self.queue.push(block);
        false
    }
}
