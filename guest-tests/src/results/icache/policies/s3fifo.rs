//! S3-FIFO: a small queue of a tenth for what is new, a main one with a clock, and ghosts of what only passed through.

use super::Policy;
use super::queue::Queue;

/// Uses in the small queue after which a block goes on to the main one.
const MOVES: u8 = 2;
/// What the main queue counts up to.
const MOST: u8 = 3;

pub(super) struct S3Fifo {
    capacity: u32,
    small: Queue,
    small_most: u32,
    main: Queue,
    ghosts: Queue,
    ghosts_most: u32,
    uses: Vec<u8>,
    /// Something had to go already. Before, what the small queue has no room for fills the main one.
    has_evicted: bool,
}

impl S3Fifo {
    pub(super) fn new(capacity: u32, blocks: u32) -> Self {
        Self {
            capacity,
            small: Queue::new(blocks),
            small_most: (capacity / 10).max(1),
            main: Queue::new(blocks),
            ghosts: Queue::new(blocks),
            ghosts_most: u32::try_from(u64::from(capacity) * 9 / 10).unwrap_or(capacity).max(1),
            uses: vec![0; blocks as usize],
            has_evicted: false,
        }
    }

    fn evict(&mut self) {
        self.has_evicted = true;
        if self.main.len() > self.capacity - self.small_most || self.small.len() == 0 {
            self.evict_main();
        } else {
            self.evict_small();
        }
    }

    /// May move all that there is to the main queue, so that nothing goes.
    fn evict_small(&mut self) {
        while let Some(block) = self.small.pop() {
            let uses = std::mem::take(&mut self.uses[block as usize]);
            if uses < MOVES {
                if self.ghosts.len() >= self.ghosts_most {
                    self.ghosts.pop();
                }
                return self.ghosts.push(block);
            }
            self.main.push(block);
        }
    }

    fn evict_main(&mut self) {
        while let Some(block) = self.main.pop() {
            let uses = &mut self.uses[block as usize];
            if *uses == 0 {
                return;
            }
            *uses = (*uses).min(MOST) - 1;
            self.main.push(block);
        }
    }
}

impl Policy for S3Fifo {
    fn access(&mut self, block: u32) -> bool {
        if self.small.contains(block) || self.main.contains(block) {
            let uses = &mut self.uses[block as usize];
            *uses = uses.saturating_add(1);
            return true;
        }
        let came_back = self.ghosts.remove(block);
        while self.small.len() + self.main.len() >= self.capacity {
            self.evict();
        }
        self.uses[block as usize] = 0;
        if came_back || (!self.has_evicted && self.small.len() >= self.small_most) {
            self.main.push(block);
        } else {
            self.small.push(block);
        }
        false
    }
}
