//! Two simulated disks, and the order in which they change.

use std::sync::{Arc, Mutex};

use sky_devices::block::simulated::{Latency, SimulatedDisk, SimulatedOptions};
use sky_devices::block::{BlockDevice, Geometry, Result, Storage, StorageProperties};
use sky_devices::io_class::IoTag;

pub(crate) const SECTOR: u64 = 512;
/// Where the slow tier is used: some blocks in each of some regions, and its end, which is no whole block.
pub(crate) const AREAS: u64 = 3;
pub(crate) const AREA_SECTORS: u64 = 64 * 8;
const REGION: u64 = 16 << 20;
pub(crate) const SLOW_SIZE: u64 = (AREAS - 1) * REGION + AREA_SECTORS * SECTOR + 3 * SECTOR;
/// Sectors that are used.
pub(crate) const SECTORS: u64 = AREAS * AREA_SECTORS + 3;
const FAST_SIZE: u64 = 88 * 4096;
/// What it can grow to.
const FAST_MOST: u64 = 3000 * 4096;

/// Byte offset of a used sector, by its number.
pub(crate) fn offset_of(sector: u64) -> u64 {
    let area = (sector / AREA_SECTORS).min(AREAS - 1);
    area * REGION + (sector - area * AREA_SECTORS) * SECTOR
}

/// Sectors from that one on that lie side by side.
pub(crate) fn side_by_side(sector: u64) -> u64 {
    let area = sector / AREA_SECTORS;
    if area >= AREAS - 1 { SECTORS - sector } else { (area + 1) * AREA_SECTORS - sector }
}

/// After how many changes of each disk something was.
pub(crate) type Moment = (usize, usize);

/// The disks as the cache sees them.
#[derive(Clone, Debug)]
pub(crate) struct Disks {
    pub(crate) fast: Arc<SimulatedDisk>,
    pub(crate) slow: Arc<SimulatedDisk>,
    /// The moments after each change.
    pub(crate) moments: Arc<Mutex<Vec<Moment>>>,
}

impl Disks {
    pub(crate) fn new() -> Self {
        let disk = |size, atomic_write| {
            let latency = Latency::ssd();
            let (alignment, capacity, holes, record) = (512, Some(FAST_MOST), true, true);
            SimulatedDisk::new(SimulatedOptions {
                size,
                capacity,
                alignment,
                atomic_write,
                holes,
                latency,
                record,
            })
        };
        Self::of(disk(FAST_SIZE, 512), disk(SLOW_SIZE, 512))
    }

    pub(crate) fn of(fast: SimulatedDisk, slow: SimulatedDisk) -> Self {
        let disks = Self { fast: Arc::new(fast), slow: Arc::new(slow), moments: Arc::default() };
        disks.note();
        disks
    }

    /// The same content, durable, without histories and faults.
    pub(crate) fn copy(&self) -> Self {
        Self::of(self.fast.copy(), self.slow.copy())
    }

    fn note(&self) {
        let moment = (self.fast.position(), self.slow.position());
        let mut moments = self.moments.lock().unwrap();
        if moments.last() != Some(&moment) {
            moments.push(moment);
        }
    }

    /// Number of the moment that is now.
    pub(crate) fn now(&self) -> usize {
        self.moments.lock().unwrap().len() - 1
    }

    pub(crate) fn fast(&self) -> Arc<dyn Storage> {
        Arc::new(Fast(self.clone()))
    }

    pub(crate) fn slow(&self) -> Arc<dyn BlockDevice> {
        Arc::new(Slow(self.clone()))
    }
}

#[derive(Debug)]
struct Fast(Disks);

impl Storage for Fast {
    fn properties(&self) -> StorageProperties {
        self.0.fast.properties()
    }

    fn size(&self) -> u64 {
        self.0.fast.size()
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.0.fast.read(offset, buffer)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let result = self.0.fast.write(offset, data);
        self.0.note();
        result
    }

    fn sync(&self) -> Result<()> {
        let result = self.0.fast.sync();
        self.0.note();
        result
    }

    fn punch(&self, offset: u64, length: u64) -> Result<bool> {
        let result = self.0.fast.punch(offset, length);
        self.0.note();
        result
    }

    fn grow(&self, size: u64) -> Result<()> {
        let result = self.0.fast.grow(size);
        self.0.note();
        result
    }
}

#[derive(Debug)]
struct Slow(Disks);

impl BlockDevice for Slow {
    fn geometry(&self) -> Geometry {
        let size = self.0.slow.size();
        Geometry { size, logical_block_size: 512, physical_block_size: 4096, read_only: false }
    }

    fn read(&self, offset: u64, buffer: &mut [u8], _tags: &[IoTag]) -> Result<()> {
        self.0.slow.read(offset, buffer)
    }

    fn write(&self, offset: u64, data: &[u8], _tags: &[IoTag]) -> Result<()> {
        let result = self.0.slow.write(offset, data);
        self.0.note();
        result
    }

    fn flush(&self) -> Result<()> {
        let result = self.0.slow.sync();
        self.0.note();
        result
    }

    fn discard(&self, offset: u64, length: u64) -> Result<()> {
        let result = self.0.slow.punch(offset, length).map(|_| ());
        self.0.note();
        result
    }

    fn write_zeroes(&self, offset: u64, length: u64, _unmap: bool) -> Result<()> {
        self.discard(offset, length)
    }
}
