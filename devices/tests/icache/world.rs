//! A cache on its disks, what is done to it, and what is known of that.

use std::sync::Arc;

use sky_devices::block::simulated::Random;
use sky_devices::block::{BlockDevice, Error};
use sky_devices::icache::{self, ICache, Mode, OpenOptions};
use sky_devices::io_class::IoTag;
use sky_devices::policy::ClassId;

use super::disks::{Disks, SECTOR, SECTORS, SLOW_SIZE, offset_of, side_by_side};
use super::model::{Event, Model, content};

/// Something that happened, and between which moments.
#[derive(Clone, Debug)]
pub(crate) struct Happened {
    pub(crate) event: Event,
    pub(crate) begin: usize,
    pub(crate) end: usize,
    pub(crate) succeeded: bool,
}

pub(crate) struct World {
    pub(crate) disks: Disks,
    pub(crate) cache: Option<Arc<ICache>>,
    pub(crate) model: Model,
    pub(crate) events: Vec<Happened>,
    /// Between which moments the cache was resized.
    pub(crate) resizes: Vec<(usize, usize)>,
    /// The cache keeps its size.
    pub(crate) keeps_size: bool,
    /// Tiers fail.
    pub(crate) faulty: bool,
    next: u64,
}

pub(crate) const MODES: [Mode; 3] = [Mode::Through, Mode::Back, Mode::Around];

pub(crate) fn options(mode: Mode) -> OpenOptions {
    OpenOptions { mode, dirty: 40, sequential: Some(24 << 10), ..OpenOptions::default() }
}

fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl World {
    /// An empty cache before a disk of zeros.
    pub(crate) fn new() -> Self {
        let disks = Disks::new();
        icache::create(&*disks.fast, SLOW_SIZE).unwrap();
        Self::on(disks.copy(), Model::new(), 1)
    }

    /// What is known of disks that were used before.
    pub(crate) fn on(disks: Disks, model: Model, next: u64) -> Self {
        Self {
            disks,
            cache: None,
            model,
            events: Vec::new(),
            resizes: Vec::new(),
            keeps_size: false,
            faulty: false,
            next,
        }
    }

    pub(crate) fn open(&mut self, mode: Mode) -> Result<(), String> {
        match ICache::open(self.disks.fast(), self.disks.slow(), options(mode)) {
            Ok(cache) => self.cache = Some(Arc::new(cache)),
            Err(_) if self.faulty => {}
            Err(error) => return Err(format!("open: {error}")),
        }
        Ok(())
    }

    fn event(&mut self, event: Event, work: impl FnOnce(&ICache) -> Result<(), Error>) -> Result<(), String> {
        let Some(cache) = self.cache.clone() else { return Ok(()) };
        let begin = self.disks.now();
        let result = work(&cache);
        let happened = Happened { event, begin, end: self.disks.now(), succeeded: result.is_ok() };
        self.model.apply(&happened.event, happened.succeeded);
        self.events.push(happened);
        if self.faulty { Ok(()) } else { result.map_err(said) }
    }

    /// Ends as a killed process does.
    pub(crate) fn kill(&mut self) {
        self.cache = None;
    }

    /// Ends in order. Answers whether that succeeded.
    pub(crate) fn close(&mut self) -> Result<bool, String> {
        let Some(cache) = self.cache.take() else { return Ok(false) };
        let begin = self.disks.now();
        let result = Arc::into_inner(cache).unwrap().close();
        let happened =
            Happened { event: Event::Flush, begin, end: self.disks.now(), succeeded: result.is_ok() };
        self.model.apply(&happened.event, happened.succeeded);
        self.events.push(happened);
        match result {
            Err(error) if !self.faulty => Err(format!("close: {error}")),
            result => Ok(result.is_ok()),
        }
    }

    /// Looks what is there after the process was killed: what was not flushed may be gone.
    fn find(&mut self) -> Result<(), String> {
        if self.cache.is_none() {
            return Ok(());
        }
        let begin = self.disks.now();
        match self.read_all() {
            Err(_) if self.faulty => self.cache = None,
            bytes => {
                let event = Event::Found(self.model.check_crashed(&bytes?)?);
                self.model.apply(&event, true);
                self.events.push(Happened { event, begin, end: self.disks.now(), succeeded: true });
            }
        }
        Ok(())
    }

    pub(crate) fn flush(&mut self) -> Result<(), String> {
        self.event(Event::Flush, |cache| cache.flush())
    }

    /// Reads some sectors and compares them with what must be there.
    pub(crate) fn read(&self, sector: u64, count: u64, tags: &[IoTag]) -> Result<(), String> {
        let Some(cache) = &self.cache else { return Ok(()) };
        let mut bytes = vec![0; (count * SECTOR) as usize];
        match cache.read(offset_of(sector), &mut bytes, tags) {
            Err(_) if self.faulty => Ok(()),
            Err(error) => Err(said(error)),
            Ok(()) => self.model.check_live(sector, &bytes),
        }
    }

    /// Reads everything.
    pub(crate) fn read_all(&self) -> Result<Vec<u8>, String> {
        read_all(&**self.cache.as_ref().unwrap())
    }

    /// Has the cache be of some random size.
    pub(crate) fn resize(&mut self, random: &mut Random) -> Result<(), String> {
        let most = if random.one_in(3) { 500 } else { 60 };
        let pages = 87 + random.below(most);
        let begin = self.disks.now();
        self.other(|cache| cache.resize(pages * 4096 + random.below(4096)))?;
        self.resizes.push((begin, self.disks.now()));
        match &self.cache {
            Some(cache) if !self.faulty && cache.stats().size != pages * 4096 => {
                Err("it has another size".into())
            }
            _ => Ok(()),
        }
    }

    /// Some random thing.
    pub(crate) fn step(&mut self, random: &mut Random) -> Result<(), String> {
        let sector = if random.one_in(2) { random.below(SECTORS) } else { random.below(160) };
        let (unit, most) = if random.one_in(3) { (1, 12) } else { (8, 6) };
        let sector = sector / unit * unit;
        let count = (unit * (1 + random.below(most))).min(side_by_side(sector));
        let class_id = ClassId::new(random.below(6) as u8).unwrap();
        let tags = vec![IoTag { class_id, ..IoTag::default() }; if random.one_in(3) { 0 } else { 16 }];
        let (offset, length) = (offset_of(sector), count * SECTOR);
        match random.below(40) {
            0..=13 => {
                let version = self.next;
                self.next += 1;
                let data: Vec<u8> = (sector..sector + count).flat_map(|at| content(at, version)).collect();
                self.event(Event::Write { sector, count, version }, |cache| cache.write(offset, &data, &tags))
            }
            14..=24 => self.read(sector, count, &tags),
            25..=29 => self.flush(),
            30 | 31 => {
                let event = Event::Write { sector, count, version: 0 };
                self.event(event, |cache| cache.discard(offset, length))
            }
            32 => {
                let event = Event::Write { sector, count, version: 0 };
                self.event(event, |cache| cache.write_zeroes(offset, length, true))
            }
            33 | 34 => self.other(|cache| cache.write_back_all()),
            35 if random.one_in(3) => self.other(|cache| cache.clear()),
            36 => {
                self.kill();
                self.open(MODES[random.below(3) as usize])?;
                self.find()
            }
            37 => {
                let closed = self.close()?;
                self.open(MODES[random.below(3) as usize])?;
                if closed { Ok(()) } else { self.find() }
            }
            38 if !self.keeps_size && random.one_in(2) => self.resize(random),
            _ => self.read(sector, count, &[]),
        }
    }

    fn other(&self, work: impl FnOnce(&ICache) -> Result<(), Error>) -> Result<(), String> {
        let Some(cache) = &self.cache else { return Ok(()) };
        let result = work(cache);
        if self.faulty { Ok(()) } else { result.map_err(said) }
    }
}

/// All used sectors of a disk.
pub(crate) fn read_all(disk: &dyn BlockDevice) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; (SECTORS * SECTOR) as usize];
    let mut sector = 0;
    while sector < SECTORS {
        let count = side_by_side(sector).min(40);
        let range = (sector * SECTOR) as usize..((sector + count) * SECTOR) as usize;
        disk.read(offset_of(sector), &mut bytes[range], &[]).map_err(|error| format!("read: {error}"))?;
        sector += count;
    }
    Ok(bytes)
}

/// Random things, in order; says how to repeat what fails.
pub(crate) fn live(world: &mut World, random: &mut Random, steps: usize) -> Result<(), String> {
    for number in 0..steps {
        world.step(random).map_err(|error| format!("step {number}: {error}"))?;
    }
    Ok(())
}

#[test]
fn a_map_agrees_in_every_mode() {
    for seed in super::seeds(10) {
        for mode in MODES {
            let mut random = Random::new(seed);
            let mut world = World::new();
            world.open(mode).unwrap();
            let result = live(&mut world, &mut random, 400).and_then(|()| {
                let bytes = world.read_all()?;
                world.model.check_live(0, &bytes)?;
                world.close()?;
                // The slow tier alone holds all of it.
                world.model.check_live(0, &read_all(&*world.disks.slow())?)
            });
            assert_eq!(result, Ok(()), "SKY_SEED={seed} {mode:?}");
        }
    }
}
