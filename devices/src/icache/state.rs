//! What is kept in memory of a cache, behind one lock: the lines, and what the journal has still to say of them.

use std::collections::VecDeque;

use super::format::{Layout, PAGE_FREES, PAGE_SETS, Page, REGIONS, Refreshed, Set, refresh_room};
use super::intents::Intents;
use super::lines::{Line, Lines, Mark, Place};
use super::resize::Going;
use super::stats::ClassStats;
use crate::policy::{ClassId, Policy};

/// Something for the journal.
#[derive(Clone, Copy, Debug)]
enum Record {
    Set(Set),
    Free(Line),
}

/// Streams of requests side by side that are told apart.
const STREAMS: usize = 8;

/// Where pages are written, and whose they are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Journal {
    pub(super) layout: Layout,
    pub(super) uuid: [u8; 16],
    /// The generation of the superblock.
    pub(super) generation: u64,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) lines: Lines,
    pub(super) journal: Journal,
    /// Lines that must not be used again, as the cache is being resized.
    pub(super) going: Option<Going>,
    pub(super) policy: Policy,
    pub(super) intents: Intents,
    pub(super) classes: Vec<ClassStats>,
    /// Dirty lines.
    pub(super) dirty: u32,
    /// Lines that hold nothing, but are free only when so many records are durable.
    limbo: VecDeque<(Line, u64)>,
    /// By their numbers, which begin with 1 and may leave some out.
    records: VecDeque<(u64, Record)>,
    /// Lines whose content may not be durable, and the number of their record.
    fresh: VecDeque<(Line, u64)>,
    /// Things for the journal since the cache was opened, and how many of them are durable.
    appended: u64,
    durable: u64,
    /// The last one without which a flush would be a lie.
    pub(super) needed: u64,
    /// The last page that was written, and the last that is durable as far as later pages say.
    pub(super) number: u64,
    pub(super) synced: u64,
    /// The line that is spoken of again next.
    cursor: Line,
    /// Where streams have got to, and how long they are.
    streams: [(u64, u64); STREAMS],
    next_stream: usize,
}

/// Pages that are written together.
#[derive(Debug)]
pub(super) struct Batch {
    /// By their byte offsets.
    pub(super) pages: Vec<(u64, Vec<u8>)>,
    /// Number of the last one.
    pub(super) last: u64,
    fresh: Vec<Line>,
    durable: u64,
    intents: Box<[u64; REGIONS / 64]>,
}

impl State {
    pub(super) fn new(
        mut lines: Lines,
        policy: Policy,
        intents: Intents,
        journal: Journal,
        number: u64,
        synced: u64,
    ) -> Self {
        let all = 0..lines.len();
        let dirty = all.clone().filter(|&line| lines.has(line, Mark::Dirty)).count();
        for line in all.rev() {
            if lines.place(line) == Place::Free && journal.layout.is_line(line) {
                lines.release(line);
            }
        }
        Self {
            lines,
            journal,
            going: None,
            policy,
            intents,
            classes: vec![ClassStats::default(); usize::from(ClassId::PREFETCH.get()) + 1],
            dirty: u32::try_from(dirty).unwrap_or(u32::MAX),
            limbo: VecDeque::new(),
            records: VecDeque::new(),
            fresh: VecDeque::new(),
            appended: 0,
            durable: 0,
            needed: 0,
            number,
            synced,
            cursor: 0,
            streams: [(u64::MAX, 0); STREAMS],
            next_stream: 0,
        }
    }

    pub(super) fn appended(&self) -> u64 {
        self.appended
    }

    /// So many records are durable.
    pub(super) fn is_durable(&self, records: u64) -> bool {
        self.durable >= records
    }

    /// Something that only a page as such says: the intents.
    pub(super) fn want_page(&mut self) -> u64 {
        self.appended += 1;
        self.appended
    }

    fn append(&mut self, record: Record, needed: bool) {
        self.appended += 1;
        self.records.push_back((self.appended, record));
        if needed {
            self.needed = self.appended;
        }
    }

    /// Enough records wait for more than one batch.
    pub(super) fn is_long(&self) -> bool {
        self.records.len() as u64 > self.journal.layout.batch() * PAGE_SETS as u64
    }

    /// Whether one line more may hold something. Others may have taken the room for which a line was evicted, and the lines
    /// that hold nothing are for those who overwrite.
    pub(super) fn has_room(&self) -> bool {
        self.lines.held() < self.lines.capacity()
    }

    /// Says that a line, which is not durable yet, holds what it holds.
    pub(super) fn record(&mut self, line: Line, sum: Option<u64>, needed: bool) {
        let Some(block) = self.lines.block(line) else { return };
        let (class, dirty) = (self.lines.class(line), self.lines.has(line, Mark::Dirty));
        self.append(Record::Set(Set { line, block, class, dirty, sum }), needed);
        if sum.is_some() {
            self.lines.mark(line, Mark::Fresh, true);
            self.fresh.push_back((line, self.appended));
        }
    }

    /// Says that a line holds nothing, although it may not have held anything.
    pub(super) fn record_free(&mut self, line: Line) {
        self.append(Record::Free(line), false);
    }

    /// Another line holds the block of this one, and a record says so.
    pub(super) fn superseded(&mut self, line: Line) {
        self.limbo.push_back((line, self.appended));
    }

    /// A clean line gives its block up, for good or to make room.
    pub(super) fn drop_line(&mut self, line: Line, evict: bool) {
        if evict {
            self.lines.evict(line);
        } else {
            self.lines.remove(line);
        }
        self.append(Record::Free(line), false);
        self.limbo.push_back((line, self.appended));
    }

    /// Lines whose last record is durable are free.
    pub(super) fn drain_limbo(&mut self) {
        while let Some(&(line, records)) = self.limbo.front() {
            if self.durable < records {
                break;
            }
            self.limbo.pop_front();
            self.release(line);
        }
    }

    /// A line in which anything may be written.
    pub(super) fn take_free(&mut self) -> Option<Line> {
        self.drain_limbo();
        loop {
            let line = self.lines.take_free()?;
            if !self.retire(line) {
                return Some(line);
            }
        }
    }

    /// A line that holds nothing may be taken.
    pub(super) fn release(&mut self, line: Line) {
        if !self.retire(line) {
            self.lines.release(line);
        }
    }

    /// Has nobody use a line again that has become free, if it is one of those that go.
    fn retire(&mut self, line: Line) -> bool {
        let goes = self.going.as_mut().is_some_and(|going| going.takes(line));
        if goes {
            self.lines.mark(line, Mark::Retired, true);
        }
        goes
    }

    /// A page for what the journal has to say: news as far as there is room, and what some other lines still hold. Lines
    /// whose content may not be durable are among these only in a `whole` journal, which counts when all of it is.
    pub(super) fn page(&mut self, journal: &Journal, whole: bool) -> (u64, Vec<u8>) {
        let (mut sets, mut frees) = (Vec::new(), Vec::new());
        while sets.len() < PAGE_SETS && frees.len() < PAGE_FREES {
            match self.records.pop_front() {
                Some((_, Record::Set(set))) => sets.push(set),
                Some((_, Record::Free(line))) => frees.push(line),
                None => break,
            }
        }
        let first = if self.cursor < self.lines.len() { self.cursor } else { 0 };
        let room = u32::try_from(refresh_room(sets.len(), frees.len())).unwrap_or(0);
        let end = first.saturating_add(room).min(self.lines.len());
        let refreshed: Vec<_> = (first..end).map(|line| self.refresh(line, whole)).collect();
        self.cursor = end;
        self.number += 1;
        let page = Page {
            uuid: &journal.uuid,
            number: self.number,
            generation: journal.generation,
            synced: self.synced,
            sets: &sets,
            frees: &frees,
            first,
            refreshed: &refreshed,
            intents: self.intents.bits(),
        };
        (journal.layout.page(self.number), page.encode())
    }

    /// Number of the last record that a page has.
    pub(super) fn written(&self) -> u64 {
        self.records.front().map_or(self.appended, |(number, _)| number - 1)
    }

    /// Pages for what the journal has to say, as many as may be written at a time, one at least.
    pub(super) fn batch(&mut self) -> Batch {
        let (journal, mut pages) = (self.journal, Vec::new());
        while pages.is_empty() || (!self.records.is_empty() && (pages.len() as u64) < journal.layout.batch())
        {
            pages.push(self.page(&journal, false));
        }
        self.batch_of(pages)
    }

    /// What these pages, of which the last was made just now, make durable.
    pub(super) fn batch_of(&mut self, pages: Vec<(u64, Vec<u8>)>) -> Batch {
        let durable = self.written();
        let fresh = self.fresh.partition_point(|(_, record)| *record <= durable);
        let fresh = self.fresh.drain(..fresh).map(|(line, _)| line).collect();
        Batch { pages, last: self.number, fresh, durable, intents: Box::new(*self.intents.bits()) }
    }

    fn refresh(&self, line: Line, whole: bool) -> Option<Refreshed> {
        let block = self.lines.block(line)?;
        // A fresh line's record may turn out to be worthless, and must not be backed by this.
        (whole || !self.lines.has(line, Mark::Fresh)).then(|| Refreshed {
            block,
            class: self.lines.class(line),
            dirty: self.lines.has(line, Mark::Dirty),
            hot: self.lines.place(line) == Place::Hot,
        })
    }

    /// A batch is durable. What was found by recovery is believed from now on only if `believed`.
    pub(super) fn committed(&mut self, batch: &Batch, believed: bool) {
        self.durable = batch.durable;
        for &line in &batch.fresh {
            self.lines.mark(line, Mark::Fresh, false);
        }
        self.intents.committed(&batch.intents);
        if believed {
            self.synced = batch.last;
        }
    }

    /// A request of `length` bytes at `offset` comes. Answers how long the run is that ends with it, in bytes.
    pub(super) fn run(&mut self, offset: u64, length: u64) -> u64 {
        let end = offset.saturating_add(length);
        if let Some(stream) = self.streams.iter_mut().find(|(at, _)| *at == offset) {
            *stream = (end, stream.1.saturating_add(length));
            return stream.1;
        }
        self.streams[self.next_stream] = (end, length);
        self.next_stream = (self.next_stream + 1) % STREAMS;
        length
    }

    pub(super) fn class_stats(&mut self, class: ClassId) -> &mut ClassStats {
        &mut self.classes[usize::from(class.get())]
    }
}
