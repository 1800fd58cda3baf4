//! What is known of each line, 16 bytes: its block, its neighbours in its queue, when it was used, class and marks.

use super::{Line, NONE, Time};
use crate::policy::ClassId;

/// Where a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::icache) enum Place {
    /// It holds no block.
    Free,
    /// It is among those that go next.
    Cold,
    /// It is kept.
    Hot,
}

/// Something that holds for a line or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(in crate::icache) enum Mark {
    /// The slow tier holds something older.
    Dirty = 1,
    /// What it holds may not be durable yet.
    Fresh = 2,
    /// It was used again while it was here, or came back.
    Proven = 4,
    /// It was hot.
    Demoted = 8,
    /// It is being written to the slow tier.
    Leaving = 16,
    /// It holds nothing and waits for a block.
    Idle = 32,
    /// It holds nothing, and nothing may be put there.
    Retired = 64,
}

/// Bytes of memory for each line.
pub(super) const LINE_BYTES: u64 = 4 + 8 + 2 + 2;

/// The lines, by their numbers.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) blocks: Box<[u32]>,
    /// The more lately used neighbour, and the other one.
    links: Box<[[Line; 2]]>,
    times: Box<[Time]>,
    /// Class and place in one byte, marks in the other.
    states: Box<[[u8; 2]]>,
}

/// The ends of a queue, and how many lines it has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queue {
    pub(super) head: Line,
    pub(super) tail: Line,
    pub(super) length: u32,
}

impl Default for Queue {
    fn default() -> Self {
        Self { head: NONE, tail: NONE, length: 0 }
    }
}

const CLASS_BITS: u8 = 0x3f;

impl Table {
    pub(super) fn new(lines: u32) -> Self {
        let lines = lines as usize;
        Self {
            blocks: vec![NONE; lines].into_boxed_slice(),
            links: vec![[NONE; 2]; lines].into_boxed_slice(),
            times: vec![0; lines].into_boxed_slice(),
            states: vec![[0; 2]; lines].into_boxed_slice(),
        }
    }

    /// Has so many lines from now on. Those that go are in no queue; those that come are free.
    pub(super) fn resize(&mut self, lines: u32) {
        fn resize<T: Clone>(of: &mut Box<[T]>, lines: usize, new: T) {
            let mut all = std::mem::take(of).into_vec();
            all.resize(lines, new);
            *of = all.into_boxed_slice();
        }
        let lines = lines as usize;
        resize(&mut self.blocks, lines, NONE);
        resize(&mut self.links, lines, [NONE; 2]);
        resize(&mut self.times, lines, 0);
        resize(&mut self.states, lines, [0; 2]);
    }

    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.blocks.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn class(&self, line: Line) -> ClassId {
        ClassId::new(self.states[line as usize][0] & CLASS_BITS).unwrap_or_default()
    }

    pub(super) fn place(&self, line: Line) -> Place {
        match self.states[line as usize][0] >> 6 {
            0 => Place::Free,
            1 => Place::Cold,
            _ => Place::Hot,
        }
    }

    pub(super) fn set(&mut self, line: Line, class: ClassId, place: Place) {
        let place = match place {
            Place::Free => 0,
            Place::Cold => 1,
            Place::Hot => 2,
        };
        self.states[line as usize][0] = class.get() | place << 6;
    }

    pub(super) fn has(&self, line: Line, mark: Mark) -> bool {
        self.states[line as usize][1] & mark as u8 != 0
    }

    pub(super) fn mark(&mut self, line: Line, mark: Mark, holds: bool) {
        let marks = &mut self.states[line as usize][1];
        *marks = if holds { *marks | mark as u8 } else { *marks & !(mark as u8) };
    }

    pub(super) fn clear_marks(&mut self, line: Line) {
        self.states[line as usize][1] = 0;
    }

    pub(super) fn time(&self, line: Line) -> Time {
        self.times[line as usize]
    }

    pub(super) fn set_time(&mut self, line: Line, time: Time) {
        self.times[line as usize] = time;
    }

    /// Puts a line that is in no queue at the head of one.
    pub(super) fn push(&mut self, queue: &mut Queue, line: Line) {
        self.links[line as usize] = [NONE, queue.head];
        match queue.head {
            NONE => queue.tail = line,
            head => self.links[head as usize][0] = line,
        }
        queue.head = line;
        queue.length += 1;
    }

    /// Takes a line out of the queue that it is in.
    pub(super) fn unlink(&mut self, queue: &mut Queue, line: Line) {
        let [newer, older] = self.links[line as usize];
        match newer {
            NONE => queue.head = older,
            newer => self.links[newer as usize][1] = older,
        }
        match older {
            NONE => queue.tail = newer,
            older => self.links[older as usize][0] = newer,
        }
        queue.length -= 1;
    }

    #[cfg(test)]
    /// The lines of a queue, the most lately used first.
    pub(super) fn iter(&self, queue: Queue) -> impl Iterator<Item = Line> + '_ {
        let mut next = queue.head;
        std::iter::from_fn(move || {
            let line = next;
            (line != NONE).then(|| {
                next = self.links[line as usize][1];
                line
            })
        })
    }
}
