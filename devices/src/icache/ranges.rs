//! Locks of runs of blocks. Whoever came first goes first, so nobody waits for ever.

use std::sync::{Condvar, Mutex, PoisonError};

use super::lock;

#[derive(Clone, Copy, Debug)]
struct Held {
    ticket: u64,
    first: u64,
    end: u64,
    exclusive: bool,
}

#[derive(Debug, Default)]
struct Inner {
    /// By their tickets, those that wait among them.
    held: Vec<Held>,
    next: u64,
}

/// The locks. Nobody who holds one waits for another.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    inner: Mutex<Inner>,
    changed: Condvar,
}

/// A run of blocks that is locked until this is dropped.
#[derive(Debug)]
pub(super) struct Guard<'a> {
    ranges: &'a Ranges,
    pub(super) ticket: u64,
}

impl Inner {
    fn blocked(&self, mine: &Held) -> bool {
        let conflicts = |other: &Held| {
            (other.exclusive || mine.exclusive) && other.first < mine.end && mine.first < other.end
        };
        self.held.iter().any(|other| other.ticket < mine.ticket && conflicts(other))
    }

    fn enter(&mut self, first: u64, end: u64, exclusive: bool) -> Held {
        let held = Held { ticket: self.next, first, end, exclusive };
        self.next += 1;
        self.held.push(held);
        held
    }
}

impl Ranges {
    /// Locks blocks `first..end`, alone or with others who do not want them alone.
    pub(super) fn lock(&self, first: u64, end: u64, exclusive: bool) -> Guard<'_> {
        let mut inner = lock(&self.inner);
        let mine = inner.enter(first, end, exclusive);
        while inner.blocked(&mine) {
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        Guard { ranges: self, ticket: mine.ticket }
    }

    /// The same if nobody is in the way.
    pub(super) fn try_lock(&self, first: u64, end: u64, exclusive: bool) -> Option<Guard<'_>> {
        let mut inner = lock(&self.inner);
        let mine = inner.enter(first, end, exclusive);
        let guard = Guard { ranges: self, ticket: mine.ticket };
        let blocked = inner.blocked(&mine);
        drop(inner);
        (!blocked).then_some(guard)
    }

    /// Whether anybody but the holder of `ticket` has to do with a block.
    pub(super) fn covers(&self, block: u32, ticket: u64) -> bool {
        let block = u64::from(block);
        let inner = lock(&self.inner);
        inner.held.iter().any(|held| held.ticket != ticket && (held.first..held.end).contains(&block))
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        lock(&self.ranges.inner).held.retain(|held| held.ticket != self.ticket);
        self.ranges.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_share_and_writers_do_not() {
        let ranges = Ranges::default();
        let one = ranges.lock(0, 4, false);
        let two = ranges.try_lock(3, 5, false).unwrap();
        assert!(ranges.try_lock(4, 6, true).is_none());
        assert!(ranges.try_lock(5, 6, true).is_some());
        assert!(ranges.covers(2, two.ticket) && !ranges.covers(2, one.ticket) && !ranges.covers(9, 0));
        drop((one, two));
        assert!(ranges.try_lock(0, 9, true).is_some());
    }

    #[test]
    fn one_at_a_time() {
        let (ranges, inside) = (Ranges::default(), std::sync::atomic::AtomicU32::new(0));
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (ranges, inside) = (&ranges, &inside);
                scope.spawn(move || {
                    for round in 0..300 {
                        let _guard = ranges.lock((thread + round) % 3, 3, true);
                        assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                        inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                    }
                });
            }
        });
    }
}
