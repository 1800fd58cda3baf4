//! The index by itself, for who measures it: the same code without a disk around it.

use std::sync::Arc;

use super::super::fingerprint::Fingerprint;
use super::super::layout::Layout;
use super::{Claim, Index};
use crate::block::{Result, Storage};

/// An index of fingerprints on a storage of its own. It is no image, cannot be opened again, and no crash is thought of.
#[derive(Debug)]
pub struct FingerprintIndex {
    storage: Arc<dyn Storage>,
    index: Index,
}

impl FingerprintIndex {
    /// One for `entries` fingerprints of 32 bytes, with so many bytes of memory.
    ///
    /// # Errors
    /// There can be no image with so many blocks, or the medium failed.
    pub fn create(storage: Arc<dyn Storage>, entries: u32, memory: usize) -> Result<Self> {
        let layout = Layout::of_index(entries)?;
        storage.grow(layout.index_end())?;
        let written = vec![0; usize::try_from(layout.buckets.div_ceil(8)).unwrap_or(usize::MAX)];
        let index = Index::new(Arc::clone(&storage), layout, memory, written, &[]);
        Ok(Self { storage, index })
    }

    /// The same with other memory, which holds nothing yet.
    ///
    /// # Errors
    /// The medium failed.
    pub fn with_memory(mut self, memory: usize) -> Result<Self> {
        self.make_durable()?;
        let runs: Vec<_> = self.index.staged_at().collect();
        let Index { layout, written, .. } = self.index;
        let mut index = Index::new(Arc::clone(&self.storage), layout, memory, written, &runs);
        index.load(0, &|_| true)?;
        Ok(Self { index, ..self })
    }

    /// Says which block has the content of a fingerprint.
    ///
    /// # Errors
    /// The medium failed.
    pub fn insert(&mut self, fingerprint: [u8; 32], block: u32) -> Result<()> {
        self.index.insert(Fingerprint(fingerprint), Claim { physical: block, generation: 1 });
        if self.index.is_full() {
            self.index.spill(self.index.mark(), &|_| true)?;
        }
        Ok(())
    }

    /// Makes everything durable.
    ///
    /// # Errors
    /// The medium failed.
    pub fn make_durable(&mut self) -> Result<()> {
        self.index.spill(self.index.mark(), &|_| true)?;
        self.storage.sync()
    }

    /// Puts everything in its bucket.
    ///
    /// # Errors
    /// The medium failed.
    pub fn settle(&mut self) -> Result<()> {
        self.make_durable()?;
        self.index.settle(&|_| true)?;
        self.storage.sync()
    }

    /// The block that has the content of a fingerprint.
    ///
    /// # Errors
    /// The medium failed.
    pub fn find(&mut self, fingerprint: [u8; 32]) -> Result<Option<u32>> {
        let (claim, _) = self.index.find(&Fingerprint(fingerprint))?;
        Ok(claim.map(|claim| claim.physical))
    }

    /// Buckets, each of which is 4 KiB. A fingerprint's place in the order of all says which one it belongs to.
    #[must_use]
    pub fn buckets(&self) -> u64 {
        self.index.layout.buckets
    }
}
