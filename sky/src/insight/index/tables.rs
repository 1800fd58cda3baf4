//! The tables of the index, and what happens in them.

use std::ops::Range;
use std::time::Instant;

use sky_devices::io_class::{IoClass, IoTag, Source, Unique};
use sky_devices::policy::{Facts, Policy};

use super::counts::BlockCounts;
use super::files::Files;
use super::lifetimes::{Death, Lifetimes};
use super::origins::{OriginId, Origins};
use super::pending::{Pending, low};
use super::recent::{Recent, Unnamed};
use super::stored::{Age, Disks, Stored};
use super::{Address, CLASSES, FileId, Fingerprint, Origin, Place, Prior};

/// Blocks read from disks that can be named later: what a guest reads ahead, and then some.
const MAX_READ: usize = 1 << 16;
/// Blocks that processes have read, and might write somewhere else.
const MAX_SEEN: usize = 1 << 16;
/// Moments that are told apart in a second.
const MOMENTS: u128 = 16;

#[derive(Debug)]
pub(super) struct Tables {
    started: Instant,
    pub(super) files: Files,
    pub(super) origins: Origins,
    /// Places whose content has not reached the disk.
    pub(super) pending: Pending,
    /// What blocks of disks hold.
    pub(super) disks: Disks,
    pub(super) lifetimes: Lifetimes,
    /// What was read from disks and is nobody's so far.
    pub(super) unnamed: Unnamed,
    /// Where in files processes, by their ids, have read what.
    pub(super) seen: Recent<(u32, Fingerprint), Source>,
    pub(super) counts: BlockCounts,
    /// Written blocks by the number of their class.
    pub(super) classes: [u64; CLASSES],
}

impl Tables {
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            files: Files::default(),
            origins: Origins::new(),
            pending: Pending::new(),
            disks: Disks::new(),
            lifetimes: Lifetimes::new(),
            unnamed: Unnamed::new(MAX_READ),
            seen: Recent::new(MAX_SEEN),
            counts: BlockCounts::default(),
            classes: [0; CLASSES],
        }
    }

    pub(super) fn now(&self) -> Age {
        let moments = self.started.elapsed().as_millis() * MOMENTS / 1000;
        Age(u32::try_from(moments).unwrap_or(u32::MAX))
    }

    /// From now on `content` is what the place's block on the disk will be. Returns what was expected before.
    pub(super) fn expect(&mut self, place: Place, content: Fingerprint, origin: &Origin) -> Option<Prior> {
        let id = self.origins.take(origin, place);
        let Some((before, old)) = self.pending.get(place) else {
            self.pending.insert(place, content, id);
            return None;
        };
        let prior = Prior(before, self.origins.get(old, place));
        self.origins.release(old);
        if before == content {
            self.pending.set_origin(place, id);
        } else {
            self.pending.remove(place);
            self.pending.insert(place, content, id);
        }
        Some(prior)
    }

    /// Nothing is expected of a place any more. Returns the fingerprint that was.
    pub(super) fn take(&mut self, place: Place) -> Option<Fingerprint> {
        let (content, origin) = self.pending.remove(place)?;
        self.origins.release(origin);
        Some(content)
    }

    /// What a process has read before that it writes now, elsewhere.
    pub(super) fn copied_from(&self, place: Place, content: Fingerprint, origin: &Origin) -> Option<Source> {
        let writer = origin.writer.as_ref().filter(|_| origin.copied_from.is_none())?;
        let source = self.seen.get(&(writer.pid, content))?;
        let elsewhere = source.offset != place.offset()
            || self.files.get(place.file()).is_none_or(|(path, _)| *path != source.path);
        elsewhere.then(|| source.clone())
    }

    /// If a disk gave this content and nobody knows whose it is, it is this place's; unless it is known where the place has
    /// it: then somebody else has the same.
    pub(super) fn name(&mut self, place: Place, content: Fingerprint, origin: &Origin, limit: usize) {
        if let Some((address, stored)) = self.disks.find(place)
            && stored.content == low(content)
        {
            // It may have been named by its page, without anybody who reads it.
            if stored.born.is_none() && self.origins.writer(stored.origin).is_none() {
                let id = self.origins.take(origin, place);
                self.disks.update(address, |stored| stored.origin = id);
                self.origins.release(stored.origin);
            }
            return;
        }
        if let Some(address) = self.unnamed.take(content) {
            let origin = self.origins.take(origin, place);
            self.read_from(address, content, place, origin, limit);
        }
    }

    /// A block that was read from a disk is a file's.
    pub(super) fn read_from(
        &mut self,
        address: Address,
        content: Fingerprint,
        place: Place,
        origin: OriginId,
        limit: usize,
    ) {
        let stored = Stored { content: low(content), place, origin, unique: Unique::default(), born: None };
        self.store(address, &stored, limit);
        self.counts.named += 1;
        if let Some(summary) = self.files.summary(place.file()) {
            summary.named += 1;
        }
    }

    /// What a block of a disk holds is known. The block has its origin already.
    pub(super) fn store(&mut self, address: Address, stored: &Stored, limit: usize) {
        self.remove_stored(address, Death::Overwritten);
        // A file system that never writes in place has it elsewhere so far.
        if stored.place != Place::NOWHERE
            && let Some((before, _)) = self.disks.find(stored.place)
        {
            self.remove_stored(before, Death::Overwritten);
        }
        while self.disks.len() >= limit
            && let Some(oldest) = self.disks.oldest()
            && let Some(old) = self.disks.remove(oldest)
        {
            self.origins.release(old.origin);
            self.counts.forgotten_known += 1;
        }
        self.disks.insert(address, stored);
    }

    /// A block of a disk holds something else now, or nothing.
    pub(super) fn remove_stored(&mut self, address: Address, death: Death) {
        if let Some(old) = self.disks.remove(address) {
            self.origins.release(old.origin);
            if let Some((born, class)) = old.born {
                self.lifetimes.ended(class, self.now().since(born), death);
            }
        }
        self.unnamed.remove(address);
    }

    /// These bytes of a file are no more, neither on their way to the disk nor there.
    pub(super) fn gone(&mut self, file: FileId, range: Range<u64>, death: Death) {
        if range.is_empty() {
            return;
        }
        for place in self.pending.within(file, &range) {
            self.take(place);
        }
        for address in self.disks.within(file, &range) {
            self.remove_stored(address, death);
        }
    }

    /// Forgets what was written longest ago, until no more is pending than there may be.
    pub(super) fn shrink(&mut self, limit: usize) {
        while self.pending.len() > limit
            && let Some(oldest) = self.pending.oldest()
        {
            self.take(oldest);
            self.counts.forgotten += 1;
        }
    }

    pub(super) fn source(&self, place: Place) -> Option<Source> {
        let (path, file_size) = self.files.get(place.file())?;
        Some(Source { path: path.clone(), file_size, offset: place.offset() })
    }

    /// What is known of a block of a file, now that it is at `facts.lba`.
    pub(super) fn tag(
        &self,
        policy: &Policy,
        place: Place,
        origin: Origin,
        unique: Unique,
        facts: Facts<'_>,
    ) -> IoTag {
        let source = self.source(place);
        let writer = origin.writer.as_deref();
        let facts = Facts {
            class: IoClass::Data,
            direct: Some(origin.direct),
            file_size: source.as_ref().map(|source| source.file_size),
            file_offset: source.as_ref().map(|source| source.offset),
            path: source.as_ref().map(|source| &*source.path),
            process_name: writer.map(|writer| writer.name.as_str()),
            pid: writer.map(|writer| writer.pid),
            hint: origin.hint,
            ..facts
        };
        let class_id = policy.classify(&facts);
        IoTag { class: IoClass::Data, source, class_id, copied_from: origin.copied_from, unique }
    }

    /// A block with this content arrives at a disk. Says whose it is: `cached` is the place whose page it is in, if that is
    /// known and of a file that is followed.
    pub(super) fn arrives(
        &mut self,
        address: Address,
        content: Fingerprint,
        cached: Option<Place>,
        limit: usize,
    ) -> Option<(Place, OriginId)> {
        let (place, origin) = match cached.and_then(|place| self.of_page(place, address, content)) {
            Some(Known::Here(place, origin)) => return Some((place, origin)),
            Some(Known::New(place, origin)) => (place, origin),
            None => match self
                .pending
                .first(content)
                .and_then(|place| Some((place, self.pending.remove(place)?.1)))
            {
                Some(pending) => pending,
                // The page may be written again, as it was.
                None => match self.disks.get(address) {
                    Some(known) if known.place != Place::NOWHERE && known.content == low(content) => {
                        return Some((known.place, known.origin));
                    }
                    _ => {
                        self.remove_stored(address, Death::Overwritten);
                        return None;
                    }
                },
            },
        };
        let stored = Stored { content: low(content), place, origin, unique: Unique::default(), born: None };
        self.store(address, &stored, limit);
        Some((place, origin))
    }

    /// Whether a block that is in the page of a place is what is known of that place, or what it may well be.
    fn of_page(&mut self, place: Place, address: Address, content: Fingerprint) -> Option<Known> {
        if let Some((expected, origin)) = self.pending.get(place) {
            if expected == content {
                self.pending.remove(place);
            } else {
                // A process is about to write something else there, or has done so in memory.
                self.files.arrives(place);
                self.origins.share(origin);
                self.counts.by_page += 1;
            }
            return Some(Known::New(place, origin));
        }
        if let Some((at, stored)) = self.disks.find(place)
            && stored.content == low(content)
        {
            if at != address {
                // From a journal to its place, say. It lives on.
                self.disks.remove(at);
                self.remove_stored(address, Death::Overwritten);
                self.disks.insert(address, &stored);
            }
            return Some(Known::Here(place, stored.origin));
        }
        let sharer = self.files.arrives(place)?;
        self.counts.by_page += 1;
        Some(Known::New(place, self.origins.take(&sharer, place)))
    }
}

/// What a block is that a page holds.
enum Known {
    /// What it was; and where it is, is known already.
    Here(Place, OriginId),
    /// It has come to the disk now.
    New(Place, OriginId),
}
