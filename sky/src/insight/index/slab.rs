//! Entries in the order in which they came, each with a number of 4 bytes by which tables may refer to it.

/// No entry's number.
const NONE: u32 = u32::MAX;
/// Entries are allocated so many at a time, and stay where they are: a table of a million does not double, and is not copied.
const CHUNK: usize = 1 << 10;

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
    chunks: Vec<Vec<Entry<T>>>,
    oldest: u32,
    newest: u32,
    free: u32,
    length: usize,
}

impl<T: Copy> Slab<T> {
    pub(super) fn new() -> Self {
        Self { chunks: Vec::new(), oldest: NONE, newest: NONE, free: NONE, length: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// The entry that came first of those that are there.
    pub(super) fn oldest(&self) -> Option<u32> {
        (self.oldest != NONE).then_some(self.oldest)
    }

    /// None for [`NONE`].
    fn entry(&mut self, number: u32) -> Option<&mut Entry<T>> {
        self.chunks.get_mut(number as usize / CHUNK)?.get_mut(number as usize % CHUNK)
    }

    /// Of a number that [`push`](Self::push) gave, and that was not removed since.
    pub(super) fn get(&self, number: u32) -> &T {
        &self.chunks[number as usize / CHUNK][number as usize % CHUNK].value
    }

    /// As [`get`](Self::get).
    pub(super) fn get_mut(&mut self, number: u32) -> &mut T {
        &mut self.chunks[number as usize / CHUNK][number as usize % CHUNK].value
    }

    /// From the oldest on.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let mut next = self.oldest;
        std::iter::from_fn(move || {
            let entry = self.chunks.get(next as usize / CHUNK)?.get(next as usize % CHUNK)?;
            Some((std::mem::replace(&mut next, entry.after), &entry.value))
        })
    }

    /// Adds the newest entry. There may be 2^32 - 1: users keep to a limit far below.
    pub(super) fn push(&mut self, value: T) -> u32 {
        let entry = Entry { value, before: self.newest, after: NONE };
        let free = self.free;
        let number = if let Some(place) = self.entry(free) {
            let next = std::mem::replace(place, entry).after;
            self.free = next;
            free
        } else {
            // None is free, so as many are there as ever were.
            if self.length.is_multiple_of(CHUNK) {
                self.chunks.push(Vec::with_capacity(CHUNK));
            }
            if let Some(last) = self.chunks.last_mut() {
                last.push(entry);
            }
            u32::try_from(self.length).unwrap_or(NONE)
        };
        match self.entry(self.newest) {
            Some(before) => before.after = number,
            None => self.oldest = number,
        }
        self.newest = number;
        self.length += 1;
        number
    }

    /// Takes out an entry that is there.
    pub(super) fn remove(&mut self, number: u32) -> T {
        let Entry { value, before, after } = self.chunks[number as usize / CHUNK][number as usize % CHUNK];
        match self.entry(before) {
            Some(before) => before.after = after,
            None => self.oldest = after,
        }
        match self.entry(after) {
            Some(after) => after.before = before,
            None => self.newest = before,
        }
        let free = std::mem::replace(&mut self.free, number);
        self.chunks[number as usize / CHUNK][number as usize % CHUNK].after = free;
        self.length -= 1;
        value
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn entries_are_found_in_all_chunks() {
        let mut slab = Slab::new();
        let numbers: Vec<u32> = (0..3 * CHUNK).map(|value| slab.push(value)).collect();
        assert!(numbers.iter().enumerate().all(|(value, &number)| *slab.get(number) == value));
        for &number in &numbers {
            slab.remove(number);
        }
        assert_eq!((slab.len(), slab.oldest(), slab.iter().count()), (0, None, 0));
        // What is free is used again, in whatever order.
        let again: std::collections::BTreeSet<u32> = (0..3 * CHUNK).map(|value| slab.push(value)).collect();
        assert!(again.into_iter().eq(numbers));
    }

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
            prop_assert_eq!(slab.chunks.len(), 1);
        }
    }
}
