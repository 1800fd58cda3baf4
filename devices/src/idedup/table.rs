//! Numbers of 32 bits, as many as there are blocks, in pieces that exist where one of them is not zero.

use std::collections::BTreeSet;

use super::page::{self, BLOCK, HEADER, Identity, Kind};

/// Numbers of a page.
pub(super) const PER_PAGE: u32 = 1018;
pub(super) const WORDS: usize = PER_PAGE as usize;
const _: () = assert!(HEADER + 4 * WORDS == BLOCK);

/// A table, and which pages of it have changed.
#[derive(Debug)]
pub(super) struct Table {
    pages: Vec<Option<Box<[u32; WORDS]>>>,
    dirty: BTreeSet<u32>,
    /// The one of them that has changed last.
    latest: Option<u32>,
}

/// The page of a number, and its place there.
fn split(at: u32) -> (usize, usize) {
    (at as usize / WORDS, at as usize % WORDS)
}

impl Table {
    /// One of `length` zeros.
    pub(super) fn new(length: u32) -> Self {
        let mut pages = Vec::new();
        pages.resize_with((length as usize).div_ceil(WORDS), || None);
        Self { pages, dirty: BTreeSet::new(), latest: None }
    }

    pub(super) fn get(&self, at: u32) -> u32 {
        let (page, place) = split(at);
        self.pages.get(page).and_then(Option::as_ref).map_or(0, |page| page[place])
    }

    /// Changes a number of the table; what is behind its end stays zero.
    pub(super) fn set(&mut self, at: u32, value: u32) {
        let (number, place) = split(at);
        let Some(page) = self.pages.get_mut(number) else { return };
        if value == 0 && page.is_none() {
            return;
        }
        page.get_or_insert_with(|| Box::new([0; WORDS]))[place] = value;
        let page = at / PER_PAGE;
        if self.latest != Some(page) {
            self.latest = Some(page);
            self.dirty.insert(page);
        }
    }

    /// The numbers that are not zero, with their places.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let pages = (0u32..).step_by(WORDS).zip(&self.pages);
        let there = pages.filter_map(|(first, page)| page.as_ref().map(|page| (first, page)));
        there.flat_map(|(first, page)| (first..).zip(page.iter().copied()).filter(|(_, value)| *value != 0))
    }

    /// The first place from `at` on, below `end`, whose page exists, or `end`.
    pub(super) fn skip(&self, at: u32, end: u32) -> u32 {
        let (first, _) = split(at);
        let (last, _) = split(end);
        let there = self.pages.iter().take(last + 1).skip(first).position(Option::is_some);
        match there {
            None => end,
            Some(0) => at.min(end),
            Some(more) => u32::try_from((first + more) * WORDS).unwrap_or(end).min(end),
        }
    }

    /// Bytes of memory that the numbers take.
    pub(super) fn memory(&self) -> u64 {
        let there = self.pages.iter().flatten().count() * size_of::<[u32; WORDS]>();
        (there + self.pages.len() * size_of::<Option<Box<[u32; WORDS]>>>()) as u64
    }

    /// Pages that have changed.
    pub(super) fn dirty(&self) -> &BTreeSet<u32> {
        &self.dirty
    }

    /// Page number `page` as it lies in the image, where it is number `number`.
    pub(super) fn encode(&self, identity: Identity, page: u32, number: u64) -> [u8; BLOCK] {
        let mut bytes = [0; BLOCK];
        if let Some(words) = self.pages.get(page as usize).and_then(Option::as_ref) {
            for (bytes, word) in bytes[HEADER..].chunks_exact_mut(4).zip(words.iter()) {
                bytes.copy_from_slice(&word.to_le_bytes());
            }
        }
        page::seal(Kind::Table, identity, number, &mut bytes);
        bytes
    }

    /// Takes page number `page` from its bytes, which are sound.
    pub(super) fn decode(&mut self, page: u32, bytes: &[u8]) {
        let mut words = Box::new([0; WORDS]);
        for (word, bytes) in words.iter_mut().zip(bytes[HEADER..].chunks_exact(4)) {
            *word = page::u32_at(bytes, 0);
        }
        if let Some(place) = self.pages.get_mut(page as usize) {
            *place = Some(words);
        }
    }

    /// All changes are durable.
    pub(super) fn clean(&mut self) {
        self.dirty.clear();
        self.latest = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_from_pages_and_zeros_take_none() {
        let length = 3 * u32::try_from(WORDS).unwrap() - 5;
        let mut table = Table::new(length);
        table.set(7, 0);
        assert!(table.dirty().is_empty() && table.skip(0, length) == length);
        let second = u32::try_from(WORDS).unwrap() + 3;
        table.set(second, 9);
        table.set(length + 5, 1);
        table.set(length + 6, 1);
        assert_eq!(table.iter().find(|(at, _)| *at < length), Some((second, 9)));
        assert_eq!((table.skip(0, length), table.skip(second, length)), (second - 3, second));
        let mut again = Table::new(length);
        let page = table.encode(Identity(1), 1, 77);
        assert_eq!(page::number(Kind::Table, Identity(1), &page), Some(77));
        again.decode(1, &page);
        assert_eq!(again.iter().collect::<Vec<_>>(), [(second, 9)]);
        table.clean();
        assert!(table.dirty().is_empty() && again.dirty().is_empty());
    }
}
