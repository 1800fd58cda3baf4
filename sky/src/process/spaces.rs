//! Address spaces, by the number that the guest kernel gives each of them and never gives again.
//!
//! The frame of the page directory will not do: it is freed and used again at once (of 1,200 calls only 710 were
//! attributed by the frame alone).

use std::collections::{BTreeMap, BTreeSet};

/// What is known of an address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Not seen before; its first system call will tell.
    New,
    /// Its system calls are trapped.
    Monitored,
    /// Its system calls cost nothing.
    Bystander,
}

/// More bystanders than this are remembered only as "older than".
const MAX_BYSTANDERS: usize = 1 << 16;
/// Of more monitored spaces the oldest is let go: not all that end say so.
const MAX_MONITORED: usize = 1 << 14;

/// All address spaces of a guest.
#[derive(Debug, Default)]
pub struct Spaces {
    /// Numbers up to here are bystanders, unless they are monitored.
    floor: u64,
    bystanders: BTreeSet<u64>,
    /// The process id of each.
    monitored: BTreeMap<u64, u32>,
}

impl Spaces {
    /// Address spaces up to number `floor` existed before trapping began and are not trapped.
    ///
    /// Their threads may be inside a call that they entered by SYSCALL and would leave by SYSRET, which must not
    /// happen while SCE is clear. A space that appears later returns from its first call, fork or execve, by IRET.
    #[must_use]
    pub fn above(floor: u64) -> Self {
        Self { floor, ..Self::default() }
    }

    /// What is known of number `ctx_id`.
    #[must_use]
    pub fn get(&self, ctx_id: u64) -> Space {
        if self.monitored.contains_key(&ctx_id) {
            Space::Monitored
        } else if ctx_id <= self.floor || self.bystanders.contains(&ctx_id) {
            Space::Bystander
        } else {
            Space::New
        }
    }

    /// Number `ctx_id` is to be trapped; it belongs to process `pid`.
    pub fn monitor(&mut self, ctx_id: u64, pid: u32) {
        self.monitored.insert(ctx_id, pid);
        if self.monitored.len() > MAX_MONITORED
            && let Some((oldest, _)) = self.monitored.pop_first()
        {
            self.ignore(oldest);
        }
    }

    /// Process of a monitored address space.
    #[must_use]
    pub fn pid(&self, ctx_id: u64) -> Option<u32> {
        self.monitored.get(&ctx_id).copied()
    }

    /// Number `ctx_id` is of no interest, or no longer.
    pub fn ignore(&mut self, ctx_id: u64) {
        self.monitored.remove(&ctx_id);
        if ctx_id > self.floor {
            self.bystanders.insert(ctx_id);
        }
        // Numbers only grow, so the lowest half is the oldest half: most of those processes are gone, and the others
        // are below the floor, which says the same of them.
        if self.bystanders.len() > MAX_BYSTANDERS
            && let Some(&middle) = self.bystanders.iter().nth(MAX_BYSTANDERS / 2)
        {
            self.floor = middle;
            self.bystanders = self.bystanders.split_off(&(middle + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_before_is_never_trapped() {
        let spaces = Spaces::above(40);
        assert_eq!((spaces.get(40), spaces.get(41)), (Space::Bystander, Space::New));
    }

    #[test]
    fn spaces_are_what_they_were_called_last() {
        let mut spaces = Spaces::above(0);
        spaces.monitor(7, 321);
        assert_eq!((spaces.get(7), spaces.pid(7)), (Space::Monitored, Some(321)));
        spaces.ignore(7);
        assert_eq!((spaces.get(7), spaces.pid(7)), (Space::Bystander, None));
        assert_eq!(spaces.get(6), Space::New, "spaces need not appear in the order of their numbers");
    }

    #[test]
    fn a_guest_that_forks_for_ever_does_not_fill_the_host() {
        let mut spaces = Spaces::above(0);
        spaces.monitor(5, 1);
        for ctx_id in 400_002..450_000 {
            spaces.monitor(ctx_id, 2);
        }
        assert!(spaces.monitored.len() <= MAX_MONITORED);
        assert_eq!((spaces.get(400_002), spaces.get(449_999)), (Space::Bystander, Space::Monitored));
        let mut spaces = Spaces::above(0);
        spaces.monitor(5, 1);
        for ctx_id in (6..=400_000).chain([u64::MAX - 1]) {
            spaces.ignore(ctx_id);
        }
        assert!(spaces.bystanders.len() <= MAX_BYSTANDERS);
        assert_eq!(spaces.get(5), Space::Monitored);
        assert_eq!((spaces.get(6), spaces.get(400_000)), (Space::Bystander, Space::Bystander));
        assert_eq!(spaces.get(400_001), Space::New);
    }
}
