//! The index from the disks' side: what is written there, read, and given back.

use std::sync::Arc;

use sky_devices::io_class::{BLOCK_SIZE, Classifier, IoClass, IoTag, Unique};
use sky_devices::policy::{Direction, Facts, Policy};
use vm_memory::GuestAddress;
use xxhash_rust::xxh3::xxh3_128;

use super::lifetimes::Death;
use super::origins::OriginId;
use super::pending::low;
use super::stored::Stored;
use super::tables::Tables;
use super::{Address, Assume, BlockIndex, CachedBlock, Origin, Place, is_zero};

/// The index as one disk of the machine asks it.
#[derive(Clone, Debug)]
pub struct DiskBlocks {
    pub(super) index: Arc<BlockIndex>,
    pub(super) disk: u16,
}

impl DiskBlocks {
    fn facts(&self, offset: u64, direction: Direction) -> Facts<'static> {
        Facts {
            lba: Some(offset / 512),
            direction: Some(direction),
            disk: Some(self.disk),
            ..Facts::default()
        }
    }

    /// The block of a file that a page is being filled with. One that nobody has locked may as well be a buffer.
    fn to_be_cached(&self, page: Option<GuestAddress>) -> Option<CachedBlock> {
        self.index.cached(page).filter(|cached| cached.locked)
    }
}

impl BlockIndex {
    /// Tells the disk, the byte offset and what is known of each block that is known to hold data, in order.
    pub fn known_blocks(self: &Arc<Self>, each: &mut dyn FnMut(u16, u64, &IoTag)) {
        let mut addresses: Vec<Address> = self.lock().disks.addresses().collect();
        addresses.sort_unstable();
        for address in addresses {
            let tag = self.disk(address.disk()).classify_read(address.offset(), None);
            if tag.class == IoClass::Data {
                each(address.disk(), address.offset(), &tag);
            }
        }
    }
}

impl DiskBlocks {
    /// Whose a block is that arrives, and what it looks like. A piece of a block is nobody's.
    fn recognise(&self, address: Address, block: &[u8], page: Option<GuestAddress>) -> Option<Recognised> {
        if block.len() != BLOCK_SIZE {
            self.index.lock().remove_stored(address, Death::Overwritten);
            return None;
        }
        let content = xxh3_128(block);
        let cached = self.index.cached(page);
        let (place, origin, path) = {
            let mut tables = self.index.lock();
            let cached = cached.and_then(|block| tables.files.place(block.file, block.offset));
            let (place, origin) = tables.arrives(address, content, cached, self.index.limit)?;
            let path = tables.files.get(place.file()).map(|(path, _)| Arc::clone(path));
            (place, tables.origins.get(origin, place), path)
        };
        // Looking at each byte takes a while, and others wait for the tables.
        let writer = origin.writer.as_ref().map(|writer| writer.name.as_str());
        let unique = self.index.unique.signals(writer, path.as_deref(), block);
        Some(Recognised { place, origin, unique, content: low(content) })
    }
}

/// A block that has arrived at a disk.
struct Recognised {
    place: Place,
    origin: Origin,
    unique: Unique,
    /// The lower half of its fingerprint.
    content: u64,
}

impl Tables {
    /// Counts a block that was recognised, and gives it its class.
    fn arrived(&mut self, policy: &Policy, address: Address, block: Recognised, facts: Facts<'_>) -> IoTag {
        let Recognised { place, origin, unique, content } = block;
        let copied = u64::from(origin.copied_from.is_some());
        self.counts.unique.add(unique);
        self.counts.data += 1;
        self.counts.copied += copied;
        if let Some(summary) = self.files.summary(place.file()) {
            summary.matched += 1;
            summary.copied += copied;
            summary.encrypted += u64::from(unique.program || unique.extension);
            summary.hinted += u64::from(origin.hint.is_some());
        }
        let tag = self.tag(policy, place, origin, unique, facts);
        let now = self.now();
        self.disks.update(address, |stored| {
            // Unless the block has been written again meanwhile.
            if stored.place == place && stored.content == content {
                stored.unique = unique;
                stored.born.get_or_insert((now, tag.class_id));
            }
        });
        tag
    }
}

impl Classifier for DiskBlocks {
    fn classify_write(&self, offset: u64, block: &[u8], page: Option<GuestAddress>) -> IoTag {
        let facts = self.facts(offset, Direction::Write);
        let BlockIndex { limit, policy, assume, .. } = &*self.index;
        let address = Address::new(self.disk, offset);
        let recognised = address.and_then(|address| Some((address, self.recognise(address, block, page)?)));
        let mut tables = self.index.lock();
        let tag = match recognised {
            Some((address, block)) => tables.arrived(policy, address, block, facts),
            None if *assume == Assume::Complete => {
                tables.counts.metadata += 1;
                if let Some(address) = address {
                    let (content, place, origin) = (0, Place::NOWHERE, OriginId::default());
                    let nobodys = Stored { content, place, origin, unique: Unique::default(), born: None };
                    tables.store(address, &nobodys, *limit);
                }
                metadata(policy, facts)
            }
            None => {
                tables.counts.unknown += 1;
                IoTag { class_id: policy.classify(&facts), ..IoTag::default() }
            }
        };
        if let Some(count) = tables.classes.get_mut(usize::from(tag.class_id.get())) {
            *count += 1;
        }
        tag
    }

    fn classify_read(&self, offset: u64, page: Option<GuestAddress>) -> IoTag {
        let facts = self.facts(offset, Direction::Read);
        let policy = &self.index.policy;
        let cached = self.to_be_cached(page);
        let tables = self.index.lock();
        let stored = Address::new(self.disk, offset).and_then(|address| tables.disks.get(address));
        let cached = cached.and_then(|block| tables.files.place(block.file, block.offset));
        match (stored, cached) {
            // What is read for a file is the file's, whatever was known of the address.
            (Some(stored), cached)
                if stored.place != Place::NOWHERE && cached.is_none_or(|place| place == stored.place) =>
            {
                let origin = tables.origins.get(stored.origin, stored.place);
                tables.tag(policy, stored.place, origin, stored.unique, facts)
            }
            (_, Some(place)) => tables.tag(policy, place, Origin::default(), Unique::default(), facts),
            (Some(_), None) => metadata(policy, facts),
            (None, None) => IoTag { class_id: policy.classify(&facts), ..IoTag::default() },
        }
    }

    fn was_read(&self, offset: u64, block: &[u8], page: Option<GuestAddress>) {
        let Some(address) = Address::new(self.disk, offset) else { return };
        let content = xxh3_128(block);
        let cached = self.to_be_cached(page);
        let mut tables = self.index.lock();
        let stored = tables.disks.get(address);
        match cached.and_then(|block| tables.files.place(block.file, block.offset)) {
            Some(place) => {
                let is_known =
                    stored.is_some_and(|stored| stored.place == place && stored.content == low(content));
                if !is_known {
                    tables.read_from(address, content, place, OriginId::default(), self.index.limit);
                }
            }
            None if stored.is_none() && !is_zero(block) => tables.unnamed.add(address, content),
            None => {}
        }
    }

    fn discarded(&self, offset: u64, length: u64) {
        let mut tables = self.index.lock();
        let end = offset.saturating_add(length);
        // The shorter way round: a discard may cover the whole disk.
        let known = tables.disks.len() + tables.unnamed.len();
        let addresses: Vec<Address> = if length / BLOCK_SIZE as u64 > known as u64 {
            let all = tables.disks.addresses().chain(tables.unnamed.addresses().copied());
            let first = offset - offset % BLOCK_SIZE as u64;
            all.filter(|at| at.disk() == self.disk && at.offset() >= first && at.offset() < end).collect()
        } else {
            let first = offset - offset % BLOCK_SIZE as u64;
            (first..end).step_by(BLOCK_SIZE).filter_map(|at| Address::new(self.disk, at)).collect()
        };
        addresses.into_iter().for_each(|address| tables.remove_stored(address, Death::Discarded));
    }
}

fn metadata(policy: &Policy, facts: Facts<'_>) -> IoTag {
    let facts = Facts { class: IoClass::Metadata, ..facts };
    IoTag { class: IoClass::Metadata, class_id: policy.classify(&facts), ..IoTag::default() }
}
