//! How images are made and opened.

/// What decides that two blocks are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// BLAKE3: blocks with the same 32 bytes are the same. A guest, which chooses content, cannot make two that are not.
    Fingerprint,
    /// xxh3 of 128 bits finds blocks that may be equal, and those are read and compared.
    Compare {
        /// Bits of the fingerprint that are used, 1 to 128. Fewer than 128 make collisions, for tests.
        bits: u8,
    },
}

/// A new image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreateOptions {
    /// Bytes of the disk, a multiple of 512.
    pub size: u64,
    /// Bytes for blocks that differ, rounded down to blocks. Nothing: on a growable storage as many as the disk has, and
    /// 1/64 and 4 MiB more, so that a disk full of unlike blocks can still be overwritten; else all that the storage
    /// has room for.
    pub capacity: Option<u64>,
    /// What decides that two blocks are equal.
    pub verify: Verify,
    /// Bytes of the journal, 64 KiB to 256 MiB. A longer one makes for fewer checkpoints, and a longer recovery.
    pub journal: u64,
}

impl CreateOptions {
    /// A disk of `size` bytes.
    #[must_use]
    pub fn new(size: u64) -> Self {
        Self { size, capacity: None, verify: Verify::Fingerprint, journal: 8 << 20 }
    }
}

/// Which of the signals that a block is like no other are followed: such a block is neither looked up nor put in the
/// index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unique {
    /// A program that encrypts wrote it.
    pub program: bool,
    /// Its file has the extension of encrypted ones.
    pub extension: bool,
    /// It looks encrypted or compressed. Such blocks may well be there twice, so this is not followed by default.
    pub entropy: bool,
}

/// What is done with what is known of the I/O (Sky paper, section on iDedup).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hints {
    /// Blocks that are like no other.
    pub unique: Unique,
    /// Blocks that are remembered because they may be copied soon: those just read, and those written that belong to a
    /// known file. Each takes some 150 bytes, and each block that is read or written a third of the time of a fingerprint;
    /// 0 saves both.
    pub remembered: usize,
}

impl Default for Hints {
    fn default() -> Self {
        Self { unique: Unique { program: true, extension: true, entropy: false }, remembered: 16384 }
    }
}

/// How an image is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    /// Nothing is written: an image that was not closed is recovered in memory.
    pub read_only: bool,
    /// Bytes of memory for the index, at least 16 KiB: half of it at most is a filter, an eighth holds pages, an eighth
    /// what is known of runs, and the rest what waits for the next run. The filter that was stored is of use to who gives
    /// the same.
    pub index_memory: usize,
    /// What is followed of the hints. Nothing: plain inline deduplication.
    pub hints: Option<Hints>,
    /// Duplicates are shared only where so many blocks in a row of a request are so in the same order, so that reads
    /// stay sequential (NetApp's iDedup); 1 shares all. A request is looked at in parts of 64 blocks.
    pub threshold: u32,
    /// The space of blocks that are no longer used goes back to the file system below.
    pub give_back: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            index_memory: 32 << 20,
            hints: Some(Hints::default()),
            threshold: 1,
            give_back: true,
        }
    }
}
