//! Opening: what the journal says each line holds, and after a crash what of that is right.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

use super::create::{read_superblock, write_superblock};
use super::format::{self, Decoded, Flags, LINE, LINE_U64, Layout, REGIONS, Seal, Set, Superblock};
use super::intents::Intents;
use super::lines::{Line, Lines, Mark, Place};
use super::ranges::Ranges;
use super::state::{Journal, State};
use super::{DiskState, Flushes, ICache, Mode, OpenOptions, lock};
use crate::block::{BlockDevice, Error, ErrorKind, Operation, Result, Storage};
use crate::policy::Policy;

/// What a journal says.
struct Loaded {
    lines: Lines,
    intents: Box<[u64; REGIONS / 64]>,
    /// The last page, and the last one that was surely durable.
    number: u64,
    synced: u64,
    /// Lines, and blocks, of records that had no content to go with them, where nothing later says what is there.
    wrong_lines: BTreeSet<Line>,
    wrong_blocks: BTreeSet<u32>,
}

/// Of a page, what says whether it counts.
#[derive(Clone, Copy)]
struct Found {
    number: u64,
    generation: u64,
    synced: u64,
}

fn damaged(why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, Operation::Open).because(why)
}

impl Loaded {
    fn empty(layout: Layout, policy: &Policy) -> Self {
        Self {
            lines: Lines::new(layout.places, layout.capacity(), policy),
            intents: Box::new([0; REGIONS / 64]),
            number: 0,
            synced: 0,
            wrong_lines: BTreeSet::new(),
            wrong_blocks: BTreeSet::new(),
        }
    }

    fn read(fast: &dyn Storage, superblock: &Superblock, policy: &Policy) -> Result<Self> {
        let layout = superblock.layout;
        let pages = find_pages(fast, superblock)?;
        let page = |number: u64| {
            let found = usize::try_from(number % layout.pages()).ok().and_then(|place| pages[place]);
            found.filter(|page| page.number == number)
        };
        if pages.iter().flatten().any(|page| page.generation > superblock.generation) {
            return Err(damaged("the journal is newer than the superblock"));
        }
        let mut loaded = Self::empty(layout, policy);
        loaded.synced = superblock.last_page;
        if superblock.flags.in_use {
            let synced = pages.iter().flatten().map(|page| page.synced);
            loaded.synced = synced.fold(loaded.synced, u64::max);
        }
        loaded.number = loaded.synced;
        while superblock.flags.in_use
            && let Some(next) = page(loaded.number + 1)
            && page(loaded.number).is_none_or(|last| last.generation <= next.generation)
        {
            loaded.number += 1;
            if loaded.number - loaded.synced > 4 * layout.batch() + 4 {
                return Err(damaged("the journal goes on for too long"));
            }
        }
        let first = (loaded.synced + 1).saturating_sub(layout.window()).max(1);
        for number in first..=loaded.number {
            if page(number).is_none() {
                return Err(damaged("a page of the journal is damaged"));
            }
            let mut bytes = vec![0; LINE];
            fast.read(layout.page(number), &mut bytes)?;
            let page =
                Decoded::decode(&bytes, &superblock.uuid).ok_or_else(|| damaged("the journal changes"))?;
            loaded.replay(fast, layout, &page, policy)?;
        }
        Ok(loaded)
    }

    fn replay(&mut self, fast: &dyn Storage, layout: Layout, page: &Decoded, policy: &Policy) -> Result<()> {
        for set in &page.sets {
            if !layout.is_line(set.line) || set.block >= layout.blocks() {
                return Err(damaged("the journal speaks of what is not there"));
            }
            if page.number > self.synced && !is_there(fast, set)? {
                self.wrong_lines.insert(set.line);
                self.wrong_blocks.insert(set.block);
                continue;
            }
            self.wrong_lines.remove(&set.line);
            self.wrong_blocks.remove(&set.block);
            self.put(set, Place::Cold, policy);
        }
        for &line in page.frees.iter().filter(|&&line| layout.is_line(line)) {
            self.wrong_lines.remove(&line);
            self.lines.remove(line);
        }
        for (line, refreshed) in (u64::from(page.first)..).zip(&page.refreshed) {
            let (Some(refreshed), Ok(line)) = (refreshed, u32::try_from(line)) else { continue };
            if !layout.is_line(line) || refreshed.block >= layout.blocks() {
                return Err(damaged("the journal speaks of what is not there"));
            }
            let (class, dirty) = (refreshed.class, refreshed.dirty);
            let set = Set { line, block: refreshed.block, class, dirty, sum: None };
            self.put(&set, if refreshed.hot { Place::Hot } else { Place::Cold }, policy);
        }
        self.intents.clone_from(&page.intents);
        Ok(())
    }

    /// A line holds a block, and no other line does.
    fn put(&mut self, set: &Set, place: Place, policy: &Policy) {
        if let Some(other) = self.lines.find(set.block) {
            self.lines.remove(other);
        }
        self.lines.remove(set.line);
        self.lines.restore(set.line, set.block, policy.class(set.class).id(), place);
        self.lines.mark(set.line, Mark::Dirty, set.dirty);
    }
}

/// The pages of the journal, by their places.
fn find_pages(fast: &dyn Storage, superblock: &Superblock) -> Result<Vec<Option<Found>>> {
    let layout = superblock.layout;
    let mut pages = Vec::new();
    let mut bytes = vec![0; 64 * LINE];
    let mut place = 0;
    while place < layout.pages() {
        let count = (layout.pages() - place).min(64);
        let bytes = &mut bytes[..usize::try_from(count).unwrap_or(0) * LINE];
        fast.read(layout.page(place), bytes)?;
        for (place, bytes) in (place..).zip(bytes.chunks(LINE)) {
            let page = Decoded::decode(bytes, &superblock.uuid);
            let sound = page.filter(|page| {
                page.number % layout.pages() == place && page.synced < page.number && page.number < 1 << 62
            });
            pages.push(sound.map(|page| Found {
                number: page.number,
                generation: page.generation,
                synced: page.synced,
            }));
        }
        place += count;
    }
    Ok(pages)
}

/// Whether the content of a line is there with its record.
fn is_there(fast: &dyn Storage, set: &Set) -> Result<bool> {
    let Some(sum) = set.sum else { return Ok(true) };
    let mut content = [0; LINE];
    fast.read(format::offset_of(set.line), &mut content)?;
    Ok(format::sum(&content) == sum)
}

/// Whether somebody has changed the disk since its cache was used.
fn was_changed(superblock: &Superblock, disk: Option<DiskState>) -> Result<bool> {
    let (Some(seal), Some(disk)) = (superblock.seal, disk) else { return Ok(false) };
    if seal.id != disk.id {
        return Err(
            Error::new(ErrorKind::Invalid, Operation::Open).because("the cache is that of another disk")
        );
    }
    Ok(seal.content != 0 && disk.before != 0 && seal.content != disk.before)
}

impl ICache {
    /// Opens a cache before the disk that it was made for. One that was not closed is recovered.
    ///
    /// # Errors
    /// [`ErrorKind::NotThisFormat`], [`ErrorKind::TooNew`]; [`ErrorKind::Corrupt`] if the journal is damaged and lines
    /// may have been dirty (otherwise the cache is empty then), likewise if the disk was changed without its cache;
    /// [`ErrorKind::Invalid`] for another disk; or a tier failed.
    pub fn open(fast: Arc<dyn Storage>, slow: Arc<dyn BlockDevice>, options: OpenOptions) -> Result<Self> {
        let refuse = |kind, why: &str| Err(Error::new(kind, Operation::Open).because(why));
        let (properties, geometry) = (fast.properties(), slow.geometry());
        if properties.read_only {
            return refuse(ErrorKind::ReadOnly, "a cache is written whenever it is used");
        }
        if !LINE_U64.is_multiple_of(u64::from(properties.alignment.max(1))) {
            return refuse(ErrorKind::Unsupported, "the fast tier wants larger requests than a line");
        }
        let mut superblock = read_superblock(&*fast)?;
        let layout = superblock.layout;
        if layout.slow != geometry.size {
            return refuse(ErrorKind::Invalid, "the cache was made for a disk of another size");
        }
        let changed = was_changed(&superblock, options.disk)?;
        let crashed = superblock.flags.in_use;
        if crashed {
            // What recovery sees has to stay, whatever happens next.
            fast.sync()?;
            if !geometry.read_only {
                slow.flush()?;
            }
        }
        let read = match changed {
            true => Err(damaged("the disk was changed without its cache")),
            false => Loaded::read(&*fast, &superblock, &options.policy),
        };
        let loaded = match read {
            Ok(loaded) => loaded,
            Err(error) if error.kind() != ErrorKind::Corrupt => return Err(error),
            Err(error) if superblock.flags.dirty && !options.abandon_dirty => {
                let why =
                    if changed { "the disk was changed without its cache" } else { "the journal is damaged" };
                return Err(error.because(format!("{why}, and writes that only the cache has may be lost")));
            }
            Err(error) => {
                tracing::warn!(%error, "a cache begins empty");
                // Whatever the old pages say, they are those of another cache.
                getrandom::fill(&mut superblock.uuid)
                    .map_err(|error| Error::new(ErrorKind::Io, Operation::Open).because(error.to_string()))?;
                superblock.last_page = 0;
                Loaded::empty(layout, &options.policy)
            }
        };
        let any_dirty = (0..layout.places).any(|line| loaded.lines.has(line, Mark::Dirty));
        superblock.flags = Flags { in_use: true, dirty: any_dirty || options.mode == Mode::Back };
        superblock.seal = options.disk.map(|disk| Seal { id: disk.id, content: disk.now });
        write_superblock(&*fast, &mut superblock)?;
        let intents = Intents::new(layout, loaded.intents);
        let journal = Journal { layout, uuid: superblock.uuid, generation: superblock.generation };
        let state =
            State::new(loaded.lines, options.policy.clone(), intents, journal, loaded.number, loaded.synced);
        let cache = Self {
            fast,
            slow,
            options,
            geometry,
            blocks: layout.blocks(),
            superblock: Mutex::new(superblock),
            state: Mutex::new(state),
            ranges: Ranges::default(),
            resizing: Mutex::default(),
            committing: Mutex::default(),
            leaving: Mutex::default(),
            flushing: Mutex::new(Flushes::new()),
            slow_written: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            slow_failed: AtomicBool::new(false),
            written_back: AtomicU64::new(0),
            fast_errors: AtomicU64::new(0),
            lost_reads: AtomicU64::new(0),
            requests: AtomicU64::new(0),
        };
        cache.correct(&loaded.wrong_lines, &loaded.wrong_blocks)?;
        if crashed {
            cache.drop_intended()?;
        }
        if !cache.geometry.read_only {
            // Whatever the journal says, those who overwrite need lines that hold nothing.
            cache.evict_excess()?;
        }
        Ok(cache)
    }

    /// Says durably what is there in place of what records without content speak of, before these are believed.
    fn correct(&self, lines: &BTreeSet<Line>, blocks: &BTreeSet<u32>) -> Result<()> {
        let records = {
            let mut state = lock(&self.state);
            for &line in lines {
                match state.lines.block(line) {
                    Some(_) => state.record(line, None, false),
                    None => state.record_free(line),
                }
            }
            for &block in blocks {
                if let Some(line) = state.lines.find(block) {
                    state.record(line, None, false);
                }
            }
            state.appended()
        };
        self.commit_to(records, false)?;
        let mut state = lock(&self.state);
        state.synced = state.number;
        Ok(())
    }

    /// Drops clean lines of regions that were being written: they may be newer or older than the slow tier.
    fn drop_intended(&self) -> Result<()> {
        let (mut line, lines) = (0, lock(&self.state).lines.len());
        while line < lines {
            let mut state = lock(&self.state);
            while line < lines && !state.is_long() {
                let block = state.lines.block(line).map(|block| u64::from(block) * LINE_U64);
                let gone = block.is_some_and(|offset| state.intents.has(offset));
                if gone && !state.lines.has(line, Mark::Dirty) {
                    state.drop_line(line, false);
                }
                line += 1;
            }
            drop(state);
            self.commit()?;
        }
        Ok(())
    }
}
