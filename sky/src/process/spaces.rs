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
    monitored: BTreeMap<u64, Monitored>,
}

/// A monitored address space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Monitored {
    /// Its process, in the initial namespace.
    pub pid: u32,
    /// File name of its executable.
    pub executable: String,
    /// Number of the rule that chose it.
    pub rule: u64,
}

impl Spaces {
    /// Address spaces up to number `floor` existed before trapping began and are not trapped unless they are
    /// [monitored](Self::monitor) explicitly.
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

    /// Number `ctx_id` is to be trapped.
    pub fn monitor(&mut self, ctx_id: u64, process: Monitored) {
        self.bystanders.remove(&ctx_id);
        self.monitored.insert(ctx_id, process);
        if self.monitored.len() > MAX_MONITORED
            && let Some((oldest, _)) = self.monitored.pop_first()
        {
            self.ignore(oldest);
        }
    }

    /// Process of a monitored address space.
    #[must_use]
    pub fn process(&self, ctx_id: u64) -> Option<&Monitored> {
        self.monitored.get(&ctx_id)
    }

    /// All that are monitored, the oldest first.
    pub fn monitored(&self) -> impl Iterator<Item = (u64, &Monitored)> {
        self.monitored.iter().map(|(&ctx_id, process)| (ctx_id, process))
    }

    /// Nothing is known of number `ctx_id` any more.
    pub fn forget(&mut self, ctx_id: u64) {
        self.monitored.remove(&ctx_id);
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

    fn process(pid: u32) -> Monitored {
        Monitored { pid, executable: "x".into(), rule: 0 }
    }

    #[test]
    fn what_was_there_before_is_never_trapped() {
        let spaces = Spaces::above(40);
        assert_eq!((spaces.get(40), spaces.get(41)), (Space::Bystander, Space::New));
    }

    #[test]
    fn spaces_are_what_they_were_called_last() {
        let mut spaces = Spaces::above(0);
        spaces.monitor(7, process(321));
        assert_eq!((spaces.get(7), spaces.process(7)), (Space::Monitored, Some(&process(321))));
        spaces.forget(7);
        assert_eq!((spaces.get(7), spaces.process(7)), (Space::New, None));
        spaces.ignore(7);
        assert_eq!((spaces.get(7), spaces.process(7)), (Space::Bystander, None));
        assert_eq!(spaces.get(6), Space::New, "spaces need not appear in the order of their numbers");
    }

    #[test]
    fn a_guest_that_forks_for_ever_does_not_fill_the_host() {
        let mut spaces = Spaces::above(0);
        spaces.monitor(5, process(1));
        for ctx_id in 400_002..450_000 {
            spaces.monitor(ctx_id, process(2));
        }
        assert!(spaces.monitored.len() <= MAX_MONITORED);
        assert_eq!((spaces.get(400_002), spaces.get(449_999)), (Space::Bystander, Space::Monitored));
        let mut spaces = Spaces::above(0);
        spaces.monitor(5, process(1));
        for ctx_id in (6..=400_000).chain([u64::MAX - 1]) {
            spaces.ignore(ctx_id);
        }
        assert!(spaces.bystanders.len() <= MAX_BYSTANDERS);
        assert_eq!(spaces.get(5), Space::Monitored);
        assert_eq!((spaces.get(6), spaces.get(400_000)), (Space::Bystander, Space::Bystander));
        assert_eq!(spaces.get(400_001), Space::New);
    }
}
