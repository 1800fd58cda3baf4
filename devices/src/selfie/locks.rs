//! Locks of clusters: many readers and in-place writers of one, or one that changes where it lies.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::format::Virtual;

/// How many there are.
pub(super) const LOCKS: u32 = 256;

/// A lock for every cluster; distant clusters share them. Nobody holds two who waits for one exclusively.
#[derive(Debug)]
pub(super) struct Locks(Box<[RwLock<()>]>);

impl Default for Locks {
    fn default() -> Self {
        Self((0..LOCKS).map(|_| RwLock::default()).collect())
    }
}

impl Locks {
    fn of(&self, cluster: Virtual) -> &RwLock<()> {
        &self.0[(cluster.0 % LOCKS) as usize]
    }

    /// The cluster stays where it is, and keeps its states.
    pub(super) fn shared(&self, cluster: Virtual) -> RwLockReadGuard<'_, ()> {
        self.of(cluster).read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody else looks at the cluster.
    pub(super) fn exclusive(&self, cluster: Virtual) -> RwLockWriteGuard<'_, ()> {
        self.of(cluster).write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until everything that has begun with any cluster is over.
    pub(super) fn settle(&self) {
        for lock in &self.0 {
            drop(lock.write().unwrap_or_else(PoisonError::into_inner));
        }
    }
}
