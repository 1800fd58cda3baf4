//! iDedup: a disk whose equal blocks are stored once, inline, where what is known of the I/O saves looking for them.
//! After the case study iDedup of the Sky paper (VEE 2017); `docs/idedup-format.md` is the format, and says why every
//! crash state can be recovered.
//!
//! ```text
//!   write ─▶ zeros? ─▶ unique by a hint? ─▶ fingerprint ─▶ blocks just read ─▶ index ─▶ new: data ─▶ Storage
//!              │              └──────────────────────────────│─────────────────│──────▶   │
//!              ▼                                             ▼ found           ▼ found    ▼
//!             map ◀────────────────────────────────────────────────────────────────────────
//!   flush ─▶ journal of what changed in the map ─▶ sync
//! ```
//!
//! - `journal`, `checkpoint`, `layout`, `page` and `table` are what lies in the image, `load` reads it.
//! - `state` and `space` are the map in memory, and the references that follow from it.
//! - `index` finds fingerprints on the medium; it is a hint and may forget.
//! - `write`, `read` and `commit` are the engine, `collect` is its garbage collection.
//!
//! A region of 64 blocks is locked by its readers, or by its writer. One more lock is that of the map: it is held for
//! look-ups and changes in memory, and while a checkpoint writes the tables, but not while data is read or written.
//! Another one is held while a bucket of the index is read.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::block::{
    BlockDevice, Error, ErrorKind, Geometry, Operation, Result, Storage, check_range, length_of,
};
use crate::io_class::IoTag;

mod check;
mod checkpoint;
mod collect;
mod commit;
mod fingerprint;
mod index;
mod journal;
mod layout;
mod load;
mod locks;
mod lru;
mod options;
mod page;
mod read;
mod secret;
mod space;
mod state;
mod stats;
mod table;
mod write;

pub use check::{CheckReport, check};
pub use collect::{Collected, Progress, Reread, Stage};
pub use index::FingerprintIndex;
pub use layout::{create, size_of_image};
pub use options::{CreateOptions, Hints, OpenOptions, Unique, Verify};
pub use stats::Stats;

use checkpoint::Checkpoint;
use commit::Commit;
use index::Index;
use journal::Journal;
use layout::Layout;
use locks::Regions;
use page::BLOCK;
use secret::Secret;
use state::State;
use stats::{Counters, count};
use write::Chunk;

/// Blocks that are locked together, and the most that are written at once.
const REGION: u32 = 64;

/// An open image.
pub struct Idedup {
    core: Core,
}

/// What the modules of the engine share.
struct Core {
    storage: Arc<dyn Storage>,
    layout: Layout,
    options: OpenOptions,
    regions: Regions,
    state: Mutex<State>,
    commit: Mutex<Commit>,
    /// Flushes that have begun.
    begun: AtomicU64,
    index: Mutex<Index>,
    /// What names the blocks that are remembered; nothing if none are.
    secret: Option<Secret>,
    /// Held while free blocks are set aside. Who has found no others waits for it.
    aside: Mutex<()>,
    /// The medium has failed in a way that leaves its content unknown: nothing is written any more.
    failed: AtomicBool,
    counters: Counters,
}

impl std::fmt::Debug for Idedup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Idedup").field("storage", &self.core.storage).finish_non_exhaustive()
    }
}

// Nothing under these locks panics between two changes that belong together.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn random() -> Result<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::from_io(Operation::Open, std::io::Error::other(error)))?;
    Ok(u64::from_le_bytes(bytes))
}

impl Idedup {
    /// Opens an image. One that was not closed is recovered first, in memory only if `read_only`.
    ///
    /// # Errors
    /// [`ErrorKind::NotThisFormat`], [`ErrorKind::TooNew`], [`ErrorKind::Corrupt`] for an image that cannot be used,
    /// [`ErrorKind::ReadOnly`], or the medium failed.
    pub fn open(storage: Arc<dyn Storage>, options: OpenOptions) -> Result<Self> {
        if storage.properties().read_only && !options.read_only {
            return Err(Error::new(ErrorKind::ReadOnly, Operation::Open));
        }
        let layout = Layout::read(&*storage)?;
        if !options.read_only {
            // What recovery sees has to stay, whatever happens next.
            storage.sync()?;
        }
        let remembered = options.hints.map_or(0, |hints| hints.remembered);
        let secret = if remembered > 0 { Some(Secret::draw()?) } else { None };
        let found = load::load(&*storage, &layout, remembered)?;
        let Checkpoint { buckets, runs, filter, .. } = &found.checkpoint;
        let mut index = Index::new(Arc::clone(&storage), layout, options.index_memory, buckets.clone(), runs);
        if !options.read_only {
            let valid = |claim| found.state.is_valid(claim);
            index.load(*filter, &valid)?;
            for (name, claim) in found.claims {
                if index.is_full() {
                    index.spill(index.mark(), &valid)?;
                }
                index.insert(name, claim);
            }
            index.spill(index.mark(), &valid)?;
        }
        let journal = Journal::new(load::ring(&layout), found.checkpoint.number, found.next);
        let commit = Commit { journal, checkpoint: found.checkpoint, freed: Vec::new(), done: 0 };
        let core = Core {
            storage,
            layout,
            options,
            regions: Regions::default(),
            state: Mutex::new(found.state),
            commit: Mutex::new(commit),
            begun: AtomicU64::new(0),
            index: Mutex::new(index),
            secret,
            aside: Mutex::new(()),
            failed: AtomicBool::new(false),
            counters: Counters::default(),
        };
        count(&core.counters.recovered_without, found.left_out);
        if !options.read_only {
            core.checkpoint(&mut lock(&core.commit), 0)?;
        }
        Ok(Self { core })
    }

    /// Makes everything durable and closes the image. One that is only dropped is recovered when it is opened next.
    ///
    /// # Errors
    /// The medium failed; the image is recovered next time.
    pub fn close(self) -> Result<()> {
        if self.core.options.read_only {
            return Ok(());
        }
        self.core.check_usable(Operation::Flush)?;
        let mut commit = lock(&self.core.commit);
        self.core.commit(&mut commit)?;
        let mark = lock(&self.core.index).mark();
        self.core.spill(mark)?;
        // It was never used before, so no page of another time is known by it.
        let stamp = random()? | 1;
        lock(&self.core.index).store_filter(stamp)?;
        self.core.checkpoint(&mut commit, stamp)
    }

    /// What was done since it was opened, and how much is stored.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let index = lock(&self.core.index).counts();
        let state = lock(&self.core.state);
        Stats {
            index_reads: index.reads,
            index_writes: index.writes,
            index_torn: index.torn,
            index_dropped: index.dropped,
            index_merges: index.merges,
            mapped_blocks: state.mapped.into(),
            used_blocks: state.space.used().into(),
            free_blocks: state.space.free().into(),
            map_memory_bytes: state.map_memory(),
            ..self.core.counters.stats()
        }
    }
}

impl Core {
    fn check_usable(&self, operation: Operation) -> Result<()> {
        if self.options.read_only {
            return Err(Error::new(ErrorKind::ReadOnly, operation));
        }
        if self.failed.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Poisoned, operation));
        }
        Ok(())
    }

    fn check(&self, operation: Operation, offset: u64, length: u64) -> Result<()> {
        if operation != Operation::Read {
            self.check_usable(operation).map_err(|error| error.at(offset, length))?;
        }
        check_range(operation, self.layout.size, offset, length)
    }

    /// Makes what was written durable.
    fn sync(&self) -> Result<()> {
        count(&self.counters.syncs, 1);
        self.storage.sync().inspect_err(|_| self.failed.store(true, Ordering::Release))
    }

    fn zero(&self, operation: Operation, offset: u64, length: u64) -> Result<()> {
        self.check(operation, offset, length)?;
        Chunk::all(offset, length).try_for_each(|chunk| {
            self.make_room()?;
            self.zero_chunk(chunk)
        })
    }
}

impl BlockDevice for Idedup {
    fn geometry(&self) -> Geometry {
        Geometry {
            size: self.core.layout.size,
            logical_block_size: 512,
            physical_block_size: 4096,
            read_only: self.core.options.read_only,
        }
    }

    fn read(&self, offset: u64, buffer: &mut [u8], _tags: &[IoTag]) -> Result<()> {
        self.core.check(Operation::Read, offset, length_of(buffer))?;
        let mut rest = buffer;
        for chunk in Chunk::all(offset, length_of(rest)) {
            let (bytes, behind) = rest.split_at_mut(chunk.length);
            self.core.read_chunk(chunk, bytes).map_err(|error| error.at(offset, length_of(bytes)))?;
            rest = behind;
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8], tags: &[IoTag]) -> Result<()> {
        self.core.check(Operation::Write, offset, length_of(data))?;
        let first = u32::try_from(offset / BLOCK as u64).unwrap_or(u32::MAX);
        let mut rest = data;
        for chunk in Chunk::all(offset, length_of(data)) {
            let (bytes, behind) = rest.split_at(chunk.length);
            rest = behind;
            let tags = tags.get((chunk.first - first) as usize..).unwrap_or_default();
            self.core.write_chunk(chunk, bytes, tags).map_err(|error| error.at(offset, length_of(data)))?;
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        if self.core.options.read_only {
            return Ok(());
        }
        self.core.check_usable(Operation::Flush)?;
        count(&self.core.counters.flushes, 1);
        self.core.make_durable()
    }

    fn discard(&self, offset: u64, length: u64) -> Result<()> {
        self.core.zero(Operation::Discard, offset, length).map_err(|error| error.at(offset, length))
    }

    fn write_zeroes(&self, offset: u64, length: u64, _unmap: bool) -> Result<()> {
        self.core.zero(Operation::WriteZeroes, offset, length).map_err(|error| error.at(offset, length))
    }
}
