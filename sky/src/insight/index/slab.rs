//! Entries in the order in which they came, each with a number of 4 bytes by which tables may refer to it.

/// No entry's number.
pub(super) const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Entry<T> {
    /// What was here last, if the entry is free.
    value: T,
    /// The neighbours by age, or [`NONE`]; a free entry has the next free one behind it.
    before: u32,
    after: u32,
}

/// The entries.
#[derive(Debug)]
pub(super) struct Slab<T> {
    entries: Vec<Entry<T>>,
    oldest: u32,
    newest: u32,
    free: u32,
    length: usize,
}

impl<T: Copy> Slab<T> {
    pub(super) fn new() -> Self {
        Self { entries: Vec::new(), oldest: NONE, newest: NONE, free: NONE, length: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// The entry that came first of those that are there.
    pub(super) fn oldest(&self) -> Option<u32> {
        (self.oldest != NONE).then_some(self.oldest)
    }

    /// Of a number that [`push`](Self::push) gave, and that was not removed since.
    pub(super) fn get(&self, number: u32) -> &T {
        &self.entries[number as usize].value
    }

    /// As [`get`](Self::get).
    pub(super) fn get_mut(&mut self, number: u32) -> &mut T {
        &mut self.entries[number as usize].value
    }

    /// From the oldest on.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let mut next = self.oldest;
        std::iter::from_fn(move || {
            let entry = self.entries.get(next as usize)?;
            Some((std::mem::replace(&mut next, entry.after), &entry.value))
        })
    }

    /// Adds the newest entry. There may be 2^32 - 1: users keep to a limit far below.
    pub(super) fn push(&mut self, value: T) -> u32 {
        let entry = Entry { value, before: self.newest, after: NONE };
        let number = self.free;
        let number = if let Some(place) = self.entries.get_mut(number as usize) {
            self.free = place.after;
            *place = entry;
            number
        } else {
            if self.entries.len() == self.entries.capacity() {
                // Twice the room would be half of it empty.
                self.entries.reserve_exact(self.entries.len() / 16 + 16);
            }
            self.entries.push(entry);
            u32::try_from(self.entries.len() - 1).unwrap_or(NONE)
        };
        match self.entries.get_mut(self.newest as usize) {
            Some(before) => before.after = number,
            None => self.oldest = number,
        }
        self.newest = number;
        self.length += 1;
        number
    }

    /// Takes out an entry that is there.
    pub(super) fn remove(&mut self, number: u32) -> T {
        let Entry { value, before, after } = self.entries[number as usize];
        match self.entries.get_mut(before as usize) {
            Some(before) => before.after = after,
            None => self.oldest = after,
        }
        match self.entries.get_mut(after as usize) {
            Some(after) => after.before = before,
            None => self.newest = before,
        }
        self.entries[number as usize].after = self.free;
        self.free = number;
        self.length -= 1;
        value
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a list.
        #[test]
        fn entries_stay_in_their_order(steps in proptest::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..300)) {
            let mut slab = Slab::new();
            let mut model: Vec<(u32, usize)> = Vec::new();
            for (value, (push, which)) in steps.into_iter().enumerate() {
                if push || model.is_empty() {
                    let number = slab.push(value);
                    prop_assert!(model.iter().all(|entry| entry.0 != number));
                    model.push((number, value));
                } else {
                    let (number, value) = model.remove(which.index(model.len()));
                    prop_assert_eq!(slab.remove(number), value);
                }
                prop_assert_eq!(slab.len(), model.len());
                prop_assert_eq!(slab.oldest(), model.first().map(|entry| entry.0));
                prop_assert!(slab.iter().map(|(number, &value)| (number, value)).eq(model.iter().copied()));
                for &(number, value) in &model {
                    prop_assert_eq!((*slab.get(number), *slab.get_mut(number)), (value, value));
                }
            }
            prop_assert!(slab.entries.len() <= 300);
        }
    }
}
