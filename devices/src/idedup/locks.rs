//! Locks of regions of the disk: many readers of one, or one writer. While a reader has it, no block of the region
//! changes its place; so the place keeps its reference, and is not given to anybody else.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::REGION;

/// How many there are.
const LOCKS: u32 = 256;

/// A lock for every region; distant regions share them. Nobody waits for one who holds another.
#[derive(Debug)]
pub(super) struct Regions(Box<[RwLock<()>]>);

impl Default for Regions {
    fn default() -> Self {
        Self((0..LOCKS).map(|_| RwLock::default()).collect())
    }
}

impl Regions {
    fn of(&self, logical: u32) -> &RwLock<()> {
        &self.0[(logical / REGION % LOCKS) as usize]
    }

    /// The blocks of this one's region stay where they are.
    pub(super) fn shared(&self, logical: u32) -> RwLockReadGuard<'_, ()> {
        self.of(logical).read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody else looks at the region.
    pub(super) fn exclusive(&self, logical: u32) -> RwLockWriteGuard<'_, ()> {
        self.of(logical).write().unwrap_or_else(PoisonError::into_inner)
    }
}
