//! A regular file or a host block device as [`Storage`].
//!
//! The file is locked while it is open, so that two machines cannot write one image. Requests go past the host's page
//! cache unless told otherwise: the guest has one already. A failed sync ends all writing.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use vmm_sys_util::fallocate::{FallocateMode, fallocate};

use self::aligned::{BufferPool, LARGEST};
use self::durability::{Durability, SyncError};
use self::limits::Alignment;
use self::open::Opened;
use self::ring::Rings;
use super::counts::Counters;
use super::lock::LockedFile;
use super::range::{check_range, length_of, to_u64};
use super::{Error, ErrorKind, Operation, Result, Storage, StorageCounts, StorageProperties};

mod aligned;
mod durability;
mod limits;
mod open;
mod options;
mod ring;
mod space;

pub use options::{Cache, FileOptions};

/// Threads that serve many requests where io_uring is refused, or does not help.
const THREADS: usize = 8;

/// An open and locked file.
#[derive(Debug)]
pub struct FileStorage {
    file: LockedFile,
    path: PathBuf,
    properties: StorageProperties,
    cache: Cache,
    size: AtomicU64,
    /// Held while the file grows, so that of two who want more the smaller wish does not come last.
    growing: Mutex<()>,
    buffers: BufferPool,
    rings: Rings,
    durability: Durability,
    counters: Counters,
}

impl FileStorage {
    /// Opens and locks a file: exclusively for a writer, shared with other readers when read-only.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::Permission`], [`ErrorKind::NotAFile`] or [`ErrorKind::Io`] if the file
    /// cannot be used, [`ErrorKind::Locked`] if another instance has it open.
    pub fn open(options: FileOptions) -> Result<Self> {
        let opened = open::open(&options, false)?;
        Self::over(opened, options)
    }

    /// Makes an empty file, opens and locks it. The file itself, if not its bytes, is durable then.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if something is there already, else as [`open`](Self::open).
    pub fn create(options: FileOptions) -> Result<Self> {
        let options = FileOptions { read_only: false, ..options };
        let opened = open::open(&options, true)?;
        let parent = options.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))
            .and_then(|directory| directory.sync_all())
            .map_err(|error| Error::from_io(Operation::Flush, error).on(&options.path))?;
        Self::over(opened, options)
    }

    fn over(opened: Opened, options: FileOptions) -> Result<Self> {
        let Opened { mut file, regular, direct } = opened;
        let FileOptions { path, read_only, cache: _, atomic_write } = options;
        if atomic_write.is_some_and(|bytes| bytes < 512 || !bytes.is_power_of_two()) {
            return Err(Error::new(ErrorKind::Invalid, Operation::Open)
                .on(&path)
                .because("what is written atomically must be a power of two of at least 512 bytes"));
        }
        // The metadata of a block device says zero bytes; its end is where seeking ends.
        let size =
            file.seek(SeekFrom::End(0)).map_err(|error| Error::from_io(Operation::Open, error).on(&path))?;
        let cache = if direct.is_some() { Cache::Direct } else { Cache::Buffered };
        let Alignment { offset, memory } = direct.unwrap_or(Alignment { offset: 1, memory: 1 });
        let properties = StorageProperties {
            alignment: offset,
            atomic_write: atomic_write.unwrap_or_else(|| limits::atomic_write(&file, regular)),
            growable: regular && !read_only,
            read_only,
        };
        let memory_alignment = usize::try_from(memory).unwrap_or(4096);
        Ok(Self {
            file,
            path,
            properties,
            cache,
            size: AtomicU64::new(size),
            growing: Mutex::new(()),
            buffers: BufferPool::new(memory_alignment),
            rings: Rings::new(memory_alignment),
            durability: Durability::new(),
            counters: Counters::default(),
        })
    }

    /// Whether the page cache takes part, which is not always as asked for.
    #[must_use]
    pub fn cache(&self) -> Cache {
        self.cache
    }

    /// The path that it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Another descriptor of the open file, whose lock ends with this one all the same.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(crate) fn duplicate(&self) -> Result<File> {
        self.file.try_clone().map_err(|error| Error::from_io(Operation::Open, error).on(&self.path))
    }

    /// What it has done so far. A read or write counts once for each system call.
    #[must_use]
    pub fn counts(&self) -> StorageCounts {
        self.counters.counts()
    }

    /// Puts another `fdatasync` in place of the kernel's.
    #[cfg(test)]
    pub(super) fn replace_sync(&mut self, make: fn(&File) -> io::Result<()>) {
        self.durability.make = make;
    }

    fn failed(&self, operation: Operation, offset: u64, length: u64, cause: io::Error) -> Error {
        Error::from_io(operation, cause).at(offset, length).on(&self.path)
    }

    fn refused(&self, kind: ErrorKind, operation: Operation, offset: u64, length: u64) -> Error {
        Error::new(kind, operation).at(offset, length).on(&self.path)
    }

    fn check(&self, operation: Operation, offset: u64, length: u64) -> Result<()> {
        check_range(operation, self.size(), offset, length).map_err(|error| error.on(&self.path))?;
        let alignment = u64::from(self.properties.alignment);
        if offset.is_multiple_of(alignment) && length.is_multiple_of(alignment) {
            return Ok(());
        }
        let error = self.refused(ErrorKind::Invalid, operation, offset, length);
        Err(error.because(format!("offset and length must be multiples of {alignment}")))
    }

    /// Refuses a change of a read-only or poisoned file.
    fn check_writable(&self, operation: Operation, offset: u64, length: u64) -> Result<()> {
        if self.properties.read_only {
            return Err(self.refused(ErrorKind::ReadOnly, operation, offset, length));
        }
        if self.durability.is_poisoned() {
            return Err(self.refused(ErrorKind::Poisoned, operation, offset, length));
        }
        Ok(())
    }

    /// Makes `length` bytes from byte `offset` read as zeros without writing them: as a hole that takes no space, or
    /// in the space that they take. Says false, with the bytes as they were, where the medium cannot.
    pub(super) fn zero(&self, operation: Operation, hole: bool, offset: u64, length: u64) -> Result<bool> {
        self.check_writable(operation, offset, length)?;
        check_range(operation, self.size(), offset, length).map_err(|error| error.on(&self.path))?;
        if length == 0 {
            return Ok(true);
        }
        loop {
            let mode = if hole { FallocateMode::PunchHole } else { FallocateMode::ZeroRange };
            let Err(error) = fallocate(&*self.file, mode, true, offset, length) else {
                self.counters.punch();
                return Ok(true);
            };
            match error.errno() {
                libc::EINTR => {}
                // Block devices answer EINVAL for ranges that are no multiple of their own block size.
                libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV | libc::EINVAL => return Ok(false),
                _ => return Err(self.failed(operation, offset, length, error.into())),
            }
        }
    }

    /// Writes by direct calls and, if the caller's memory is not aligned, from memory that is.
    fn write_pieces(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let write = |data: &[u8], offset| {
            self.counters.write(length_of(data));
            self.file.write_all_at(data, offset)
        };
        if self.buffers.accepts(data) {
            return write(data, offset);
        }
        data.chunks(LARGEST).enumerate().try_for_each(|(index, piece)| {
            self.buffers.lend(piece.len(), |memory| {
                memory.copy_from_slice(piece);
                write(memory, offset + to_u64(index * LARGEST))
            })
        })
    }

    fn read_pieces(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let read = |buffer: &mut [u8], offset| {
            self.counters.read(length_of(buffer));
            self.file.read_exact_at(buffer, offset)
        };
        if self.buffers.accepts(buffer) {
            return read(buffer, offset);
        }
        buffer.chunks_mut(LARGEST).enumerate().try_for_each(|(index, piece)| {
            self.buffers.lend(piece.len(), |memory| {
                read(memory, offset + to_u64(index * LARGEST))?;
                piece.copy_from_slice(memory);
                Ok(())
            })
        })
    }

    /// Serves each request by one of a few threads. Where none can be had, the caller's does it all.
    fn by_threads<R: Send>(
        &self,
        operation: Operation,
        requests: impl ExactSizeIterator<Item = R> + Send,
        serve: impl Fn(R) -> Result<()> + Sync,
    ) -> Result<()> {
        let threads = THREADS.min(requests.len());
        let queue = Mutex::new(requests);
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = || -> Result<()> {
            while let Some(request) = next() {
                serve(request)?;
            }
            Ok(())
        };
        thread::scope(|scope| {
            let others: Vec<_> =
                (1..threads).filter_map(|_| thread::Builder::new().spawn_scoped(scope, work).ok()).collect();
            let own = work();
            let panicked = |_| Err(self.refused(ErrorKind::Io, operation, 0, 0));
            others.into_iter().map(|other| other.join().unwrap_or_else(panicked)).fold(own, Result::and)
        })
    }
}

impl Storage for FileStorage {
    fn properties(&self) -> StorageProperties {
        self.properties
    }

    fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let length = length_of(buffer);
        self.check(Operation::Read, offset, length)?;
        self.read_pieces(offset, buffer).map_err(|error| self.failed(Operation::Read, offset, length, error))
    }

    fn read_many(&self, requests: &mut [(u64, &mut [u8])]) -> Result<()> {
        for (offset, buffer) in requests.iter() {
            self.check(Operation::Read, *offset, length_of(buffer))?;
        }
        if requests.len() > THREADS && self.rings.are_refused() {
            return self.by_threads(Operation::Read, requests.iter_mut(), |(offset, buffer)| {
                self.read(*offset, buffer)
            });
        }
        self.read_each(requests, &mut |_, _| Ok(()))
    }

    fn read_each(
        &self,
        requests: &mut [(u64, &mut [u8])],
        arrived: &mut dyn FnMut(usize, &mut [u8]) -> Result<()>,
    ) -> Result<()> {
        for (offset, buffer) in requests.iter() {
            self.check(Operation::Read, *offset, length_of(buffer))?;
        }
        let mut result = Ok(());
        let mut seen = |number: usize, buffer: &mut [u8]| {
            self.counters.read(length_of(buffer));
            if result.is_ok() {
                result = arrived(number, buffer);
            }
        };
        let unread = match if requests.len() > 1 { self.rings.take() } else { None } {
            Some(mut ring) => {
                let unread = ring.read(&self.file, requests, &mut seen);
                self.rings.give(ring);
                unread
            }
            None => (0..requests.len()).collect(),
        };
        result?;
        for number in unread {
            let Some((offset, buffer)) = requests.get_mut(number) else { continue };
            self.read(*offset, buffer)?;
            arrived(number, buffer)?;
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let length = length_of(data);
        self.check_writable(Operation::Write, offset, length)?;
        self.check(Operation::Write, offset, length)?;
        self.write_pieces(offset, data).map_err(|error| self.failed(Operation::Write, offset, length, error))
    }

    fn write_many(&self, pieces: &[(u64, &[u8])]) -> Result<()> {
        if pieces.len() > THREADS {
            return self
                .by_threads(Operation::Write, pieces.iter(), |(offset, data)| self.write(*offset, data));
        }
        pieces.iter().try_for_each(|(offset, data)| self.write(*offset, data))
    }

    /// One `fdatasync` serves all callers that came before it began.
    fn sync(&self) -> Result<()> {
        if self.properties.read_only {
            return Ok(());
        }
        self.durability.sync(&self.file, &self.counters).map_err(|error| {
            match error {
                SyncError::Failed(cause) => Error::from_io(Operation::Flush, cause),
                SyncError::Poisoned => Error::new(ErrorKind::Poisoned, Operation::Flush),
            }
            .on(&self.path)
        })
    }

    fn punch(&self, offset: u64, length: u64) -> Result<bool> {
        self.zero(Operation::Discard, true, offset, length)
    }

    fn allocate(&self, offset: u64, length: u64) -> Result<bool> {
        self.zero(Operation::WriteZeroes, false, offset, length)
    }

    fn allocated(&self, offset: u64, length: u64) -> Result<Option<u64>> {
        self.data_in(offset, length)
    }

    fn grow(&self, size: u64) -> Result<()> {
        let _alone = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.size();
        if size <= now {
            return Ok(());
        }
        let more = size - now;
        self.check_writable(Operation::Grow, now, more)?;
        if !self.properties.growable {
            return Err(self.refused(ErrorKind::Unsupported, Operation::Grow, now, more));
        }
        self.file.set_len(size).map_err(|error| self.failed(Operation::Grow, now, more, error))?;
        self.counters.grow();
        self.size.store(size, Ordering::Release);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
