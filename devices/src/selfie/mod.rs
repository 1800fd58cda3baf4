//! Selfie: a disk image whose blocks carry their own mapping, so that a synchronous write that allocates costs one
//! write and one flush. After Wu, Shao and Jiang, "Selfie: Co-locating Metadata and Data to Enable Fast Virtual Block
//! Devices", SYSTOR 2015; `docs/selfie-format.md` says what is different, and why.
//!
//! ```text
//!   read, write ──▶ map ──▶ place in the image ─────────────────────────▶ Storage
//!                    │ none                      one write: header + LZ4(block), more blocks
//!                    ├──▶ zones: a cluster of zeros ─▶ Z zone ────────────▲
//!                    │                              └▶ N zone: the block does not compress
//!                    ▼                                  │
//!                  dirty tables ◀───────────────────────┘
//!   flush ─────────▶ tables ─▶ sync
//! ```
//!
//! - [`format`] is what lies in the image, `map` and `zones` what is kept in memory of it.
//! - `load` reads an image, also after a crash; `check` says what is wrong with one.
//! - `write`, `read`, `flush` and `commit` are the engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::block::{BlockDevice, Error, ErrorKind, Geometry, Operation, Result, Storage, check_range};
use crate::io_class::IoTag;

mod check;
mod commit;
mod create;
mod dump;
mod flush;
mod format;
mod hold;
mod info;
mod leaks;
mod load;
mod locks;
mod map;
mod options;
mod read;
mod worker;
mod write;
mod zones;

pub use check::{CheckReport, check};
pub use create::{create, rebase, superblock};
pub use dump::{
    EntryDump, L1Dump, SuperblockDump, ZoneDump, dump_header, dump_l1, dump_l2, dump_superblocks, dump_zones,
};
pub use format::{Backing, BackingFormat, Flags, Identity, Superblock};
pub use info::{Extent, ExtentKind, Info, Stats};
pub use leaks::Leaks;
pub use load::Problem;
pub use options::{Chore, CreateOptions, OpenOptions, Summaries, Zeroing};

use flush::Flushing;
use format::{Cluster, Layout, Secret};
use info::Counters;
use locks::Locks;
use map::Map;
use worker::Worker;
use zones::Zones;

/// An open image.
pub struct Selfie {
    core: Arc<Core>,
    worker: Option<Worker>,
}

/// What all its users, and its own thread, share.
struct Core {
    storage: Arc<dyn Storage>,
    backing: Option<Arc<dyn BlockDevice>>,
    /// Bytes of the backing image, from its beginning, that are seen.
    below: u64,
    options: OpenOptions,
    /// As it lies in the image.
    superblock: Mutex<Superblock>,
    /// Of it, what never changes.
    secret: Secret,
    layout: Layout,
    size: AtomicU64,
    /// Blocks may carry mappings: the medium writes them atomically.
    embeds: bool,
    map: Map,
    zones: Zones,
    locks: Locks,
    flushing: Flushing,
    /// Held while summaries are written.
    committing: Mutex<()>,
    /// The last number that an allocation was given.
    sequence: AtomicU64,
    /// The medium has failed in a way that leaves its content unknown: nothing is written any more.
    failed: Arc<AtomicBool>,
    /// When something was written last, in the worker's count.
    activity: AtomicU64,
    counters: Counters,
}

impl std::fmt::Debug for Selfie {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Selfie").field("storage", &self.core.storage).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Selfie {
    /// Opens an image. One that was not closed is recovered first, in memory only if `read_only`.
    ///
    /// `backing` is the disk below, which the caller has opened as the [`superblock`] says; an image with a backing
    /// image cannot be opened without.
    ///
    /// # Errors
    /// [`ErrorKind::NotThisFormat`], [`ErrorKind::TooNew`], [`ErrorKind::Corrupt`] for an image that cannot be used,
    /// [`ErrorKind::Backing`] for the wrong `backing`, or the medium failed.
    pub fn open(
        storage: Arc<dyn Storage>,
        options: OpenOptions,
        backing: Option<Arc<dyn BlockDevice>>,
    ) -> Result<Self> {
        let invalid = |why: &str| Err(Error::new(ErrorKind::Invalid, Operation::Open).because(why));
        if options.tolerant && !options.read_only {
            return invalid("what is read in spite of its faults is not written");
        }
        if storage.properties().read_only && !options.read_only {
            return Err(Error::new(ErrorKind::ReadOnly, Operation::Open));
        }
        let mut superblock = superblock(&*storage)?;
        if superblock.flags.corrupt && !options.read_only {
            let why = "it is marked so; open it read-only, or repair it";
            return Err(Error::new(ErrorKind::Corrupt, Operation::Open).because(why));
        }
        match (&superblock.backing, &backing) {
            (Some(_), None) => {
                let why = "the image was made over another one, which was not given";
                return Err(Error::new(ErrorKind::Backing, Operation::Open).because(why));
            }
            (None, Some(_)) => return invalid("the image has no backing image"),
            _ => {}
        }
        if !options.read_only && superblock.flags.dirty {
            // What recovery sees has to stay, whatever happens next.
            storage.sync()?;
        }
        let loaded = load::load(&*storage, &superblock)?;
        if let (Some(problem), false) = (loaded.problems.first(), options.tolerant) {
            return Err(Error::new(ErrorKind::Corrupt, Operation::Open).because(problem.to_string()));
        }
        if loaded.sequence >= format::LAST_SEQUENCE && !options.read_only {
            let why = "it has numbered its last allocation";
            return Err(Error::new(ErrorKind::Corrupt, Operation::Open).because(why));
        }
        if !options.read_only {
            loaded.stray.iter().try_for_each(|&at| storage.write(at, &[0; format::BLOCK]))?;
            superblock.flags.dirty = true;
            superblock.generation += 1;
            superblock.autoclear = 0;
            create::write_superblock(&*storage, &mut superblock)?;
        }
        let atomic = storage.properties().atomic_write as usize >= format::BLOCK;
        let failed = Arc::new(AtomicBool::new(false));
        let zones =
            Zones::new(superblock.layout, Arc::clone(&storage), Arc::clone(&failed), &options, loaded.zones);
        let reach = superblock.backing.as_ref().map_or(0, |backing| backing.reach);
        let below = backing.as_ref().map_or(0, |backing| backing.geometry().size.min(reach));
        let core = Arc::new(Core {
            backing,
            below,
            size: AtomicU64::new(superblock.size),
            secret: superblock.secret.clone(),
            layout: superblock.layout,
            superblock: Mutex::new(superblock),
            embeds: atomic && options.embed,
            map: loaded.map,
            zones,
            locks: Locks::default(),
            flushing: Flushing::default(),
            committing: Mutex::default(),
            sequence: AtomicU64::new(loaded.sequence),
            failed,
            activity: AtomicU64::new(0),
            counters: Counters::default(),
            storage,
            options,
        });
        let worker = (core.options.background && !core.options.read_only)
            .then(|| Worker::start(&core))
            .transpose()
            .map_err(|error| Error::from_io(Operation::Open, error))?;
        Ok(Self { core, worker })
    }

    /// Makes everything durable and closes the image, so that it need not be recovered. An image that is only
    /// dropped is recovered when it is opened next.
    ///
    /// # Errors
    /// The medium failed; the image is recovered next time.
    pub fn close(mut self) -> Result<()> {
        self.shut()
    }

    fn shut(&mut self) -> Result<()> {
        self.worker = None;
        let core = &self.core;
        if core.options.read_only {
            return Ok(());
        }
        core.flush()?;
        core.commit(true)?;
        core.zones.reap()?;
        core.zones.write_open()?;
        core.sync()?;
        let mut superblock = lock(&core.superblock);
        superblock.flags.dirty = false;
        create::write_superblock(&*core.storage, &mut superblock)
    }

    /// Does what the image's own thread would do, at a moment that the caller chooses.
    ///
    /// # Errors
    /// The medium failed or is full; the disk is as it was.
    pub fn chore(&self, chore: Chore) -> Result<()> {
        self.core.check_usable(Operation::Write)?;
        self.core.chore(chore)
    }

    /// Makes the disk larger.
    ///
    /// # Errors
    /// [`ErrorKind::BadSize`] for a size that is smaller, beyond what the image was made for, or no multiple of 512.
    pub fn resize(&self, size: u64) -> Result<()> {
        let core = &self.core;
        core.check_usable(Operation::Write)?;
        let mut superblock = lock(&core.superblock);
        if size < superblock.size || size > superblock.max_size || !size.is_multiple_of(512) {
            let why = format!("a size from {} to {} bytes is possible", superblock.size, superblock.max_size);
            return Err(Error::new(ErrorKind::BadSize, Operation::Write).because(why));
        }
        let old = std::mem::replace(&mut superblock.size, size);
        if let Err(error) = create::write_superblock(&*core.storage, &mut superblock) {
            superblock.size = old;
            return Err(error);
        }
        core.size.store(size, Ordering::Release);
        Ok(())
    }
}

fn failed(operation: Operation) -> Error {
    Error::new(ErrorKind::Poisoned, operation)
}

impl Core {
    fn check_usable(&self, operation: Operation) -> Result<()> {
        if self.options.read_only {
            return Err(Error::new(ErrorKind::ReadOnly, operation));
        }
        if self.failed.load(Ordering::Acquire) {
            return Err(failed(operation));
        }
        Ok(())
    }

    fn check(&self, operation: Operation, offset: u64, length: u64) -> Result<()> {
        if operation != Operation::Read {
            self.check_usable(operation).map_err(|error| error.at(offset, length))?;
        }
        check_range(operation, self.size.load(Ordering::Acquire), offset, length)
    }

    /// Makes what was written durable.
    fn sync(&self) -> Result<()> {
        self.counters.syncs.fetch_add(1, Ordering::Relaxed);
        self.storage.sync().inspect_err(|_| self.failed.store(true, Ordering::Release))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.counters.write(data.len());
        self.storage.write(offset, data)
    }

    fn next_sequence(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn has_backing(&self) -> bool {
        self.backing.is_some()
    }
}

impl BlockDevice for Selfie {
    fn geometry(&self) -> Geometry {
        Geometry {
            size: self.core.size.load(Ordering::Acquire),
            logical_block_size: 512,
            physical_block_size: 4096,
            read_only: self.core.options.read_only,
        }
    }

    fn read(&self, offset: u64, buffer: &mut [u8], _tags: &[IoTag]) -> Result<()> {
        self.core.check(Operation::Read, offset, buffer.len() as u64)?;
        self.core.read(offset, buffer).map_err(|error| error.at(offset, buffer.len() as u64))
    }

    fn write(&self, offset: u64, data: &[u8], _tags: &[IoTag]) -> Result<()> {
        self.core.check(Operation::Write, offset, data.len() as u64)?;
        self.core.write(offset, data).map_err(|error| error.at(offset, data.len() as u64))?;
        self.wake();
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        if self.core.options.read_only {
            return Ok(());
        }
        self.core.flush()
    }

    fn discard(&self, offset: u64, length: u64) -> Result<()> {
        self.core.check(Operation::Discard, offset, length)?;
        self.core.discard(offset, length).map_err(|error| error.at(offset, length))
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> Result<()> {
        self.core.check(Operation::WriteZeroes, offset, length)?;
        self.core.write_zeroes(offset, length, unmap).map_err(|error| error.at(offset, length))
    }
}

impl Selfie {
    /// The worker looks whether there is something for it to do.
    fn wake(&self) {
        if let Some(worker) = &self.worker {
            worker.wake(&self.core);
        }
    }
}

#[cfg(test)]
mod tests;
