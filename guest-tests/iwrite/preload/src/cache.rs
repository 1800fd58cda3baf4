//! The classes of open files, by descriptor: asking the kernel for a path costs more than writing to it.
//!
//! An entry says which file it is about, and counts only for that file. Each has a version that is odd while somebody
//! changes it. Nobody waits: who meets an odd version, or a signal handler that has interrupted a change, does without
//! the entry.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Descriptors from this on are not remembered.
const DESCRIPTORS: usize = 1024;

/// A file, by its device and its inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

/// Set if the entry is about a file at all.
const KNOWN: u64 = 1 << 33;
/// Set if that file has a class.
const HAS_CLASS: u64 = 1 << 32;

#[derive(Debug)]
struct Entry {
    version: AtomicU32,
    device: AtomicU64,
    inode: AtomicU64,
    class: AtomicU64,
}

/// All entries.
#[derive(Debug)]
pub(crate) struct Cache {
    entries: [Entry; DESCRIPTORS],
}

impl Cache {
    pub(crate) const fn new() -> Cache {
        Cache {
            entries: [const {
                Entry {
                    version: AtomicU32::new(0),
                    device: AtomicU64::new(0),
                    inode: AtomicU64::new(0),
                    class: AtomicU64::new(0),
                }
            }; DESCRIPTORS],
        }
    }

    fn entry(&self, fd: i32) -> Option<&Entry> {
        self.entries.get(usize::try_from(fd).ok()?)
    }

    /// What is known of a file under a descriptor: whether it has a class, and which.
    pub(crate) fn find(&self, fd: i32, file: File) -> Option<Option<u32>> {
        let entry = self.entry(fd)?;
        let before = entry.version.load(Ordering::SeqCst);
        let found =
            File { device: entry.device.load(Ordering::SeqCst), inode: entry.inode.load(Ordering::SeqCst) };
        let class = entry.class.load(Ordering::SeqCst);
        let after = entry.version.load(Ordering::SeqCst);
        if before != after || !before.is_multiple_of(2) || class & KNOWN == 0 || found != file {
            return None;
        }
        Some(if class & HAS_CLASS == 0 { None } else { u32::try_from(class & 0xffff_ffff).ok() })
    }

    /// Remembers a file's class, if nobody else is changing the entry.
    pub(crate) fn remember(&self, fd: i32, file: File, class: Option<u32>) {
        let class = KNOWN | class.map_or(0, |class| HAS_CLASS | u64::from(class));
        self.change(fd, file, class);
    }

    /// Forgets what a descriptor meant.
    pub(crate) fn forget(&self, fd: i32) {
        self.change(fd, File { device: 0, inode: 0 }, 0);
    }

    fn change(&self, fd: i32, file: File, class: u64) {
        let Some(entry) = self.entry(fd) else { return };
        let version = entry.version.load(Ordering::SeqCst);
        let odd = version.wrapping_add(1);
        let free = version.is_multiple_of(2)
            && entry.version.compare_exchange(version, odd, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if !free {
            return;
        }
        entry.device.store(file.device, Ordering::SeqCst);
        entry.inode.store(file.inode, Ordering::SeqCst);
        entry.class.store(class, Ordering::SeqCst);
        entry.version.store(odd.wrapping_add(1), Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: File = File { device: 1, inode: 2 };

    #[test]
    fn what_is_remembered_is_found_for_that_file_only() {
        let cache = Cache::new();
        assert_eq!(cache.find(3, FILE), None);
        cache.remember(3, FILE, Some(u32::MAX));
        assert_eq!(cache.find(3, FILE), Some(Some(u32::MAX)));
        assert_eq!(cache.find(3, File { inode: 3, ..FILE }), None);
        assert_eq!(cache.find(4, FILE), None);
        cache.remember(3, FILE, None);
        assert_eq!(cache.find(3, FILE), Some(None));
        cache.forget(3);
        assert_eq!(cache.find(3, FILE), None);
        assert_eq!(cache.find(3, File { device: 0, inode: 0 }), None);
    }

    #[test]
    fn descriptors_that_are_too_large_or_none_are_nothing() {
        let cache = Cache::new();
        for fd in [-1, i32::MIN, 1024, i32::MAX] {
            cache.remember(fd, FILE, Some(1));
            assert_eq!(cache.find(fd, FILE), None);
            cache.forget(fd);
        }
    }

    #[test]
    fn who_meets_a_change_does_without() {
        let cache = Cache::new();
        cache.remember(3, FILE, Some(1));
        cache.entries[3].version.fetch_add(1, Ordering::SeqCst);
        assert_eq!(cache.find(3, FILE), None);
        cache.remember(3, FILE, Some(2));
        cache.entries[3].version.fetch_add(1, Ordering::SeqCst);
        assert_eq!(cache.find(3, FILE), Some(Some(1)));
    }

    #[test]
    fn files_and_classes_are_never_mixed() {
        let cache = Cache::new();
        let file = |number: u64| File { device: number, inode: number };
        std::thread::scope(|scope| {
            for number in 1..=3 {
                let cache = &cache;
                scope.spawn(move || {
                    for _ in 0..20_000 {
                        cache.remember(5, file(number), u32::try_from(number).ok());
                        for other in 1..=3 {
                            if let Some(class) = cache.find(5, file(other)) {
                                assert_eq!(class.map(u64::from), Some(other));
                            }
                        }
                    }
                });
            }
        });
    }
}
