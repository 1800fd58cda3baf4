//! Power failures: each disk in a state of its own, since its last sync.

use std::collections::BTreeSet;

use sky_devices::block::simulated::Random;
use sky_devices::icache::Mode;

use super::disks::Disks;
use super::model::{Event, Model};
use super::world::{MODES, World, live, read_all};

/// What a life leaves: its disks' histories, and what is known at each moment.
struct Life {
    disks: Disks,
    before: Model,
    /// From this moment on `after` counts.
    known: usize,
    after: Model,
    events: Vec<super::world::Happened>,
}

impl Life {
    fn model(&self, moment: usize) -> Model {
        if moment < self.known {
            return self.before.clone();
        }
        let mut model = self.after.clone();
        for happened in &self.events {
            let over = happened.end <= moment;
            match happened.event {
                Event::Write { .. } if over || happened.begin < moment => {
                    model.apply(&happened.event, over && happened.succeeded);
                }
                Event::Flush | Event::Found(_) if over => model.apply(&happened.event, happened.succeeded),
                _ => {}
            }
        }
        model
    }
}

/// Crashes a life at some moments, in some ways; every second disk lives on to a second crash.
fn crash(
    life: &Life,
    random: &mut Random,
    moments: u64,
    choices: usize,
    lives_on: bool,
) -> Result<u64, String> {
    let all = life.disks.moments.lock().unwrap().len() as u64;
    let chosen: BTreeSet<u64> = (0..moments).map(|_| random.below(all)).collect();
    crash_at(life, random, &chosen, choices, lives_on)
}

fn crash_at(
    life: &Life,
    random: &mut Random,
    chosen: &BTreeSet<u64>,
    choices: usize,
    lives_on: bool,
) -> Result<u64, String> {
    let all = life.disks.moments.lock().unwrap().clone();
    let (fast, slow) = (life.disks.fast.history(), life.disks.slow.history());
    let mut states = 0;
    for &moment in chosen {
        let moment = moment as usize;
        let (fast, slow) = (fast.at(all[moment].0), slow.at(all[moment].1));
        let model = life.model(moment);
        let fast_choices = fast.choices(choices, random);
        let slow_choices = slow.choices(choices, random);
        for &fast_choice in &fast_choices {
            let slow_choice = slow_choices[random.below(slow_choices.len() as u64) as usize];
            let disks = Disks::of(fast.disk(fast_choice), slow.disk(slow_choice));
            states += 1;
            states += recover(disks, &model, random, lives_on).map_err(|error| {
                let (fast, slow) = (fast.describe(), slow.describe());
                format!("moment {moment}, fast {fast_choice}, slow {slow_choice}: {error}\nfast:\n{fast}slow:\n{slow}")
            })?;
        }
    }
    Ok(states)
}

/// Opens a cache after a crash, and sees that what it says is right and stays.
fn recover(disks: Disks, model: &Model, random: &mut Random, lives_on: bool) -> Result<u64, String> {
    let mode = MODES[random.below(3) as usize];
    let mut world = World::on(disks, model.clone(), 1_000_000);
    world.open(mode)?;
    let found = model.check_crashed(&world.read_all()?)?;
    let known = world.disks.now();
    let mut after = model.clone();
    after.apply(&Event::Found(found), true);
    world.model = after.clone();
    if lives_on && random.one_in(4) {
        live(&mut world, random, 12).map_err(|error| format!("second life: {error}"))?;
        world.kill();
        let (disks, events) = (world.disks.clone(), world.events.clone());
        let life = Life { disks, before: model.clone(), known, after, events };
        return crash(&life, random, 6, 3, false).map_err(|error| format!("second crash: {error}"));
    }
    match random.below(3) {
        0 => world.cache.as_ref().unwrap().clear().map_err(|error| error.to_string())?,
        1 => {
            world.kill();
            world.open(mode)?;
        }
        _ => {
            world.close()?;
            world
                .model
                .check_live(0, &read_all(&*world.disks.slow())?)
                .map_err(|error| format!("slow: {error}"))?;
            world.open(mode)?;
        }
    }
    world.model.check_live(0, &world.read_all()?).map_err(|error| format!("not stable: {error}"))?;
    Ok(0)
}

fn lives(mode: Mode, seeds: std::ops::Range<u64>) -> u64 {
    let mut states = 0;
    for seed in seeds {
        let mut random = Random::new(seed);
        let mut world = World::new();
        world.open(mode).unwrap();
        let result = live(&mut world, &mut random, 60).and_then(|()| {
            world.kill();
            let life = Life {
                disks: world.disks.clone(),
                before: Model::new(),
                known: 0,
                after: Model::new(),
                events: world.events.clone(),
            };
            crash(&life, &mut random, 40, 5, true)
        });
        match result {
            Ok(more) => states += more,
            Err(error) => panic!("SKY_SEED={seed} {mode:?}: {error}"),
        }
    }
    println!("{mode:?}: {states} crash states");
    states
}

#[test]
fn crashes_while_writing_through() {
    assert!(lives(Mode::Through, super::seeds(4)) > 100);
}

#[test]
fn crashes_while_writing_back() {
    assert!(lives(Mode::Back, super::seeds(4)) > 100);
}

#[test]
fn crashes_while_writing_around() {
    assert!(lives(Mode::Around, super::seeds(2)) > 50);
}

/// At every moment of a cache that becomes larger or smaller, again and again.
fn resizes(mode: Mode) {
    let (mut states, mut moments) = (0, 0);
    for seed in super::seeds(2) {
        let mut random = Random::new(seed ^ 0x5e51);
        let mut world = World::new();
        world.open(mode).unwrap();
        let lived = (0..4).try_for_each(|_| {
            live(&mut world, &mut random, 25)?;
            world.resize(&mut random)
        });
        let result = lived.and_then(|()| live(&mut world, &mut random, 5)).and_then(|()| {
            world.kill();
            let life = Life {
                disks: world.disks.clone(),
                before: Model::new(),
                known: 0,
                after: Model::new(),
                events: world.events.clone(),
            };
            let chosen = world.resizes.iter().flat_map(|&(begin, end)| begin as u64..=end as u64).collect();
            let tried = if super::nightly() { chosen } else { some(&chosen, 60, &mut random) };
            moments += tried.len();
            crash_at(&life, &mut random, &tried, 3, true)
        });
        match result {
            Ok(more) => states += more,
            Err(error) => panic!("SKY_SEED={seed} {mode:?}: {error}"),
        }
    }
    println!("{mode:?}: {states} crash states at {moments} moments of resizes");
    assert!(states > 100);
}

/// Some of many.
fn some(of: &BTreeSet<u64>, most: u64, random: &mut Random) -> BTreeSet<u64> {
    let count = of.len() as u64;
    of.iter().copied().filter(|_| random.below(count) < most).collect()
}

#[test]
fn crashes_while_resizing_and_writing_through() {
    resizes(Mode::Through);
}

#[test]
fn crashes_while_resizing_and_writing_back() {
    resizes(Mode::Back);
}

#[test]
fn crashes_while_resizing_and_writing_around() {
    resizes(Mode::Around);
}
