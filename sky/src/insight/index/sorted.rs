//! Numbers of entries in the order of the entries' keys, in five or six bytes for each.
//!
//! The keys themselves stay where they are: whoever asks says how to find them. Chunks hold up to [`CHUNK`] numbers; what is
//! added at the end of one that is full begins a new one, so what comes in order leaves full chunks behind.

use std::ops::Range;

const CHUNK: usize = 128;

#[derive(Debug)]
struct Chunk {
    /// Key of the first number.
    first: u64,
    numbers: Vec<u32>,
}

impl Chunk {
    fn new(first: u64, numbers: &[u32]) -> Self {
        let mut all = Vec::with_capacity(CHUNK);
        all.extend_from_slice(numbers);
        Self { first, numbers: all }
    }
}

/// The numbers. Their keys are all different.
#[derive(Debug, Default)]
pub(super) struct Sorted(Vec<Chunk>);

impl Sorted {
    /// The chunk in which a key is, if it is anywhere.
    fn chunk(&self, key: u64) -> usize {
        self.0.partition_point(|chunk| chunk.first <= key).saturating_sub(1)
    }

    /// The number of the entry with this key.
    pub(super) fn get(&self, key: u64, key_of: impl Fn(u32) -> u64) -> Option<u32> {
        let chunk = self.0.get(self.chunk(key))?;
        let at = chunk.numbers.binary_search_by_key(&key, |&number| key_of(number)).ok()?;
        Some(chunk.numbers[at])
    }

    /// The numbers of the entries whose keys are in `keys`.
    pub(super) fn within(&self, keys: &Range<u64>, key_of: impl Fn(u32) -> u64) -> Vec<u32> {
        let mut found = Vec::new();
        for chunk in self.0.iter().skip(self.chunk(keys.start)).take_while(|chunk| chunk.first < keys.end) {
            let place = |key| chunk.numbers.partition_point(|&number| key_of(number) < key);
            found.extend_from_slice(&chunk.numbers[place(keys.start)..place(keys.end)]);
        }
        found
    }

    /// Adds the number of an entry whose key is not there.
    pub(super) fn insert(&mut self, number: u32, key_of: impl Fn(u32) -> u64) {
        let key = key_of(number);
        let which = self.chunk(key);
        let Some(chunk) = self.0.get_mut(which) else {
            self.0.push(Chunk::new(key, &[number]));
            return;
        };
        let at = chunk.numbers.partition_point(|&other| key_of(other) < key);
        if chunk.numbers.len() < CHUNK {
            chunk.numbers.insert(at, number);
            chunk.first = chunk.first.min(key);
            return;
        }
        if at == CHUNK {
            self.0.insert(which + 1, Chunk::new(key, &[number]));
            return;
        }
        let upper = chunk.numbers.split_off(CHUNK / 2);
        let upper = Chunk::new(key_of(upper[0]), &upper);
        self.0.insert(which + 1, upper);
        self.insert(number, key_of);
    }

    /// Takes out the entry with this key, which is still where `key_of` finds it.
    pub(super) fn remove(&mut self, key: u64, key_of: impl Fn(u32) -> u64) {
        let which = self.chunk(key);
        let Some(chunk) = self.0.get_mut(which) else { return };
        let Ok(at) = chunk.numbers.binary_search_by_key(&key, |&number| key_of(number)) else { return };
        chunk.numbers.remove(at);
        match chunk.numbers.first() {
            Some(&first) => chunk.first = key_of(first),
            None => {
                self.0.remove(which);
                return;
            }
        }
        // Small neighbours become one, so that chunks are a quarter full on the average at least.
        if let Some([left, right]) = self.0.get_mut(which..).and_then(|rest| rest.first_chunk_mut::<2>())
            && left.numbers.len() + right.numbers.len() <= CHUNK / 2
        {
            left.numbers.append(&mut right.numbers);
            self.0.remove(which + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a map from keys to numbers, which are their keys' halves here.
        #[test]
        fn agrees_with_a_map(
            runs in proptest::collection::vec((0..2000u32, 1..300u32, any::<bool>()), 1..40),
            ranges in proptest::collection::vec((0..5000u64, 0..3000u64), 8),
        ) {
            let key_of = |number: u32| u64::from(number) * 2;
            let mut sorted = Sorted::default();
            let mut model = BTreeMap::new();
            for (first, count, insert) in runs {
                for number in first..first + count {
                    let is_there = model.contains_key(&key_of(number));
                    if insert && !is_there {
                        sorted.insert(number, key_of);
                        model.insert(key_of(number), number);
                    } else if !insert {
                        sorted.remove(key_of(number), key_of);
                        model.remove(&key_of(number));
                    }
                }
                let numbers = |chunk: &Chunk| chunk.numbers.len();
                prop_assert_eq!(sorted.0.iter().map(numbers).sum::<usize>(), model.len());
                prop_assert!(sorted.0.iter().all(|chunk| (1..=CHUNK).contains(&numbers(chunk))));
                prop_assert!(sorted.0.iter().all(|chunk| chunk.first == key_of(chunk.numbers[0])));
                for &(start, length) in &ranges {
                    let range = start..start + length;
                    let expected: Vec<u32> = model.range(range.clone()).map(|(_, &number)| number).collect();
                    prop_assert_eq!(sorted.within(&range, key_of), expected);
                    prop_assert_eq!(sorted.get(start, key_of), model.get(&start).copied());
                }
            }
        }
    }
}
