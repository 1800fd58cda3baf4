//! What stays in the cache: a queue for each class, and in each class LIRS's idea of what is worth keeping.
//!
//! ```text
//!               first read, or room left       used again sooner than the last hot line was
//!   block ──┬──────────────▶ hot (of its class) ◀───────────────┐
//!           │                 │ a class that is kept longer,    │
//!           │                 ▼ or a better line, needs room    │
//!           └──────────────▶ cold (of its class) ──▶ ghosts ────┘
//!              otherwise      │
//!                             ▼ evicted: those that go first, first
//! ```
//!
//! In a class, after Jiang and Zhang, "LIRS: An Efficient Low Inter-reference Recency Set Replacement Policy",
//! SIGMETRICS 2002: nearly all lines are *hot*, and a cold one becomes hot when the time between its last two uses is
//! shorter than the time since the last hot line was used. A scan or a loop that is too large only passes through the
//! cold lines. LIRS asks whether a block is still on its stack; here each line and each ghost keeps a coarse time
//! instead, which costs 2 bytes rather than a stack of ghosts with links. How many lines are cold follows, within
//! bounds, what comes back soon after it was evicted (as in Li, "DLIRS: Improving Low Inter-reference Recency Set
//! Cache Replacement Policy with Dynamics", SYSTOR 2018).
//!
//! Between classes: one that is kept longer takes the room of hot lines of others, but not all of it: lines that have
//! been used again are safe in an eighth of the cache, or in a quarter from lines that have not. Some cold lines stay
//! with each class, and a class below its eighth competes with everybody by LIRS's rule. Pinned classes leave an eighth.
//! What was only written so far takes no hot line from another class: a journal is metadata that nobody reads.
//!
//! [`Lines`] is data only: no I/O, no locks. 23.3 bytes for each line, by [`Lines::bytes`].

mod ghosts;
mod index;
mod shares;
mod table;
#[cfg(test)]
mod tests;

use crate::policy::{ClassId, Policy};
use ghosts::Ghosts;
use index::Index;
use shares::{PINNED, Rank, Shares};
pub(super) use table::{Mark, Place};
use table::{Queue, Table};

/// Number of a line: a place of 4 KiB in the fast tier.
pub(super) type Line = u32;
/// No line, and no block.
pub(super) const NONE: u32 = u32::MAX;
/// Coarse time, which wraps: a 64th of the time in which as many blocks are used as the cache holds.
type Time = u16;
/// What was used so lately would still be there if nothing had been kept but what was used last.
const SOON: Time = 56;
/// So often one cold line more has to be asked for, or there is one less.
const FORGETS: Time = 16;

/// A line's place in the queues has to be asked for: what is to be done for a block to come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// Nothing: a free line will do.
    Free,
    /// This line has to go.
    Victim(Line),
    /// The block must not come in.
    Refused,
}

/// All lines.
#[derive(Debug)]
pub(super) struct Lines {
    table: Table,
    index: Index,
    ghosts: Ghosts,
    shares: Shares,
    /// Lines that hold nothing and wait for a block.
    free: Queue,
    /// Lines that may hold a block at a time.
    capacity: u32,
    held: u32,
    /// Cold lines to aim at.
    cold: u32,
    now: Time,
    /// Uses since the time was changed.
    uses: u32,
}

/// Murmur3's finalizer for 64 bits: neighbours must not lie side by side.
fn hash(block: u32) -> u64 {
    let mut hash = u64::from(block) ^ 0x9e37_79b9_7f4a_7c15;
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

impl Lines {
    /// Bytes of memory that grow with the number of lines.
    pub(super) fn bytes(lines: u32) -> u64 {
        u64::from(lines) * table::LINE_BYTES + Index::places(lines) * 4 + Ghosts::bytes(lines)
    }

    /// `lines` free lines, of which `capacity` may hold a block at a time.
    pub(super) fn new(lines: u32, capacity: u32, policy: &Policy) -> Self {
        Self {
            table: Table::new(lines),
            index: Index::new(lines),
            ghosts: Ghosts::new(lines),
            shares: Shares::new(policy, capacity),
            free: Queue::default(),
            capacity,
            held: 0,
            cold: Self::least_cold(capacity),
            now: 1,
            uses: 0,
        }
    }

    fn least_cold(capacity: u32) -> u32 {
        (capacity / 256).max(1)
    }

    /// Lines that there are.
    pub(super) fn len(&self) -> u32 {
        self.table.len()
    }

    /// Lines that may hold a block at a time.
    pub(super) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// The line that holds a block.
    pub(super) fn find(&self, block: u32) -> Option<Line> {
        self.index.find(block, &self.table.blocks)
    }

    /// The block that a line holds.
    pub(super) fn block(&self, line: Line) -> Option<u32> {
        (self.place(line) != Place::Free).then(|| self.table.blocks[line as usize])
    }

    /// Where a line is.
    pub(super) fn place(&self, line: Line) -> Place {
        self.table.place(line)
    }

    /// The class of a line.
    pub(super) fn class(&self, line: Line) -> ClassId {
        self.table.class(line)
    }

    /// Whether a mark is there.
    pub(super) fn has(&self, line: Line, mark: Mark) -> bool {
        self.table.has(line, mark)
    }

    /// Sets a mark, or takes it away.
    pub(super) fn mark(&mut self, line: Line, mark: Mark, holds: bool) {
        self.table.mark(line, mark, holds);
    }

    /// Lines of a class.
    pub(super) fn of_class(&self, class: ClassId) -> u32 {
        self.shares.of(class).lines()
    }

    /// Whether the policy caches a class at all.
    pub(super) fn admits(&self, class: ClassId) -> bool {
        self.shares.of(class).most > 0
    }

    /// Takes another policy; lines of a class that it does not have are still of that class.
    pub(super) fn adopt(&mut self, policy: &Policy) {
        self.shares.adopt(policy, self.capacity);
    }

    /// A line of a class that the policy does not have is of no class from now on.
    pub(super) fn adopt_line(&mut self, line: Line, policy: &Policy) {
        if self.place(line) != Place::Free && policy.get(self.class(line)).is_none() {
            self.move_to(line, ClassId::UNCLASSIFIED);
        }
    }

    /// As many lines may hold a block at a time from now on. More may do so still.
    pub(super) fn set_capacity(&mut self, capacity: u32, policy: &Policy) {
        self.capacity = capacity;
        self.shares.adopt(policy, capacity);
        self.cold = self.cold.clamp(Self::least_cold(capacity), (capacity / 2).max(1));
    }

    /// Has so many lines from now on; those that are no more hold nothing and are in no queue. What was evicted is
    /// forgotten.
    pub(super) fn resize(&mut self, lines: u32) {
        self.table.resize(lines);
        self.ghosts = Ghosts::new(lines);
        self.index = Index::new(lines);
        for line in 0..lines {
            if let Some(block) = self.block(line) {
                self.index.insert(block, line);
            }
        }
    }

    /// Lines that hold a block.
    pub(super) fn held(&self) -> u32 {
        self.held
    }

    /// The line that goes if one has to, whatever its class.
    pub(super) fn next_to_go(&self) -> Option<Line> {
        Some(self.victim(PINNED)).filter(|&line| line != NONE)
    }

    /// Moves a line to another class, where it is as hot as it was, unless that class has all it may have.
    pub(super) fn reclassify(&mut self, line: Line, class: ClassId) {
        if self.place(line) != Place::Free && self.class(line) != class && !self.is_full(class) {
            self.move_to(line, class);
        }
    }

    fn move_to(&mut self, line: Line, class: ClassId) {
        let place = self.place(line);
        self.unlink(line);
        self.link(line, class, place);
    }

    /// A class has as many lines as it may have.
    fn is_full(&self, class: ClassId) -> bool {
        let share = self.shares.of(class);
        let pinned_full = share.rank == PINNED && self.shares.pinned() >= self.capacity - self.capacity / 8;
        share.lines() >= share.most || pinned_full
    }

    /// A block was used that a line holds.
    pub(super) fn touch(&mut self, line: Line) {
        let (class, place) = (self.class(line), self.place(line));
        let since = self.table.time(line);
        self.unlink(line);
        if place == Place::Cold && self.has(line, Mark::Demoted) {
            // It should have stayed hot.
            self.shrink_cold();
        }
        self.table.mark(line, Mark::Proven, true);
        let becomes_hot = place == Place::Hot || self.make_hot_room(class, Some(since));
        self.link(line, class, if becomes_hot { Place::Hot } else { Place::Cold });
        self.table.mark(line, Mark::Demoted, false);
        self.tick(line);
    }

    /// What has to happen for a block of `class` to come in.
    pub(super) fn room(&self, class: ClassId) -> Room {
        let share = self.shares.of(class);
        if share.most == 0 {
            return Room::Refused;
        }
        let own = if share.cold.length > 0 { share.cold.tail } else { share.hot.tail };
        if self.is_full(class) {
            return if own == NONE { Room::Refused } else { Room::Victim(own) };
        }
        if self.held < self.capacity {
            return Room::Free;
        }
        match self.victim(share.rank) {
            NONE if own == NONE => Room::Refused,
            NONE => Room::Victim(own),
            line => Room::Victim(line),
        }
    }

    /// The line that goes for one of that rank.
    fn victim(&self, rank: Rank) -> Line {
        let gives = |share: &&shares::Share| share.rank != PINNED || rank == PINNED;
        // Classes that go first keep a few cold lines while others have some, or they would never be seen again.
        let some = (self.cold / 8).max(1);
        let cold = self.shares.first_to_go().filter(gives);
        let beyond = |share: &&shares::Share| share.cold.length > some;
        if let Some(share) =
            cold.clone().find(beyond).or_else(|| cold.clone().find(|share| share.cold.length > 0))
        {
            return share.cold.tail;
        }
        cold.filter(|share| share.hot.length > 0).map(|share| share.hot.tail).next().unwrap_or(NONE)
    }

    /// A block, which no line held, came into a free line; [`room`](Self::room) was asked for. Somebody has `read` it, or
    /// has written it and may never want to read it: that is what becomes of a journal, and no line of another class
    /// gives its room for it before it has come back.
    pub(super) fn insert(&mut self, line: Line, block: u32, class: ClassId, read: bool) {
        let ghost = self.ghosts.take(block);
        if let Some(seen) = ghost {
            self.came_back(seen);
        }
        let hot = match read || ghost.is_some() {
            true => self.make_hot_room(class, ghost),
            false => self.has_hot_room(class),
        };
        self.place_block(line, block, class, if hot { Place::Hot } else { Place::Cold });
        self.table.mark(line, Mark::Proven, ghost.is_some());
        if ghost.is_some() && hot {
            self.shares.of_mut(class).proven += 1;
        }
        self.tick(line);
    }

    /// A block is in a line since before the cache was opened.
    pub(super) fn restore(&mut self, line: Line, block: u32, class: ClassId, place: Place) {
        self.place_block(line, block, class, place);
        self.table.set_time(line, self.now);
    }

    fn place_block(&mut self, line: Line, block: u32, class: ClassId, place: Place) {
        self.table.blocks[line as usize] = block;
        self.index.insert(block, line);
        self.table.clear_marks(line);
        self.link(line, class, place);
        self.held += 1;
    }

    /// A line gives its block up. It is known again if it comes back soon.
    pub(super) fn evict(&mut self, line: Line) {
        if let Some(block) = self.block(line) {
            self.ghosts.put(block, self.table.time(line), self.now);
            self.remove(line);
        }
    }

    /// A line gives its block up, which is worth nothing any more.
    pub(super) fn remove(&mut self, line: Line) {
        let Some(block) = self.block(line) else { return };
        self.unlink(line);
        self.index.remove(block, &self.table.blocks);
        self.table.set(line, ClassId::UNCLASSIFIED, Place::Free);
        self.table.clear_marks(line);
        self.table.blocks[line as usize] = NONE;
        self.held -= 1;
    }

    /// Gives the block of one line to another, which is free; nothing else changes.
    pub(super) fn replace(&mut self, old: Line, new: Line) {
        let (Some(block), class, place) = (self.block(old), self.class(old), self.place(old)) else { return };
        let (proven, time) = (self.has(old, Mark::Proven), self.table.time(old));
        self.remove(old);
        self.place_block(new, block, class, place);
        self.table.set_time(new, time);
        self.table.mark(new, Mark::Proven, proven);
        if proven && place == Place::Hot {
            self.shares.of_mut(class).proven += 1;
        }
    }

    /// A line that holds nothing may be taken.
    pub(super) fn release(&mut self, line: Line) {
        self.table.mark(line, Mark::Idle, true);
        self.table.push(&mut self.free, line);
    }

    /// Has nobody take a line that holds nothing. Answers whether it waited for a block.
    pub(super) fn withdraw(&mut self, line: Line) -> bool {
        let idle = self.has(line, Mark::Idle);
        if idle {
            self.table.unlink(&mut self.free, line);
            self.table.mark(line, Mark::Idle, false);
        }
        idle
    }

    /// Takes a line that holds nothing.
    pub(super) fn take_free(&mut self) -> Option<Line> {
        let line = self.free.head;
        (line != NONE && self.withdraw(line)).then_some(line)
    }

    /// Forgets what was evicted.
    pub(super) fn forget_ghosts(&mut self) {
        self.ghosts.clear();
    }

    fn link(&mut self, line: Line, class: ClassId, place: Place) {
        let share = self.shares.of_mut(class);
        self.table.set(line, class, place);
        match place {
            Place::Free => {}
            Place::Cold => self.table.push(&mut share.cold, line),
            Place::Hot => {
                self.table.push(&mut share.hot, line);
                share.proven += u32::from(self.table.has(line, Mark::Proven));
            }
        }
    }

    fn unlink(&mut self, line: Line) {
        let share = self.shares.of_mut(self.table.class(line));
        match self.table.place(line) {
            Place::Free => {}
            Place::Cold => self.table.unlink(&mut share.cold, line),
            Place::Hot => {
                self.table.unlink(&mut share.hot, line);
                share.proven -= u32::from(self.table.has(line, Mark::Proven));
            }
        }
    }

    /// One more line of a class may be hot without another one ceasing to be.
    fn has_hot_room(&self, class: ClassId) -> bool {
        let share = self.shares.of(class);
        let hot = self.held - self.shares.cold().min(self.held);
        share.hot.length < share.most_hot() && hot < self.capacity.saturating_sub(self.cold)
    }

    /// Sees to it that one more line of a class may be hot. It was last used at `since`, if it was.
    fn make_hot_room(&mut self, class: ClassId, since: Option<Time>) -> bool {
        if self.has_hot_room(class) {
            return true;
        }
        let share = *self.shares.of(class);
        let full = share.hot.length >= share.most_hot();
        let least = match since {
            Some(_) => self.capacity / 8,
            None => self.capacity / 4,
        };
        let safe = |other: &shares::Share| other.hot.length <= other.proven.min(least);
        let gives = |other: &&shares::Share| other.hot.length > 0 && !safe(other);
        let before = self.shares.first_to_go().take_while(|other| other.rank > share.rank).find(gives);
        if let (false, Some(tail)) = (full, before.map(|other| other.hot.tail)) {
            self.demote(tail);
            return true;
        }
        let Some(since) = since else { return false };
        // A class that has little is better than none of those that have more only if it is used more often.
        let poor = !full && share.hot.length < self.capacity / 8;
        let rival = |other: &&shares::Share| {
            let same = other.rank == share.rank || (poor && other.rank != PINNED);
            same && other.hot.length > 0
        };
        let oldest = if full {
            share.hot.tail
        } else {
            let tails = self.shares.first_to_go().filter(rival).map(|other| other.hot.tail);
            tails.max_by_key(|&tail| self.age(self.table.time(tail))).unwrap_or(NONE)
        };
        if oldest == NONE || self.age(since) >= self.age(self.table.time(oldest)) {
            return false;
        }
        self.demote(oldest);
        true
    }

    fn demote(&mut self, line: Line) {
        let class = self.class(line);
        self.unlink(line);
        self.link(line, class, Place::Cold);
        self.table.mark(line, Mark::Demoted, true);
    }

    fn age(&self, time: Time) -> Time {
        self.now.wrapping_sub(time)
    }

    /// A block came back that was evicted: soon, so that some more cold lines would have kept it, or not.
    fn came_back(&mut self, seen: Time) {
        if self.age(seen) < SOON {
            self.cold = (self.cold + 1).min((self.capacity / 2).max(1));
        } else {
            self.shrink_cold();
        }
    }

    fn shrink_cold(&mut self) {
        self.cold = (self.cold - 1).max(Self::least_cold(self.capacity));
    }

    fn tick(&mut self, line: Line) {
        self.table.set_time(line, self.now);
        self.uses += 1;
        if self.uses < (self.capacity / 64).max(1) {
            return;
        }
        self.uses = 0;
        self.now = self.now.wrapping_add(1);
        if self.now.is_multiple_of(FORGETS) {
            // A few blocks that a scan reads twice must not take room from hot lines for good.
            self.shrink_cold();
        }
        // Nothing is older than half of what the time can say, or it would be young again one day.
        let tails: Vec<Line> = self.shares.first_to_go().map(|share| share.hot.tail).collect();
        for tail in tails.into_iter().filter(|&tail| tail != NONE) {
            if self.age(self.table.time(tail)) > Time::MAX / 2 {
                self.table.set_time(tail, self.now.wrapping_sub(Time::MAX / 2));
            }
        }
    }
}
