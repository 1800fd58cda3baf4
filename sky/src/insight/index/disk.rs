//! The index from the disks' side: what is written there, read, and given back.

use std::sync::Arc;
use std::time::Instant;

use sky_devices::io_class::{BLOCK_SIZE, Classifier, IoClass, IoTag};
use sky_devices::policy::{Direction, Facts, Policy};
use xxhash_rust::xxh3::xxh3_128;

use super::lifetimes::Death;
use super::{Address, Assume, BlockIndex, is_zero};

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
}

impl BlockIndex {
    /// Tells the disk, the byte offset and what is known of each block that is known to hold data, in order.
    pub fn known_blocks(self: &Arc<Self>, each: &mut dyn FnMut(u16, u64, &IoTag)) {
        let mut addresses: Vec<Address> = self.lock().on_disk.keys().copied().collect();
        addresses.sort_unstable();
        for (disk, offset) in addresses {
            each(disk, offset, &self.disk(disk).classify_read(offset));
        }
    }
}

impl Classifier for DiskBlocks {
    fn classify_write(&self, offset: u64, block: &[u8]) -> IoTag {
        let facts = self.facts(offset, Direction::Write);
        let BlockIndex { limit, policy, .. } = &*self.index;
        let mut inner = self.index.lock();
        let address = (self.disk, offset);
        let tag = match inner.written(self.disk, offset, block, *limit) {
            Some(mut written) => {
                let writer = written.origin.writer.as_ref().map(|writer| writer.name.as_str());
                let path = inner.paths.get(written.place.0.0);
                written.unique = self.index.unique.signals(writer, path.map(|path| &**path), block);
                let copied = u64::from(written.origin.copied_from.is_some());
                inner.counts.unique.add(written.unique);
                inner.counts.data += 1;
                inner.counts.copied += copied;
                if let Some(summary) = inner.files.get_mut(written.place.0.0) {
                    summary.matched += 1;
                    summary.copied += copied;
                    summary.encrypted += u64::from(written.unique.program || written.unique.extension);
                    summary.hinted += u64::from(written.origin.hint.is_some());
                }
                let tag = inner.tag(policy, &written, facts);
                if let Some(stored) = inner.on_disk.get_mut(&address) {
                    stored.unique = written.unique;
                    stored.born.get_or_insert((Instant::now(), tag.class_id));
                }
                tag
            }
            None if self.index.assume == Assume::Complete => {
                inner.counts.metadata += 1;
                inner.metadata.insert(address, ());
                metadata(policy, facts)
            }
            None => {
                inner.counts.unknown += 1;
                IoTag { class_id: policy.classify(&facts), ..IoTag::default() }
            }
        };
        if let Some(count) = inner.classes.get_mut(usize::from(tag.class_id.get())) {
            *count += 1;
        }
        tag
    }

    fn classify_read(&self, offset: u64) -> IoTag {
        let facts = self.facts(offset, Direction::Read);
        let policy = &self.index.policy;
        let inner = self.index.lock();
        match inner.on_disk.get(&(self.disk, offset)) {
            Some(written) => inner.tag(policy, written, facts),
            None if inner.metadata.get(&(self.disk, offset)).is_some() => metadata(policy, facts),
            None => IoTag { class_id: policy.classify(&facts), ..IoTag::default() },
        }
    }

    fn was_read(&self, offset: u64, block: &[u8]) {
        let mut inner = self.index.lock();
        let address = (self.disk, offset);
        let known = inner.on_disk.contains_key(&address) || inner.metadata.get(&address).is_some();
        if !is_zero(block) && !known {
            inner.unnamed.add(address, xxh3_128(block));
        }
    }

    fn discarded(&self, offset: u64, length: u64) {
        let mut inner = self.index.lock();
        let end = offset.saturating_add(length);
        // The shorter way round: a discard may cover the whole disk.
        let known = inner.on_disk.len() + inner.unnamed.len() + inner.metadata.len();
        let addresses: Vec<Address> = if length / BLOCK_SIZE as u64 > known as u64 {
            let all = inner.on_disk.keys().chain(inner.unnamed.addresses()).chain(inner.metadata.keys());
            all.copied().filter(|&(disk, at)| disk == self.disk && at >= offset && at < end).collect()
        } else {
            let first = offset - offset % BLOCK_SIZE as u64;
            (first..end).step_by(BLOCK_SIZE).map(|at| (self.disk, at)).collect()
        };
        addresses.into_iter().for_each(|address| inner.remove_stored(address, Death::Discarded));
    }
}

fn metadata(policy: &Policy, facts: Facts<'_>) -> IoTag {
    let facts = Facts { class: IoClass::Metadata, ..facts };
    IoTag { class: IoClass::Metadata, class_id: policy.classify(&facts), ..IoTag::default() }
}
