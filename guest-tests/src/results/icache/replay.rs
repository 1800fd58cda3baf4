//! Caches before simulated disks, and the simulated time that a trace takes on them.
//!
//! ```text
//!   requests ──▶ ours: the real engine, told the class of each block ──▶ the same two
//!            └─▶ theirs: a policy that knows no classes              ──▶ simulated disks
//! ```
//!
//! Both do one thing after the other: what is there is read from the fast tier block by block, what is missing from the slow
//! tier in one piece as far as it lies side by side, and is then written to the fast one. Ours writes its journal besides.

use std::sync::Arc;

use sky_devices::block::simulated::{Latency, SimulatedDisk, SimulatedOptions};
use sky_devices::block::{self, BlockDevice, Geometry, Storage};
use sky_devices::icache::{ICache, OpenOptions, create};
use sky_devices::io_class::{BLOCK_SIZE, IoClass, IoTag};
use sky_devices::policy::ClassId;

use super::policies::{Classless, Policy};
use super::trace::{BLOCK, Request, Trace};
use crate::error::{Error, Result};

/// The class of metadata in the paper's table.
pub(super) const METADATA: u8 = 5;

/// What the disks are like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Disks {
    pub(super) fast: Latency,
    pub(super) slow: Latency,
}

/// A cache, and how long its disks were busy.
pub(super) trait System {
    fn request(&mut self, request: Request) -> Result<()>;

    /// Simulated seconds so far.
    fn seconds(&self) -> f64;

    /// Blocks that were found so far.
    fn hits(&self) -> u64;
}

fn disk(size: u64, latency: Latency) -> Arc<SimulatedDisk> {
    let options =
        SimulatedOptions { size, capacity: None, latency, record: false, ..SimulatedOptions::file() };
    Arc::new(SimulatedDisk::new(options))
}

pub(super) fn failed(error: block::Error) -> Error {
    Error::Missing(format!("a disk of the benchmark: {error}"))
}

fn bytes(blocks: u32) -> usize {
    blocks as usize * BLOCK_SIZE
}

/// A simulated disk as one that guests could use.
#[derive(Debug)]
struct Slow(Arc<SimulatedDisk>);

impl BlockDevice for Slow {
    fn geometry(&self) -> Geometry {
        Geometry { size: self.0.size(), logical_block_size: 512, physical_block_size: 4096, read_only: false }
    }

    fn read(&self, offset: u64, buffer: &mut [u8], _tags: &[IoTag]) -> block::Result<()> {
        self.0.read(offset, buffer)
    }

    fn write(&self, offset: u64, data: &[u8], _tags: &[IoTag]) -> block::Result<()> {
        self.0.write(offset, data)
    }

    fn flush(&self) -> block::Result<()> {
        self.0.sync()
    }

    fn discard(&self, offset: u64, length: u64) -> block::Result<()> {
        self.0.punch(offset, length).map(drop)
    }

    fn write_zeroes(&self, offset: u64, length: u64, _unmap: bool) -> block::Result<()> {
        self.0.punch(offset, length).map(drop)
    }
}

/// Our cache.
pub(super) struct Ours {
    fast: Arc<SimulatedDisk>,
    slow: Arc<SimulatedDisk>,
    cache: ICache,
    tags: Vec<IoTag>,
    buffer: Vec<u8>,
}

impl Ours {
    /// On a fast tier of `size` bytes, empty.
    pub(super) fn new(size: u64, trace: &Trace, disks: Disks) -> Result<Self> {
        let slow = disk(u64::from(trace.blocks()) * BLOCK, disks.slow);
        let fast = disk(size, disks.fast);
        create(&*fast, slow.size()).map_err(failed)?;
        // Policies without classes have no cut-off either.
        let options = OpenOptions { sequential: None, ..OpenOptions::default() };
        let cache =
            ICache::open(Arc::clone(&fast) as Arc<dyn Storage>, Arc::new(Slow(Arc::clone(&slow))), options);
        let tags = trace.classes.iter().map(|&class| tag(class)).collect();
        Ok(Self { fast, slow, cache: cache.map_err(failed)?, tags, buffer: Vec::new() })
    }

    /// Blocks that it holds at most.
    pub(super) fn capacity(&self) -> u32 {
        self.cache.stats().capacity
    }
}

/// What Sky would say of a block of that class.
pub(super) fn tag(class: u8) -> IoTag {
    let kind = if class == METADATA { IoClass::Metadata } else { IoClass::Data };
    IoTag { class: kind, class_id: ClassId::new(class).unwrap_or_default(), ..IoTag::default() }
}

impl System for Ours {
    fn request(&mut self, request: Request) -> Result<()> {
        let Self { cache, tags, buffer, .. } = self;
        let tags = &tags[request.first as usize..(request.first + request.count) as usize];
        let offset = u64::from(request.first) * BLOCK;
        buffer.resize(bytes(request.count), 0);
        let done = match request.write {
            true => cache.write(offset, buffer, tags),
            false => cache.read(offset, buffer, tags),
        };
        done.map_err(failed)
    }

    fn seconds(&self) -> f64 {
        (self.fast.simulated_time() + self.slow.simulated_time()).as_secs_f64()
    }

    fn hits(&self) -> u64 {
        self.cache.stats().classes.iter().map(|(_, class)| class.hits).sum()
    }
}

/// A cache without classes.
pub(super) struct Theirs {
    fast: Arc<SimulatedDisk>,
    slow: Arc<SimulatedDisk>,
    policy: Box<dyn Policy>,
    capacity: u32,
    hits: u64,
    buffer: Vec<u8>,
}

impl Theirs {
    /// One that holds `capacity` blocks.
    pub(super) fn new(policy: Classless, capacity: u32, trace: &Trace, disks: Disks) -> Self {
        Self {
            fast: disk(u64::from(capacity) * BLOCK, disks.fast),
            slow: disk(u64::from(trace.blocks()) * BLOCK, disks.slow),
            policy: policy.cache(capacity, trace.blocks()),
            capacity,
            hits: 0,
            buffer: Vec::new(),
        }
    }

    /// Any place of the fast tier: it has no distances.
    fn line(&self, block: u32) -> u64 {
        u64::from(block % self.capacity) * BLOCK
    }
}

impl System for Theirs {
    fn request(&mut self, request: Request) -> Result<()> {
        self.buffer.resize(bytes(request.count), 0);
        let offset = u64::from(request.first) * BLOCK;
        if request.write {
            self.slow.write(offset, &self.buffer).map_err(failed)?;
        }
        let mut missing = Vec::with_capacity(request.count as usize);
        for block in request.blocks() {
            let hit = self.policy.access(block);
            missing.push(!hit || request.write);
            if hit && !request.write {
                self.hits += 1;
                self.fast.read(self.line(block), &mut self.buffer[..bytes(1)]).map_err(failed)?;
            }
        }
        let mut first = request.first;
        for run in missing.chunk_by(|one, next| one == next) {
            let count = u32::try_from(run.len()).unwrap_or(0);
            if run[0] {
                if !request.write {
                    let buffer = &mut self.buffer[..bytes(count)];
                    self.slow.read(u64::from(first) * BLOCK, buffer).map_err(failed)?;
                }
                for block in first..first + count {
                    self.fast.write(self.line(block), &self.buffer[..bytes(1)]).map_err(failed)?;
                }
            }
            first += count;
        }
        Ok(())
    }

    fn seconds(&self) -> f64 {
        (self.fast.simulated_time() + self.slow.simulated_time()).as_secs_f64()
    }

    fn hits(&self) -> u64 {
        self.hits
    }
}

/// The slow tier alone.
pub(super) struct NoCache {
    slow: Arc<SimulatedDisk>,
    buffer: Vec<u8>,
}

impl NoCache {
    pub(super) fn new(trace: &Trace, disks: Disks) -> Self {
        Self { slow: disk(u64::from(trace.blocks()) * BLOCK, disks.slow), buffer: Vec::new() }
    }
}

impl System for NoCache {
    fn request(&mut self, request: Request) -> Result<()> {
        self.buffer.resize(bytes(request.count), 0);
        let offset = u64::from(request.first) * BLOCK;
        let done = match request.write {
            true => self.slow.write(offset, &self.buffer),
            false => self.slow.read(offset, &mut self.buffer),
        };
        done.map_err(failed)
    }

    fn seconds(&self) -> f64 {
        self.slow.simulated_time().as_secs_f64()
    }

    fn hits(&self) -> u64 {
        0
    }
}
