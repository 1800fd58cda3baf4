//! Tiers that fail: an error or what is right, and afterwards nothing that was flushed is lost.

use sky_devices::block::simulated::{Fault, FaultKind, FaultOn, Random};

use super::world::{MODES, World, live};

fn fault(random: &mut Random, on: FaultOn) -> Fault {
    Fault {
        on,
        after: random.below(if on == FaultOn::Sync { 20 } else { 150 }),
        kind: FaultKind::Io,
        lasting: random.one_in(2),
        partial: random.one_in(2),
    }
}

#[test]
fn a_tier_that_fails_is_an_error_or_not_noticed() {
    for seed in super::seeds(30) {
        for on_fast in [true, false] {
            let mut random = Random::new(seed);
            let mode = MODES[random.below(3) as usize];
            let mut world = World::new();
            world.open(mode).unwrap();
            let on =
                [FaultOn::Read, FaultOn::Write, FaultOn::Sync, FaultOn::AnyChange][random.below(4) as usize];
            let disk = if on_fast { &world.disks.fast } else { &world.disks.slow };
            disk.inject(fault(&mut random, on));
            world.faulty = true;
            let result = live(&mut world, &mut random, 120);
            assert_eq!(result, Ok(()), "SKY_SEED={seed} {mode:?} {on_fast} {on:?}");
            world.kill();
            let mut later = World::on(world.disks.copy(), world.model.clone(), 1_000_000);
            let result = later.open(mode).and_then(|()| {
                let found = later.model.check_crashed(&later.read_all()?)?;
                later.model.apply(&super::model::Event::Found(found), true);
                later.cache.as_ref().unwrap().clear().map_err(|error| error.to_string())?;
                later.model.check_live(0, &later.read_all()?)
            });
            assert_eq!(result, Ok(()), "after: SKY_SEED={seed} {mode:?} {on_fast} {on:?}");
        }
    }
}
