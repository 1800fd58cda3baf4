//! A queue of blocks, each at most once: two links for every block that there is.

const NONE: u32 = u32::MAX;
/// In the place of a link to a newer block: this one is not in the queue.
const ABSENT: u32 = u32::MAX - 1;

/// Newest first.
pub(super) struct Queue {
    /// To the newer and to the older one.
    links: Vec<[u32; 2]>,
    newest: u32,
    oldest: u32,
    length: u32,
}

impl Queue {
    /// Empty, for blocks that are numbered below `blocks`.
    pub(super) fn new(blocks: u32) -> Self {
        Self { links: vec![[ABSENT, NONE]; blocks as usize], newest: NONE, oldest: NONE, length: 0 }
    }

    pub(super) fn len(&self) -> u32 {
        self.length
    }

    pub(super) fn contains(&self, block: u32) -> bool {
        self.links[block as usize][0] != ABSENT
    }

    pub(super) fn oldest(&self) -> Option<u32> {
        (self.oldest != NONE).then_some(self.oldest)
    }

    /// Puts a block in that is not there, as the newest.
    pub(super) fn push(&mut self, block: u32) {
        self.links[block as usize] = [NONE, self.newest];
        match self.newest {
            NONE => self.oldest = block,
            newest => self.links[newest as usize][0] = block,
        }
        self.newest = block;
        self.length += 1;
    }

    /// Takes a block out; whether it was there.
    pub(super) fn remove(&mut self, block: u32) -> bool {
        let [newer, older] = self.links[block as usize];
        if newer == ABSENT {
            return false;
        }
        match newer {
            NONE => self.newest = older,
            newer => self.links[newer as usize][1] = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.links[older as usize][0] = newer,
        }
        self.links[block as usize] = [ABSENT, NONE];
        self.length -= 1;
        true
    }

    pub(super) fn pop(&mut self) -> Option<u32> {
        let block = self.oldest()?;
        self.remove(block);
        Some(block)
    }

    /// Makes a block the newest; whether it was there.
    pub(super) fn renew(&mut self, block: u32) -> bool {
        let found = self.remove(block);
        if found {
            self.push(block);
        }
        found
    }
}
