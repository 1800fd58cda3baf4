//! Who wrote blocks, and how: kept once for all blocks that have it in common.

use std::collections::HashMap;
use std::sync::Arc;

use sky_devices::io_class::Source;

use super::Place;
use crate::insight::{Origin, Writer};

/// More than a guest has processes that write. A guest may make up as many hints as it likes.
const MAX_ORIGINS: usize = 1 << 16;

/// By its number; 0 is that of which nothing is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct OriginId(u32);

/// An origin without its block: a whole copied file has one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Common {
    writer: Option<Arc<Writer>>,
    hint: Option<u32>,
    direct: bool,
    copied: Option<Copied>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Copied {
    path: Arc<str>,
    file_size: u64,
    /// What is added to a byte offset of the copy for that of the original; modulo 2^64.
    distance: u64,
}

impl Common {
    fn new(origin: &Origin, place: Place) -> Self {
        let copied = origin.copied_from.as_ref().map(|source| Copied {
            path: Arc::clone(&source.path),
            file_size: source.file_size,
            distance: source.offset.wrapping_sub(place.offset()),
        });
        Self { writer: origin.writer.clone(), hint: origin.hint, direct: origin.direct, copied }
    }
}

#[derive(Debug)]
struct Entry {
    common: Common,
    /// Blocks that have it.
    blocks: u32,
}

/// All origins that blocks have.
#[derive(Debug)]
pub(super) struct Origins {
    entries: Vec<Entry>,
    numbers: HashMap<Common, OriginId>,
    free: Vec<OriginId>,
    /// Blocks that got the origin of which nothing is known, for want of room.
    dropped: u64,
}

impl Origins {
    pub(super) fn new() -> Self {
        let unknown = Entry { common: Common::default(), blocks: 0 };
        Self { entries: vec![unknown], numbers: HashMap::new(), free: Vec::new(), dropped: 0 }
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// One more block has this origin.
    pub(super) fn take(&mut self, origin: &Origin, place: Place) -> OriginId {
        let common = Common::new(origin, place);
        if common == Common::default() {
            return OriginId::default();
        }
        if let Some(&id) = self.numbers.get(&common) {
            self.share(id);
            return id;
        }
        let entry = Entry { common: common.clone(), blocks: 1 };
        let id = match self.free.pop() {
            Some(id) => {
                self.entries[id.0 as usize] = entry;
                id
            }
            None if self.entries.len() < MAX_ORIGINS => {
                self.entries.push(entry);
                OriginId(u32::try_from(self.entries.len() - 1).unwrap_or_default())
            }
            None => {
                self.dropped += 1;
                return OriginId::default();
            }
        };
        self.numbers.insert(common, id);
        id
    }

    /// One more block has the same origin.
    pub(super) fn share(&mut self, id: OriginId) {
        if id != OriginId::default() {
            self.entries[id.0 as usize].blocks += 1;
        }
    }

    /// A block with this origin is no more.
    pub(super) fn release(&mut self, id: OriginId) {
        if id == OriginId::default() {
            return;
        }
        let entry = &mut self.entries[id.0 as usize];
        entry.blocks -= 1;
        if entry.blocks == 0 {
            self.numbers.remove(&std::mem::take(&mut entry.common));
            self.free.push(id);
        }
    }

    /// The origin of the block at `place`.
    pub(super) fn get(&self, id: OriginId, place: Place) -> Origin {
        let Common { writer, hint, direct, copied } = &self.entries[id.0 as usize].common;
        let copied_from = copied.as_ref().map(|copied| Source {
            path: Arc::clone(&copied.path),
            file_size: copied.file_size,
            offset: place.offset().wrapping_add(copied.distance),
        });
        Origin { writer: writer.clone(), hint: *hint, direct: *direct, copied_from }
    }

    /// Who wrote a block; the quick way.
    pub(super) fn writer(&self, id: OriginId) -> Option<&Arc<Writer>> {
        self.entries[id.0 as usize].common.writer.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::insight::index::FileId;

    fn origin(kind: u8, offset: u64) -> Origin {
        Origin {
            writer: (kind & 1 != 0).then(|| Arc::new(Writer { pid: kind.into(), name: "x".into() })),
            hint: (kind & 2 != 0).then_some(7),
            direct: kind & 4 != 0,
            copied_from: (kind & 8 != 0).then(|| Source { path: "/a".into(), file_size: 5, offset }),
        }
    }

    proptest! {
        /// Every block has its own, and nothing is left when the last is gone.
        #[test]
        fn each_block_has_what_it_was_given(blocks in proptest::collection::vec((0..16u8, 0..9u64, any::<u64>()), 1..60)) {
            let mut origins = Origins::new();
            let taken: Vec<_> = blocks
                .iter()
                .map(|&(kind, block, source)| {
                    let place = Place::new(FileId(0), block * 4096).unwrap();
                    let origin = origin(kind, source);
                    let id = origins.take(&origin, place);
                    origins.share(id);
                    (place, origin, id)
                })
                .collect();
            for (place, origin, id) in &taken {
                prop_assert_eq!(&origins.get(*id, *place), origin);
                prop_assert_eq!(origins.writer(*id), origin.writer.as_ref());
            }
            for _ in 0..2 {
                taken.iter().for_each(|(.., id)| origins.release(*id));
            }
            prop_assert!(origins.numbers.is_empty());
            prop_assert_eq!(origins.free.len() + 1, origins.entries.len());
            prop_assert!(origins.entries.len() <= 1 + blocks.len());
        }
    }

    /// A copy of any length is one entry, and a guest cannot have more than there is room for.
    #[test]
    fn origins_are_few() {
        let mut origins = Origins::new();
        for block in 0..1000 {
            let place = Place::new(FileId(1), block * 4096).unwrap();
            origins.take(&origin(8, block * 4096 + 12345), place);
        }
        assert_eq!(origins.entries.len(), 2);
        for hint in 0..70_000 {
            origins.take(&Origin { hint: Some(hint), ..Origin::default() }, Place::NOWHERE);
        }
        assert_eq!(origins.entries.len(), MAX_ORIGINS);
        assert_eq!(origins.dropped(), 70_000 - (MAX_ORIGINS as u64 - 2));
    }
}
