//! Several threads on one image, and its own thread beside them: whatever the order in which their requests meet.
//!
//! Sectors have owners, in turns so short that threads meet in blocks and clusters. Each owner knows of its sectors what
//! the oracle knows of a whole disk, and counts no flushes but its own. What happens cannot be repeated, so a failure
//! tells all that was done to the disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use sky_devices::block::simulated::{Random, SimulatedDisk};
use sky_devices::block::{BlockDevice, MemoryDisk, Result, Storage, StorageProperties};
use sky_devices::selfie::{OpenOptions, Selfie as Engine};

use super::content::{Content, Kind, SECTOR};
use super::idedup::Idedup;
use super::model::{Change, Event, Model, What};
use super::selfie::Selfie;
use super::subject::{Outcome, Subject, said};

const THREADS: u64 = 4;
const STEPS: usize = 24;
/// Sectors of the disk: sixteen clusters and a bit.
const SECTORS: u64 = 2051;

/// A format whose images several threads work with.
pub(super) trait Crowded: Subject {
    type Engine: BlockDevice;

    /// The disk is in the image so many times, one copy behind the other. Changes go to all of them.
    fn copies(&self) -> u64 {
        1
    }

    fn engine(
        &self,
        storage: Arc<dyn Storage>,
        backing: Option<Arc<dyn BlockDevice>>,
        seed: u64,
    ) -> Outcome<Self::Engine>;

    /// What is done beside the threads.
    fn alongside(&self, _image: &Self::Engine, _seed: u64) -> Outcome<()> {
        Ok(())
    }

    /// What is looked at when the threads have ended, before the image is dropped as a killed process drops it.
    fn afterwards(&self, _image: &Self::Engine, _disk: &Arc<SimulatedDisk>) -> Outcome<()> {
        Ok(())
    }
}

impl Crowded for Selfie {
    type Engine = Engine;

    fn engine(
        &self,
        storage: Arc<dyn Storage>,
        backing: Option<Arc<dyn BlockDevice>>,
        seed: u64,
    ) -> Outcome<Engine> {
        let options = OpenOptions { background: !seed.is_multiple_of(3), ..OpenOptions::default() };
        Engine::open(storage, options, backing).map_err(said)
    }
}

/// A disk that now and then lets another thread go first.
#[derive(Debug)]
struct Restless {
    disk: Arc<SimulatedDisk>,
    calls: AtomicU64,
    seed: u64,
}

impl Restless {
    fn pause(&self) {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        for _ in 0..Random::new(self.seed ^ call << 20).below(4) {
            thread::yield_now();
        }
    }
}

impl Storage for Restless {
    fn properties(&self) -> StorageProperties {
        self.disk.properties()
    }

    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.pause();
        self.disk.read(offset, buffer)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.pause();
        let result = self.disk.write(offset, data);
        self.pause();
        result
    }

    fn sync(&self) -> Result<()> {
        self.pause();
        let result = self.disk.sync();
        self.pause();
        result
    }

    fn punch(&self, offset: u64, length: u64) -> Result<bool> {
        self.pause();
        self.disk.punch(offset, length)
    }

    fn grow(&self, size: u64) -> Result<()> {
        self.pause();
        self.disk.grow(size)
    }
}

/// A thread, and what it knows of its sectors.
struct Owner {
    number: u64,
    /// Sectors that it has one behind the other.
    unit: u64,
    random: Random,
    model: Model,
    events: Vec<Event>,
    version: u32,
}

fn owner(sector: u64, unit: u64) -> u64 {
    sector / unit % THREADS
}

impl Owner {
    fn work(&mut self, image: &impl BlockDevice, disk: &SimulatedDisk) -> Outcome<()> {
        for _ in 0..STEPS {
            // One of its turns, and a part of it.
            let turns = SECTORS.div_ceil(self.unit).div_ceil(THREADS);
            let first = (self.random.below(turns) * THREADS + self.number) * self.unit;
            if first >= SECTORS {
                continue;
            }
            let most = self.unit.min(SECTORS - first);
            let skipped = if self.random.one_in(2) { 0 } else { self.random.below(most) };
            let (sector, rest) = (first + skipped, most - skipped);
            let count = if self.random.one_in(2) { rest } else { 1 + self.random.below(rest) };
            self.step(image, disk, sector, count)?;
        }
        Ok(())
    }

    fn step(
        &mut self,
        image: &impl BlockDevice,
        disk: &SimulatedDisk,
        sector: u64,
        count: u64,
    ) -> Outcome<()> {
        let (offset, length) = (sector * SECTOR as u64, count * SECTOR as u64);
        let mut bytes = vec![0; count as usize * SECTOR];
        let begin = disk.position();
        let (what, result) = match self.random.below(20) {
            0..=10 => {
                self.version += 1;
                let kind = [Kind::Text, Kind::Noise, Kind::Mixed][self.random.below(3) as usize];
                let content = Content::Version { version: self.version, kind };
                (sector..).zip(bytes.chunks_mut(SECTOR)).for_each(|(at, bytes)| content.fill(at, bytes));
                (What::Change(Change { sector, count, content }), image.write(offset, &bytes, &[]))
            }
            11 | 12 => {
                let what = What::Change(Change { sector, count, content: Content::Zeros });
                (what, image.discard(offset, length))
            }
            13 => {
                let what = What::Change(Change { sector, count, content: Content::Zeros });
                (what, image.write_zeroes(offset, length, self.random.one_in(2)))
            }
            14..=16 => (What::Flush, image.flush()),
            _ => {
                image.read(offset, &mut bytes, &[]).map_err(said)?;
                return self.model.check_live(sector, &bytes).map(|_| ());
            }
        };
        result.map_err(|error| format!("{what:?}: {error}"))?;
        let event = Event { what, begin, end: disk.position(), succeeded: true };
        self.model.apply(&event);
        self.events.push(event);
        Ok(())
    }
}

/// One image, worked with by all threads at once, and crashes at every moment of that. Answers how many there were.
fn round(subject: &impl Crowded, seed: u64, choices: usize) -> Outcome<u64> {
    let unit = [1, 8, 24, 128][(seed % 4) as usize];
    let parent = subject.takes_parent() && (seed + seed / 2) % 2 == 1;
    let made = subject.made(SECTORS * SECTOR as u64, parent)?;
    let first = made.position();
    let fresh = Model::new(SECTORS, parent);
    let below: Option<&Arc<MemoryDisk>> = fresh.parent();
    let storage = Arc::new(Restless { disk: Arc::clone(&made), calls: AtomicU64::new(0), seed });
    let image = subject.engine(storage, backing(below), seed)?;
    let mut owners: Vec<Owner> = (0..THREADS)
        .map(|number| Owner {
            number,
            unit,
            random: Random::new(seed << 8 | number),
            model: fresh.clone(),
            events: Vec::new(),
            version: u32::try_from(number).unwrap() << 20,
        })
        .collect();
    thread::scope(|scope| {
        let (image, disk) = (&image, &*made);
        let working: Vec<_> =
            owners.iter_mut().map(|owner| scope.spawn(move || owner.work(image, disk))).collect();
        subject.alongside(image, seed)?;
        working.into_iter().try_for_each(|thread| thread.join().unwrap())
    })?;
    subject.afterwards(&image, &made)?;
    drop(image);
    let history = made.history();
    let mut known: Vec<(Model, usize)> = owners.iter().map(|_| (fresh.clone(), 0)).collect();
    let (mut random, mut states) = (Random::new(seed), 0);
    for point in history.points(first) {
        for (owner, (model, next)) in owners.iter().zip(&mut known) {
            while let Some(event) = owner.events.get(*next).filter(|event| event.counts_at(point.position()))
            {
                model.apply(event);
                *next += 1;
            }
        }
        for choice in point.choices(choices, &mut random) {
            states += 1;
            crashed(subject, Arc::new(point.disk(choice)), below, &known, unit).map_err(|error| {
                format!("crash at {} {choice}: {error}\n{history:?}\n{}", point.position(), point.describe())
            })?;
        }
    }
    Ok(states)
}

fn backing(below: Option<&Arc<MemoryDisk>>) -> Option<Arc<dyn BlockDevice>> {
    below.map(|below| Arc::clone(below) as Arc<dyn BlockDevice>)
}

/// Opens what a crash has left, and looks at every sector.
fn crashed(
    subject: &impl Crowded,
    disk: Arc<SimulatedDisk>,
    below: Option<&Arc<MemoryDisk>>,
    known: &[(Model, usize)],
    unit: u64,
) -> Outcome<()> {
    let image = subject.engine(Arc::clone(&disk) as _, backing(below), 0)?;
    let span = image.geometry().size / subject.copies();
    let mut bytes = vec![0; SECTORS as usize * SECTOR];
    for copy in 0..subject.copies() {
        image.read(copy * span, &mut bytes, &[]).map_err(said)?;
        for (sector, bytes) in (0..).zip(bytes.chunks(SECTOR)) {
            let owner = &known[owner(sector, unit) as usize].0;
            owner.check_crashed(sector, bytes).map_err(|error| format!("copy {copy}: {error}"))?;
        }
    }
    drop(image);
    subject.check(&disk, below.is_some())
}

fn crowd(subject: &impl Crowded, rounds: u64) {
    let (rounds, choices) = if super::tests::nightly() { (60, 12) } else { (rounds, 3) };
    let mut states = 0;
    for seed in 0..rounds {
        states += round(subject, seed, choices)
            .unwrap_or_else(|error| panic!("{}, round {seed}: {error}", subject.name()));
    }
    println!("{} with {THREADS} threads: {states} crash states", subject.name());
}

#[test]
fn selfie_passes_whoever_comes_first() {
    crowd(&Selfie::Embedded, 4);
    crowd(&Selfie::Worn, 4);
}

#[test]
fn idedup_passes_whoever_comes_first() {
    crowd(&Idedup::Fingerprints, 2);
    crowd(&Idedup::Collisions, 2);
    crowd(&Idedup::Collected, 2);
}
