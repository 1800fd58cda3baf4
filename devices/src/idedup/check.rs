//! What is wrong with an image that nobody has open, and what can be made right.

use std::sync::Arc;

use serde::Serialize;

use super::index::Index;
use super::layout::Layout;
use super::load::{Loaded, load};
use super::page::BLOCK;
use crate::block::{Result, Storage};

/// What [`check`] has found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// Blocks of the disk that are not zeros.
    pub mapped_blocks: u64,
    /// Blocks that they take.
    pub used_blocks: u64,
    /// Blocks that are free.
    pub free_blocks: u64,
    /// Claims of the index that speak of what is in a block now.
    pub valid_claims: u64,
    /// Claims of the index that are void.
    pub void_claims: u64,
    /// Physical blocks of which the index claims what is not true: a write could be lost to them.
    pub false_claims: Vec<u32>,
}

impl CheckReport {
    /// Nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.false_claims.is_empty()
    }
}

/// Reads all of an image but data that nobody claims to know. Nothing is changed, and what a crash has left is no fault.
///
/// # Errors
/// The image cannot be used, or the medium failed.
pub fn check(storage: &Arc<dyn Storage>) -> Result<CheckReport> {
    let layout = Layout::read(&**storage)?;
    let Loaded { state, checkpoint, claims, .. } = load(&**storage, &layout, 0)?;
    let mut index = Index::new(Arc::clone(storage), layout, 0, checkpoint.buckets, &checkpoint.runs);
    claims.into_iter().for_each(|(name, claim)| index.insert(name, claim));
    let mut report = CheckReport {
        mapped_blocks: state.map.iter().count() as u64,
        used_blocks: state.space.used().into(),
        free_blocks: state.space.free().into(),
        ..CheckReport::default()
    };
    let mut block = [0; BLOCK];
    index.each(&mut |name, claim| {
        if !state.is_valid(claim) {
            report.void_claims += 1;
            return Ok(());
        }
        report.valid_claims += 1;
        storage.read(layout.data_place(claim.physical), &mut block)?;
        if layout.verify.name(&block) != name {
            report.false_claims.push(claim.physical);
        }
        Ok(())
    })?;
    Ok(report)
}
