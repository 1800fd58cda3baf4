//! The qcow2 of the crate imago, by the same oracle.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};

use imago::io_buffers::{IoVector, IoVectorMut};
use imago::qcow2::Qcow2 as Driver;
use imago::raw::Raw as RawDriver;
use imago::storage::PreallocateMode;
use imago::storage::drivers::CommonStorageHelper;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatCreateBuilder, FormatDriverBuilder};
use sky_devices::block::simulated::{SimulatedDisk, SimulatedOptions};
use sky_devices::block::{BlockDevice, MemoryDisk, Storage};

use super::content::SECTOR;
use super::subject::{Image, Outcome, Subject, said};

type Access = FormatAccess<OnDisk>;

/// A simulated disk as imago wants it: a file that grows as it is written.
#[derive(Debug)]
struct OnDisk {
    disk: Arc<SimulatedDisk>,
    helper: CommonStorageHelper,
}

impl OnDisk {
    fn new(disk: &Arc<SimulatedDisk>) -> Self {
        Self { disk: Arc::clone(disk), helper: CommonStorageHelper::default() }
    }

    fn reach(&self, offset: u64, length: u64) -> io::Result<()> {
        let end = offset.checked_add(length).ok_or(io::ErrorKind::InvalidInput)?;
        self.disk.grow(end.next_multiple_of(SECTOR as u64)).map_err(io::Error::other)
    }
}

impl fmt::Display for OnDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated disk")
    }
}

impl imago::Storage for OnDisk {
    fn req_align(&self) -> usize {
        SECTOR
    }

    fn size(&self) -> io::Result<u64> {
        Ok(Storage::size(&*self.disk))
    }

    unsafe fn pure_readv(&self, mut buffers: IoVectorMut<'_>, offset: u64) -> io::Result<()> {
        let mut bytes = vec![0; buffers.len() as usize];
        let there = Storage::size(&*self.disk).saturating_sub(offset).min(buffers.len()) as usize;
        self.disk.read(offset, &mut bytes[..there]).map_err(io::Error::other)?;
        buffers.copy_from_slice(&bytes);
        Ok(())
    }

    unsafe fn pure_writev(&self, buffers: IoVector<'_>, offset: u64) -> io::Result<()> {
        let mut bytes = vec![0; buffers.len() as usize];
        buffers.copy_into_slice(&mut bytes);
        self.reach(offset, bytes.len() as u64)?;
        self.disk.write(offset, &bytes).map_err(io::Error::other)
    }

    unsafe fn pure_write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.reach(offset, length)?;
        self.disk.punch(offset, length).map(|_| ()).map_err(io::Error::other)
    }

    unsafe fn pure_discard(&self, offset: u64, length: u64) -> io::Result<()> {
        let end = (offset + length).min(Storage::size(&*self.disk));
        self.disk.punch(offset, end.saturating_sub(offset)).map(|_| ()).map_err(io::Error::other)
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.sync().map_err(io::Error::other)
    }

    unsafe fn invalidate_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn get_storage_helper(&self) -> &CommonStorageHelper {
        &self.helper
    }

    fn resize(&self, size: u64, _mode: PreallocateMode) -> io::Result<()> {
        self.reach(0, size)
    }
}

/// qcow2 with clusters of 64 KiB.
pub(super) struct Qcow2;

impl Subject for Qcow2 {
    fn name(&self) -> &'static str {
        "qcow2"
    }

    fn create(&self, disk: &Arc<SimulatedDisk>, size: u64, parent: bool) -> Outcome<()> {
        let mut builder = Driver::<OnDisk, Arc<Access>>::create_builder(OnDisk::new(disk)).size(size);
        if parent {
            builder = builder.backing("parent.img".to_owned(), "raw".to_owned());
        }
        builder.create().map_err(said)?;
        disk.sync().map_err(said)
    }

    fn open(&self, disk: &Arc<SimulatedDisk>, parent: Option<&Arc<MemoryDisk>>) -> Outcome<Box<dyn Image>> {
        let backing = parent.map(|parent| below(parent)).transpose()?;
        let driver = Driver::<OnDisk, Arc<Access>>::builder(OnDisk::new(disk))
            .backing(backing)
            .write(true)
            .open(DenyImplicitOpenGate::default())
            .map_err(said)?;
        Ok(Box::new(Qcow2Image(Mutex::new(Some(FormatAccess::new(driver))))))
    }
}

/// The parent as a raw image that imago reads.
fn below(parent: &MemoryDisk) -> Outcome<Arc<Access>> {
    let size = parent.geometry().size;
    let disk = SimulatedDisk::new(SimulatedOptions { size, record: false, ..SimulatedOptions::file() });
    disk.write(0, &parent.contents()).map_err(said)?;
    let driver = RawDriver::builder(OnDisk::new(&Arc::new(disk)))
        .open(DenyImplicitOpenGate::default())
        .map_err(said)?;
    Ok(Arc::new(FormatAccess::new(driver)))
}

struct Qcow2Image(Mutex<Option<Access>>);

impl Qcow2Image {
    fn with(&self, work: impl FnOnce(&mut Access) -> io::Result<()>) -> Outcome<()> {
        work(self.0.lock().unwrap().as_mut().unwrap()).map_err(said)
    }
}

impl Image for Qcow2Image {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Outcome<()> {
        self.with(|image| image.read(buffer, offset))
    }

    fn write(&self, offset: u64, data: &[u8]) -> Outcome<()> {
        self.with(|image| image.write(data, offset))
    }

    fn flush(&self) -> Outcome<()> {
        self.with(|image| {
            image.flush()?;
            image.sync()
        })
    }

    fn discard(&self, offset: u64, length: u64) -> Outcome<()> {
        self.with(|image| image.discard_to_zero(offset, length))
    }

    fn write_zeroes(&self, offset: u64, length: u64, _unmap: bool) -> Outcome<()> {
        self.with(|image| image.write_zeroes(offset, length))
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        self.flush()
    }
}
