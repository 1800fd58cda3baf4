//! One life of a disk: from opening an image to the power failure.

use std::sync::Arc;

use sky_devices::block::StorageCounts;
use sky_devices::block::simulated::{Fault, FaultOn, History, Random, SimulatedDisk};

use super::content::{Content, SECTOR};
use super::model::{Change, Event, Model, What};
use super::subject::{Image, Outcome, Subject};
use super::workload::{Step, step};

/// Bytes of one read when all is read: no multiple of anything that a format works with.
const READ: usize = 145 * SECTOR;

/// Versions after this one are of the life after a crash.
const LATER_VERSION: u32 = 1_000_000;

/// What happened in a life.
pub(super) struct Life {
    pub(super) history: History,
    /// The first moment to crash at.
    pub(super) first: usize,
    /// What the disk may hold before it was read for the first time, and from `known` on.
    before: Model,
    after: Model,
    known: usize,
    events: Vec<Event>,
    /// When something had failed for the first time.
    pub(super) failed: Option<usize>,
    /// How often the medium was asked to do what.
    pub(super) met: [(FaultOn, u64); 5],
}

impl Life {
    fn new(world: &World<'_>, first: usize, before: Model, after: Model, known: usize) -> Self {
        let (counts, at_first) = (world.disk.counts(), world.at_first);
        let met = [
            (FaultOn::Read, counts.reads - at_first.reads),
            (FaultOn::Write, counts.writes - at_first.writes),
            (FaultOn::Sync, counts.syncs - at_first.syncs),
            (FaultOn::Punch, counts.punches - at_first.punches),
            (FaultOn::Grow, counts.grows - at_first.grows),
        ];
        let failed = world.events.iter().find(|event| !event.succeeded).map(|event| event.end);
        let history = world.disk.history();
        Self { history, first, before, after, known, events: world.events.clone(), failed, met }
    }

    /// What the disk may hold after a crash at each of the moments, which come in their order.
    pub(super) fn models(&self) -> impl FnMut(usize) -> Model + '_ {
        let (mut model, mut next) = (self.after.clone(), 0);
        move |position| {
            if position < self.known {
                return self.before.clone();
            }
            while let Some(event) = self.events.get(next).filter(|event| event.counts_at(position)) {
                model.apply(event);
                next += 1;
            }
            model.clone()
        }
    }
}

/// An image on its disk, and what is known of it.
struct World<'a> {
    subject: &'a dyn Subject,
    disk: Arc<SimulatedDisk>,
    /// What had been done to the disk before.
    at_first: StorageCounts,
    image: Option<Box<dyn Image>>,
    model: Model,
    events: Vec<Event>,
    version: u32,
    /// The medium fails now and then, and operations with it.
    faulty: bool,
    /// Each step is printed, because it is one case that is looked at.
    told: bool,
}

/// Makes an image and works with it for `steps` steps.
pub(super) fn first(
    subject: &dyn Subject,
    random: &mut Random,
    steps: usize,
    fault: Option<Fault>,
) -> Outcome<Life> {
    // Not every disk ends with a whole block or cluster.
    let sectors = [1024, 1600, 2051][random.below(3) as usize];
    let parent = subject.takes_parent() && random.one_in(2);
    let disk = subject.made(sectors * SECTOR as u64, parent)?;
    let first = disk.position();
    let model = Model::new(sectors, parent);
    let mut world = World::new(subject, disk, model.clone(), 0);
    world.faulty = fault.is_some();
    fault.into_iter().for_each(|fault| world.disk.inject(fault));
    world.open()?;
    world.work(random, steps)?;
    world.image = None;
    world.disk.clear_faults();
    Ok(Life::new(&world, first, model.clone(), model, first))
}

/// Opens an image after a crash, reads everything, checks it, and works with it for `steps` steps.
pub(super) fn later(
    subject: &dyn Subject,
    disk: SimulatedDisk,
    model: &Model,
    random: &mut Random,
    steps: usize,
) -> Outcome<Life> {
    let mut world = World::new(subject, Arc::new(disk), model.clone(), LATER_VERSION);
    world.open()?;
    let contents = world.read_all()?;
    world.model = model.found(&contents);
    let (after, known) = (world.model.clone(), world.disk.position());
    if random.one_in(2) {
        world.close()?;
    } else {
        world.image = None;
    }
    subject.check(&world.disk, model.parent().is_some()).map_err(|error| format!("check: {error}"))?;
    if steps > 0 {
        world.open()?;
        world.work(random, steps)?;
        world.image = None;
    }
    Ok(Life::new(&world, 0, model.clone(), after, known))
}

impl<'a> World<'a> {
    fn new(subject: &'a dyn Subject, disk: Arc<SimulatedDisk>, model: Model, version: u32) -> Self {
        let told = std::env::var_os("SKY_CRASH").is_some();
        let at_first = disk.counts();
        Self { subject, disk, at_first, image: None, model, events: Vec::new(), version, faulty: false, told }
    }

    fn open(&mut self) -> Outcome<()> {
        match self.subject.open(&self.disk, self.model.parent()) {
            Ok(image) => self.image = Some(image),
            Err(_) if self.faulty => {}
            Err(error) => return Err(format!("open: {error}")),
        }
        Ok(())
    }

    /// Opens the image after it was closed, or not, and looks at what is there.
    fn open_again(&mut self) -> Outcome<()> {
        self.open()?;
        if self.image.is_none() {
            return Ok(());
        }
        match self.read_all() {
            Ok(contents) => {
                let contents = contents.into();
                self.event(What::Found(contents), || Ok(()))
            }
            Err(error) if self.faulty && error.starts_with("read:") => {
                self.image = None;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn close(&mut self) -> Outcome<()> {
        let Some(image) = self.image.take() else { return Ok(()) };
        self.event(What::Flush, || image.close())
    }

    fn work(&mut self, random: &mut Random, steps: usize) -> Outcome<()> {
        for _ in 0..steps {
            // A medium that fails for good need not let an image be opened again.
            if self.image.is_none() {
                return Ok(());
            }
            let step = step(random, self.model.sectors(), self.subject.has_chores());
            let begin = self.disk.position();
            let result = self.step(step);
            if self.told {
                println!("{begin:6}..{}: {step:?}: {result:?}", self.disk.position());
            }
            result.map_err(|error| format!("{step:?}: {error}"))?;
        }
        // Most workloads end in the middle of things.
        if random.one_in(4) { self.read_live(0, self.model.sectors()) } else { Ok(()) }
    }

    fn step(&mut self, step: Step) -> Outcome<()> {
        match step {
            Step::Write { sector, count, kind } => {
                self.version += 1;
                let content = Content::Version { version: self.version, kind };
                let mut data = vec![0; count as usize * SECTOR];
                (sector..).zip(data.chunks_mut(SECTOR)).for_each(|(at, bytes)| content.fill(at, bytes));
                self.change(sector, count, content, |image, offset, _| image.write(offset, &data))
            }
            Step::Discard { sector, count } => {
                self.change(sector, count, Content::Zeros, |image, offset, length| {
                    image.discard(offset, length)
                })
            }
            Step::Zero { sector, count, unmap } => {
                self.change(sector, count, Content::Zeros, |image, offset, length| {
                    image.write_zeroes(offset, length, unmap)
                })
            }
            Step::Flush => {
                let Some(image) = self.image.take() else { return Ok(()) };
                let result = self.event(What::Flush, || image.flush());
                self.image = Some(image);
                result
            }
            Step::Chore(number) => {
                let Some(image) = &self.image else { return Ok(()) };
                let result = image.chore(number);
                if self.faulty { Ok(()) } else { result }
            }
            Step::Read { sector, count } => self.read_live(sector, count),
            Step::Kill => {
                self.image = None;
                self.open_again()
            }
            Step::Close => {
                self.close()?;
                self.open_again()
            }
        }
    }

    fn change(
        &mut self,
        sector: u64,
        count: u64,
        content: Content,
        work: impl FnOnce(&dyn Image, u64, u64) -> Outcome<()>,
    ) -> Outcome<()> {
        let Some(image) = self.image.take() else { return Ok(()) };
        let (offset, length) = (sector * SECTOR as u64, count * SECTOR as u64);
        let what = What::Change(Change { sector, count, content });
        let result = self.event(what, || work(&*image, offset, length));
        self.image = Some(image);
        result
    }

    /// Does something and puts it down. An error is one of the subject unless the medium fails.
    fn event(&mut self, what: What, work: impl FnOnce() -> Outcome<()>) -> Outcome<()> {
        let begin = self.disk.position();
        let result = work();
        let event = Event { what, begin, end: self.disk.position(), succeeded: result.is_ok() };
        self.model.apply(&event);
        self.events.push(event);
        if self.faulty { Ok(()) } else { result }
    }

    /// Reads and compares with what must be there.
    fn read_live(&self, sector: u64, count: u64) -> Outcome<()> {
        let Some(image) = &self.image else { return Ok(()) };
        let mut bytes = vec![0; count as usize * SECTOR];
        match image.read(sector * SECTOR as u64, &mut bytes) {
            Err(_) if self.faulty => Ok(()),
            result => {
                result?;
                self.model.check_live(sector, &bytes).map(|_| ()).map_err(|error| format!("live: {error}"))
            }
        }
    }

    /// Reads everything after a crash.
    fn read_all(&self) -> Outcome<Vec<Content>> {
        let image = self.image.as_ref().unwrap();
        let mut bytes = vec![0; self.model.sectors() as usize * SECTOR];
        for (index, piece) in bytes.chunks_mut(READ).enumerate() {
            image.read((index * READ) as u64, piece).map_err(|error| format!("read: {error}"))?;
        }
        self.model.check_crashed(0, &bytes)
    }
}
