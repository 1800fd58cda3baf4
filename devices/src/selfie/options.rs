//! How an image is made and opened.

use super::format::Backing;

/// How a new image is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateOptions {
    /// Size of the disk in bytes, a multiple of 512.
    pub size: u64,
    /// How far it can grow, in bytes; the larger of 16 TiB and four times its size if not given.
    pub max_size: Option<u64>,
    /// The image below: what is not in the new one is read there.
    pub backing: Option<Backing>,
}

impl CreateOptions {
    /// A disk of `size` bytes on its own.
    #[must_use]
    pub fn new(size: u64) -> Self {
        Self { size, max_size: None, backing: None }
    }
}

/// How zones come to be zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Zeroing {
    /// Zeros are written, so that the file system below has nothing left to decide when data comes.
    #[default]
    Written,
    /// Holes: the file system allocates when data comes. For comparison.
    Sparse,
    /// Space that is allocated and not written: the file system notes when it is. For comparison.
    Allocated,
}

/// Where the mappings of full zones are collected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Summaries {
    /// Those of several zones side by side.
    #[default]
    Shared,
    /// Those of each zone in the zone itself. For comparison.
    Own,
    /// Nowhere, until the image is closed. For comparison.
    None,
}

/// Something that an image does when it finds the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chore {
    /// Write zeros ahead, as far as what was used so far makes worthwhile.
    WriteZeroes,
    /// Collect the mappings of Z zones that are full.
    CollectFull,
    /// Collect those of all Z zones.
    CollectAll,
    /// Free the zones all of whose clusters are dead.
    FreeZones,
}

/// How an image is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    /// Nothing is written, not even what recovery finds.
    pub read_only: bool,
    /// A thread zeroes zones ahead and collects mappings while the disk is idle. Without it both happen where they
    /// are needed: every run is like the other.
    pub background: bool,
    /// Without a thread: mappings are collected, and zeros written ahead, when [`chore`](super::Selfie::chore) is
    /// called, and otherwise only where there is no going on without.
    pub tended: bool,
    /// The mapping is put into the first block that is written. Without it, all of it goes through the tables.
    pub embed: bool,
    /// The tables wait for data, as in formats that do not zero what they allocate. For comparison.
    pub ordered: bool,
    /// How zones come to be zeros.
    pub zeroing: Zeroing,
    /// After so many clusters without a flush nobody waits for the single one: further ones come from holes, without
    /// zeros written ahead, because what the file system then has left to do is done once for all of them. So do all
    /// where there is a fifth of that between two flushes, on average.
    pub stream: u64,
    /// Where mappings are collected.
    pub summaries: Summaries,
    /// What contradicts itself is left out: to read what can be read. Needs `read_only`.
    pub tolerant: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            background: true,
            tended: false,
            embed: true,
            ordered: false,
            zeroing: Zeroing::Written,
            stream: 32,
            summaries: Summaries::Shared,
            tolerant: false,
        }
    }
}
