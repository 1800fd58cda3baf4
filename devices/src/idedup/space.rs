//! Physical blocks: how many references each has, and which are free.

use std::ops::Range;

use super::table::{PER_PAGE, Table, WORDS};

/// Instead of a number of references: given out, but nothing leads there yet, or nothing any more until that is durable.
const HELD: u32 = u32::MAX;

/// References of all physical blocks.
#[derive(Debug)]
pub(super) struct Space {
    references: Table,
    /// Free blocks of each page of the table.
    free: Vec<u32>,
    all_free: u32,
    /// Blocks that something leads to.
    used: u32,
    physical: u32,
    /// Where to look next.
    next: u32,
    /// Free blocks that are not given out for now, from 0 on.
    aside: Range<u32>,
}

impl Space {
    /// `physical` free blocks, of which the first is number 1.
    pub(super) fn new(physical: u32) -> Self {
        let pages = (physical as usize).div_ceil(WORDS);
        let mut free = vec![PER_PAGE; pages];
        if let (Some(last), rest @ 1..) = (free.last_mut(), physical % PER_PAGE) {
            *last = rest;
        }
        Self {
            references: Table::new(physical),
            free,
            all_free: physical,
            used: 0,
            physical,
            next: 0,
            aside: 0..0,
        }
    }

    /// Changes the number of references of a block, which was `old`.
    fn change(&mut self, physical: u32, old: u32, new: u32) {
        let at = physical.wrapping_sub(1);
        self.references.set(at, new);
        let Some(free) = self.free.get_mut(at as usize / WORDS) else { return };
        match (old == 0, new == 0) {
            (true, false) => {
                (*free, self.all_free) = (free.saturating_sub(1), self.all_free.saturating_sub(1))
            }
            (false, true) => (*free, self.all_free) = (*free + 1, self.all_free + 1),
            _ => {}
        }
        let is_used = |count| count != 0 && count != HELD;
        match (is_used(old), is_used(new)) {
            (false, true) => self.used += 1,
            (true, false) => self.used = self.used.saturating_sub(1),
            _ => {}
        }
    }

    fn count(&self, physical: u32) -> u32 {
        self.references.get(physical.wrapping_sub(1))
    }

    /// References of a block.
    pub(super) fn references(&self, physical: u32) -> u32 {
        match self.count(physical) {
            HELD => 0,
            count => count,
        }
    }

    /// Bytes of memory that they take.
    pub(super) fn memory(&self) -> u64 {
        self.references.memory() + (self.free.len() * size_of::<u32>()) as u64
    }

    pub(super) fn free(&self) -> u32 {
        self.all_free
    }

    /// Blocks that something leads to.
    pub(super) fn used(&self) -> u32 {
        self.used
    }

    /// One more reference, also to a block that has none.
    pub(super) fn refer(&mut self, physical: u32) {
        let count = self.count(physical);
        self.change(physical, count, if count == HELD { 1 } else { count + 1 });
    }

    /// One reference fewer. Answers whether it was the last; then the block is held until [`release`](Self::release).
    pub(super) fn leave(&mut self, physical: u32) -> bool {
        match self.count(physical) {
            0 | HELD => false,
            1 => {
                self.change(physical, 1, HELD);
                true
            }
            more => {
                self.change(physical, more, more - 1);
                false
            }
        }
    }

    /// Gives out a free block that `usable` accepts, one behind the other where that is possible, and holds it.
    pub(super) fn take(&mut self, usable: impl Fn(u32) -> bool) -> Option<u32> {
        if self.all_free == 0 {
            return None;
        }
        let begin = self.next;
        let (mut at, mut wrapped) = (begin, false);
        loop {
            if at >= self.physical {
                if wrapped {
                    return None;
                }
                (at, wrapped) = (0, true);
            }
            if wrapped && at >= begin.max(1) {
                return None;
            }
            if self.aside.contains(&at) {
                at = self.aside.end;
                continue;
            }
            let page = at as usize / WORDS;
            if self.free.get(page).is_none_or(|&free| free == 0) {
                at = u32::try_from((page + 1) * WORDS).unwrap_or(u32::MAX);
                continue;
            }
            if self.references.get(at) == 0 && usable(at + 1) {
                self.change(at + 1, 0, HELD);
                self.next = at + 1;
                return Some(at + 1);
            }
            at += 1;
        }
    }

    /// Sets the next free blocks side by side aside, `most` of them at most, so that nobody is given one. `at` blocks are
    /// passed over. Answers their numbers; nothing if there are no more.
    pub(super) fn set_aside(&mut self, mut at: u32, most: u32) -> Option<Range<u32>> {
        while at < self.physical && self.references.get(at) != 0 {
            let page = at as usize / WORDS;
            let full = self.free.get(page) == Some(&0);
            at = if full { u32::try_from((page + 1) * WORDS).unwrap_or(u32::MAX) } else { at + 1 };
        }
        if at >= self.physical {
            return None;
        }
        let (first, limit) = (at, at.saturating_add(most).min(self.physical));
        while at < limit && self.references.get(at) == 0 {
            // Where no page is, nothing has a reference.
            at = self.references.skip(at + 1, limit);
        }
        self.aside = first..at;
        Some(first + 1..at + 1)
    }

    /// What was set aside is free for all.
    pub(super) fn end_aside(&mut self) {
        self.aside = 0..0;
    }

    /// Blocks to pass over, from `at` of them on, before the next that may have references; `end` at most.
    pub(super) fn skip(&self, at: u32, end: u32) -> u32 {
        self.references.skip(at, end)
    }

    /// A block that is held is free.
    pub(super) fn release(&mut self, physical: u32) {
        if self.count(physical) == HELD {
            self.change(physical, HELD, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn counts_as_a_map_does(steps in proptest::collection::vec((0..6u8, 0..64u32), 0..400), few in any::<bool>()) {
            let physical = if few { 5 } else { 1018 + 3 };
            let (mut space, mut counts, mut held) = (Space::new(physical), BTreeMap::new(), BTreeSet::new());
            let mut aside = 1..1;
            for (what, which) in steps {
                let any = |from: Vec<u32>| (!from.is_empty()).then(|| from[which as usize % from.len()]);
                match what {
                    0 => match space.take(|_| true) {
                        Some(block) => {
                            prop_assert!((1..=physical).contains(&block) && !counts.contains_key(&block));
                            prop_assert!(held.insert(block) && !aside.contains(&block));
                        }
                        None => prop_assert_eq!(counts.len() + held.len() + aside.len(), physical as usize),
                    },
                    4 => {
                        let free = |block: &u32| !counts.contains_key(block) && !held.contains(block);
                        let first = (which + 1..=physical).find(free);
                        let run = first.map(|first| {
                            first..(first..=physical).take(40).take_while(free).last().unwrap_or(first) + 1
                        });
                        prop_assert_eq!(space.set_aside(which, 40), run.clone());
                        aside = run.unwrap_or(aside);
                    }
                    5 => {
                        space.end_aside();
                        aside = 1..1;
                    }
                    1 => if let Some(block) = any(held.iter().copied().collect()) {
                        held.remove(&block);
                        if which % 2 == 0 {
                            space.release(block);
                        } else {
                            space.refer(block);
                            counts.insert(block, 1);
                        }
                    },
                    2 => if let Some(block) = any(counts.keys().copied().collect()) {
                        space.refer(block);
                        *counts.entry(block).or_default() += 1;
                    },
                    _ => if let Some(block) = any(counts.keys().copied().collect()) {
                        let count: &mut u32 = counts.entry(block).or_default();
                        *count -= 1;
                        prop_assert_eq!(space.leave(block), *count == 0);
                        if *count == 0 {
                            counts.remove(&block);
                            held.insert(block);
                        }
                    },
                }
                prop_assert_eq!(space.free() as usize, physical as usize - counts.len() - held.len());
                prop_assert_eq!(space.used() as usize, counts.len());
                for block in 1..=physical.min(8) {
                    prop_assert_eq!(space.references(block), counts.get(&block).copied().unwrap_or(0));
                }
            }
        }
    }
}
