//! The filter on the medium: written when the image is closed, read when it is opened, and void from then on.

use super::super::layout::filters_in_page;
use super::super::page::{self, BLOCK, HEADER, Kind};
use super::Index;
use crate::block::Result;

const STAMP: usize = HEADER;
const BYTES: usize = HEADER + 8;
const FILTERS: usize = HEADER + 16;
/// Pages that are read or written at once.
const BATCH: u64 = 64;

impl Index {
    /// Buckets whose filters are in a page, and the pages that are worth anything, side by side and not too many.
    fn filter_pages(&self) -> (u64, Vec<std::ops::Range<u64>>) {
        let Some(each) = filters_in_page(self.filter.segment()) else { return (0, Vec::new()) };
        let mut rows: Vec<std::ops::Range<u64>> = Vec::new();
        for page in 0..self.layout.buckets.div_ceil(each) {
            let mut buckets = page * each..((page + 1) * each).min(self.layout.buckets);
            if !buckets.any(|bucket| self.is_written(bucket)) {
                continue;
            }
            match rows.last_mut().filter(|row| row.end == page && row.end - row.start < BATCH) {
                Some(row) => row.end += 1,
                None => rows.push(page..page + 1),
            }
        }
        (each, rows)
    }

    /// Writes the filter, to be known by `stamp`.
    ///
    /// # Errors
    /// The medium failed.
    pub(in crate::idedup) fn store_filter(&self, stamp: u64) -> Result<()> {
        let (each, rows) = self.filter_pages();
        let segment = u32::try_from(self.filter.segment()).unwrap_or(0);
        for row in rows {
            let mut bytes = Vec::new();
            for number in row.clone() {
                let mut page = [0; BLOCK];
                page[STAMP..STAMP + 8].copy_from_slice(&stamp.to_le_bytes());
                page[BYTES..BYTES + 4].copy_from_slice(&segment.to_le_bytes());
                self.filter.save(number * each, each, &mut page[FILTERS..]);
                page::seal(Kind::Filter, self.layout.identity, number, &mut page);
                bytes.extend_from_slice(&page);
            }
            self.storage.write(self.layout.filter_place(row.start), &bytes)?;
        }
        Ok(())
    }

    /// Reads what [`store_filter`](Self::store_filter) wrote with this stamp. What is torn, or was made for another
    /// memory, is not taken, and is learned from the buckets.
    ///
    /// # Errors
    /// The medium failed.
    pub(super) fn restore_filter(&mut self, stamp: u64) -> Result<()> {
        let (each, rows) = self.filter_pages();
        let segment = u32::try_from(self.filter.segment()).unwrap_or(0);
        let mut bytes = Vec::new();
        for row in rows {
            bytes.resize(usize::try_from(row.end - row.start).unwrap_or(0) * BLOCK, 0);
            self.storage.read(self.layout.filter_place(row.start), &mut bytes)?;
            for (number, page) in (row.start..).zip(bytes.chunks_exact(BLOCK)) {
                let sound = page::number(Kind::Filter, self.layout.identity, page) == Some(number);
                if sound && page::u64_at(page, STAMP) == stamp && page::u32_at(page, BYTES) == segment {
                    self.filter.restore(number * each, each, &page[FILTERS..]);
                }
            }
        }
        Ok(())
    }
}
