//! A simulated disk: counts what is done to it, tells how long that would take, fails when asked to, and shows every
//! state that a power failure may leave it in.
//!
//! It is for tests and benchmarks. Times are simulated and called so wherever they are told.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use self::crash::Change;
use self::fault::ArmedFault;
use self::latency::Clock;
use self::sparse::Sparse;
use super::counts::Counters;
use super::range::{check_range, length_of, to_u64};
use super::{Error, ErrorKind, Operation, Result, Storage, StorageCounts, StorageProperties};

mod crash;
mod fault;
mod latency;
mod random;
mod sparse;

pub use crash::{BadChoice, Choice, CrashPoint, History};
pub use fault::{Fault, FaultKind, FaultOn};
pub use latency::{Arm, Cost, Latency, Seek};
pub use random::Random;

/// What a simulated disk is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimulatedOptions {
    /// Bytes that it has at first.
    pub size: u64,
    /// Bytes that it can grow to; nothing if it is a disk rather than a file.
    pub capacity: Option<u64>,
    /// Offsets and lengths of requests are multiples of this many bytes.
    pub alignment: u32,
    /// Bytes that it writes entirely or not at all, a power of two: writes are torn at multiples of it.
    pub atomic_write: u32,
    /// It gives space back when it is asked to.
    pub holes: bool,
    /// How long it takes.
    pub latency: Latency,
    /// Keep a history, which takes memory for everything that is ever written.
    pub record: bool,
}

impl SimulatedOptions {
    /// An empty file on a disk with sectors of 512 bytes that are written 4096 bytes at a time.
    #[must_use]
    pub fn file() -> Self {
        Self {
            size: 0,
            capacity: Some(u64::MAX),
            alignment: 512,
            atomic_write: 4096,
            holes: true,
            latency: Latency::ssd(),
            record: true,
        }
    }
}

/// A [`Storage`] in memory. What is zero takes no memory, so a large disk with little on it is small.
pub struct SimulatedDisk {
    options: SimulatedOptions,
    state: Mutex<State>,
    counters: Counters,
}

struct State {
    content: Sparse,
    size: u64,
    start: Sparse,
    start_size: u64,
    changes: Vec<Change>,
    faults: Vec<ArmedFault>,
    clock: Clock,
    poisoned: bool,
}

impl SimulatedDisk {
    /// A disk of zeros.
    #[must_use]
    pub fn new(options: SimulatedOptions) -> Self {
        Self::holding(options, Sparse::default(), options.size)
    }

    fn holding(options: SimulatedOptions, content: Sparse, size: u64) -> Self {
        let state = State {
            start: content.clone(),
            content,
            size,
            start_size: size,
            changes: Vec::new(),
            faults: Vec::new(),
            clock: Clock::default(),
            poisoned: false,
        };
        Self { options, state: Mutex::new(state), counters: Counters::default() }
    }

    /// What was done to it so far.
    #[must_use]
    pub fn counts(&self) -> StorageCounts {
        self.counters.counts()
    }

    /// The simulated time that this took, one request after the other.
    #[must_use]
    pub fn simulated_time(&self) -> Duration {
        self.lock().clock.now()
    }

    /// Bytes of memory for what it holds now, without its history.
    #[must_use]
    pub fn kept(&self) -> u64 {
        self.lock().content.kept()
    }

    /// Everything that happened to it.
    #[must_use]
    pub fn history(&self) -> History {
        let state = self.lock();
        History {
            options: self.options,
            start: state.start.clone(),
            start_size: state.start_size,
            changes: state.changes.clone(),
        }
    }

    /// How many changes its history holds now.
    #[must_use]
    pub fn position(&self) -> usize {
        self.lock().changes.len()
    }

    /// Another disk that holds what this one holds now, all of it durable, without its history and faults.
    #[must_use]
    pub fn copy(&self) -> Self {
        self.copy_as(self.options)
    }

    /// The same, but the other disk is like `options` say, apart from its size.
    #[must_use]
    pub fn copy_as(&self, options: SimulatedOptions) -> Self {
        let state = self.lock();
        Self::holding(options, state.content.clone(), state.size)
    }

    /// Makes some later operation fail. Several faults count separately.
    pub fn inject(&self, fault: Fault) {
        self.lock().faults.push(ArmedFault::new(fault));
    }

    /// Takes all faults out again. A failed sync stays what it is.
    pub fn clear_faults(&self) {
        self.lock().faults.clear();
    }

    // Nothing under the lock panics between two assignments that belong together.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, state: &State, operation: Operation, offset: u64, length: u64) -> Result<()> {
        check_range(operation, state.size, offset, length)?;
        let alignment = u64::from(self.options.alignment);
        if offset.is_multiple_of(alignment) && length.is_multiple_of(alignment) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Invalid, operation).at(offset, length).because("not aligned"))
    }

    /// Puts down a change that was made.
    fn record(&self, state: &mut State, change: impl FnOnce() -> Change) {
        if self.options.record {
            state.changes.push(change());
        }
    }

    fn write_now(&self, state: &mut State, offset: u64, data: &[u8]) {
        state.content.write(offset, data);
        self.record(state, || Change::write(offset, data));
    }

    /// Writes every second part that the disk writes atomically.
    fn write_in_part(&self, state: &mut State, offset: u64, data: &[u8]) {
        let unit = u64::from(self.options.atomic_write);
        let end = offset.saturating_add(length_of(data));
        let mut from = offset;
        while from < end {
            let to = ((from / unit + 1) * unit).min(end);
            if (from / unit).is_multiple_of(2) {
                let index = |position: u64| usize::try_from(position - offset).unwrap_or(usize::MAX);
                self.write_now(state, from, &data[index(from)..index(to)]);
            }
            from = to;
        }
    }
}

impl State {
    fn fault(&mut self, on: FaultOn) -> Option<Fault> {
        // Each of them counts, also after one has failed the operation.
        self.faults.iter_mut().fold(None, |found, fault| fault.meet(on).or(found))
    }

    /// Fails a change of a poisoned disk, or one that a fault has waited for.
    fn start_change(&mut self, on: FaultOn, operation: Operation, offset: u64, length: u64) -> Result<()> {
        if self.poisoned {
            return Err(Error::new(ErrorKind::Poisoned, operation).at(offset, length));
        }
        match self.fault(on) {
            Some(fault) => Err(Error::from_io(operation, fault.error()).at(offset, length)),
            None => Ok(()),
        }
    }
}

impl Storage for SimulatedDisk {
    fn properties(&self) -> StorageProperties {
        StorageProperties {
            alignment: self.options.alignment,
            atomic_write: self.options.atomic_write,
            growable: self.options.capacity.is_some(),
            read_only: false,
        }
    }

    fn size(&self) -> u64 {
        self.lock().size
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.read_many(&mut [(offset, buffer)])
    }

    fn read_many(&self, requests: &mut [(u64, &mut [u8])]) -> Result<()> {
        let mut state = self.lock();
        for (offset, buffer) in requests.iter_mut() {
            let length = length_of(buffer);
            self.check(&state, Operation::Read, *offset, length)?;
            if let Some(fault) = state.fault(FaultOn::Read) {
                return Err(Error::from_io(Operation::Read, fault.error()).at(*offset, length));
            }
            state.content.read(*offset, buffer);
            self.counters.read(length);
        }
        let ranges = requests.iter().map(|(offset, buffer)| (*offset, length_of(buffer)));
        state.clock.read_batch(&self.options.latency, ranges);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let length = length_of(data);
        let mut state = self.lock();
        self.check(&state, Operation::Write, offset, length)?;
        if state.poisoned {
            return Err(Error::new(ErrorKind::Poisoned, Operation::Write).at(offset, length));
        }
        if let Some(fault) = state.fault(FaultOn::Write) {
            if fault.partial {
                self.write_in_part(&mut state, offset, data);
            }
            return Err(Error::from_io(Operation::Write, fault.error()).at(offset, length));
        }
        self.write_now(&mut state, offset, data);
        state.clock.write(&self.options.latency, offset, length);
        self.counters.write(length);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        let mut state = self.lock();
        self.counters.sync();
        let size = state.size;
        if let Err(error) = state.start_change(FaultOn::Sync, Operation::Flush, 0, size) {
            state.poisoned = true;
            return Err(error);
        }
        self.record(&mut state, || Change::Sync);
        state.clock.flush(&self.options.latency);
        self.counters.flush();
        Ok(())
    }

    fn punch(&self, offset: u64, length: u64) -> Result<bool> {
        let mut state = self.lock();
        check_range(Operation::Discard, state.size, offset, length)?;
        state.start_change(FaultOn::Punch, Operation::Discard, offset, length)?;
        if !self.options.holes {
            return Ok(false);
        }
        state.content.zero(offset, length);
        self.record(&mut state, || Change::Punch { offset, length });
        self.counters.punch();
        Ok(true)
    }

    fn allocated(&self, offset: u64, length: u64) -> Result<Option<u64>> {
        let state = self.lock();
        check_range(Operation::Read, state.size, offset, length)?;
        Ok(self.options.holes.then(|| state.content.kept_in(offset, length)))
    }

    fn grow(&self, size: u64) -> Result<()> {
        let mut state = self.lock();
        if size <= state.size {
            return Ok(());
        }
        let (now, more) = (state.size, size - state.size);
        let refuse = |kind| Err(Error::new(kind, Operation::Grow).at(now, more));
        match self.options.capacity {
            None => return refuse(ErrorKind::Unsupported),
            Some(capacity) if size > capacity => return refuse(ErrorKind::NoSpace),
            Some(_) => {}
        }
        state.start_change(FaultOn::Grow, Operation::Grow, now, more)?;
        state.size = size;
        self.record(&mut state, || Change::Grow { size });
        self.counters.grow();
        Ok(())
    }
}

impl fmt::Debug for SimulatedDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("SimulatedDisk")
            .field("size", &state.size)
            .field("changes", &to_u64(state.changes.len()))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
