//! What the classes may have: of a policy, what is asked for each block.

use super::table::Queue;
use crate::policy::{ClassId, Policy, Priority};

/// Classes that there can be.
pub(super) const CLASSES: usize = ClassId::PREFETCH.get() as usize + 1;

/// One class.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    pub(super) cold: Queue,
    pub(super) hot: Queue,
    /// Hot lines that have shown that they are worth it.
    pub(super) proven: u32,
    /// Smaller is kept longer.
    pub(super) rank: Rank,
    /// Lines that it may have.
    pub(super) most: u32,
}

/// A priority as a number; pinned is the smallest.
pub(super) type Rank = u16;
pub(super) const PINNED: Rank = 0;

impl Share {
    pub(super) fn lines(&self) -> u32 {
        self.cold.length + self.hot.length
    }

    /// Hot lines that it may have: some lines always come and go, or a scan would empty it.
    pub(super) fn most_hot(&self) -> u32 {
        self.most - (self.most / 256).max(1).min(self.most)
    }
}

/// All of them, and the order in which they give.
#[derive(Debug)]
pub(super) struct Shares {
    classes: [Share; CLASSES],
    /// Classes of the policy, those that go first before the others.
    order: Vec<usize>,
}

impl Shares {
    pub(super) fn new(policy: &Policy, capacity: u32) -> Self {
        let none = Share { cold: Queue::default(), hot: Queue::default(), proven: 0, rank: PINNED, most: 0 };
        let mut shares = Self { classes: [none; CLASSES], order: Vec::new() };
        shares.adopt(policy, capacity);
        shares
    }

    /// Takes the priorities and allocations of a policy.
    pub(super) fn adopt(&mut self, policy: &Policy, capacity: u32) {
        for (id, share) in (0..).zip(&mut self.classes) {
            let class = policy.class(ClassId::new(id).unwrap_or_default());
            share.rank = match class.priority() {
                Priority::Pinned => PINNED,
                Priority::Level(level) => u16::from(level) + 1,
            };
            let most = u32::try_from(class.allocation().of(u64::from(capacity))).unwrap_or(capacity);
            share.most = if class.allocation().caches() { most.max(1) } else { 0 };
        }
        let mut ids: Vec<usize> = policy.classes().map(|class| usize::from(class.id().get())).collect();
        ids.sort_by_key(|&id| std::cmp::Reverse((self.classes[id].rank, id)));
        self.order = ids;
    }

    pub(super) fn of(&self, class: ClassId) -> &Share {
        &self.classes[usize::from(class.get())]
    }

    pub(super) fn of_mut(&mut self, class: ClassId) -> &mut Share {
        &mut self.classes[usize::from(class.get())]
    }

    /// The classes, those that go first before the others.
    pub(super) fn first_to_go(&self) -> impl Iterator<Item = &Share> + Clone {
        self.order.iter().map(|&id| &self.classes[id])
    }

    /// Lines of pinned classes.
    pub(super) fn pinned(&self) -> u32 {
        self.classes.iter().filter(|share| share.rank == PINNED).map(Share::lines).sum()
    }

    pub(super) fn cold(&self) -> u32 {
        self.classes.iter().map(|share| share.cold.length).sum()
    }
}
