//! Damaged caches: an error, or an empty cache and the right content.

use sky_devices::block::simulated::Random;
use sky_devices::block::{BlockDevice, ErrorKind, Storage};
use sky_devices::icache::{ICache, Mode};

use super::world::{World, live, options, read_all};

/// Bytes before the lines: superblocks and journal.
const METADATA: u64 = 23 * 4096;

#[test]
fn a_damaged_cache_that_was_closed_is_refused_or_empty() {
    let (mut refused, mut opened) = (0, 0);
    for seed in super::seeds(30) {
        let mut random = Random::new(seed);
        let mut world = World::new();
        // Its journal stays in front.
        world.keeps_size = true;
        world.open(Mode::Through).unwrap();
        live(&mut world, &mut random, 60).unwrap();
        world.close().unwrap();
        for _ in 0..10 {
            let disks = world.disks.copy();
            for _ in 0..=random.below(3) {
                let at = random.below(METADATA / 512) * 512;
                let mut sector = [0; 512];
                disks.fast.read(at, &mut sector).unwrap();
                match random.below(3) {
                    0 => sector.fill(0),
                    1 => sector.iter_mut().for_each(|byte| *byte = random.bits() as u8),
                    _ => sector[random.below(512) as usize] ^= 1 << random.below(8),
                }
                disks.fast.write(at, &sector).unwrap();
            }
            match ICache::open(disks.fast(), disks.slow(), options(Mode::Back)) {
                Err(error) => {
                    refused += 1;
                    let kinds =
                        [ErrorKind::Corrupt, ErrorKind::NotThisFormat, ErrorKind::TooNew, ErrorKind::BadSize];
                    assert!(kinds.contains(&error.kind()), "{error}");
                }
                Ok(cache) => {
                    opened += 1;
                    let bytes = read_all(&cache).unwrap();
                    assert_eq!(world.model.check_live(0, &bytes), Ok(()), "SKY_SEED={seed}");
                }
            }
        }
    }
    println!("{refused} refused, {opened} opened");
}

/// Whatever lies there, also after a kill: no panic, no hang.
#[test]
fn any_bytes_are_used_or_refused() {
    for seed in super::seeds(40) {
        let mut random = Random::new(seed);
        let mut world = World::new();
        world.open(Mode::Back).unwrap();
        live(&mut world, &mut random, 60).unwrap();
        world.kill();
        for _ in 0..10 {
            let disks = world.disks.copy();
            for _ in 0..=random.below(4) {
                // Pages are sealed again, so that what they say is looked at.
                let page = random.below(METADATA / 4096) * 4096;
                let mut bytes = [0; 4096];
                disks.fast.read(page, &mut bytes).unwrap();
                for _ in 0..=random.below(4) {
                    let header = random.one_in(2);
                    let at = random.below(if header { 64 } else { 4088 }) as usize;
                    let value = [0, 0xff, random.bits() as u8, 1][random.below(4) as usize];
                    bytes[at..at + 1 + random.below(8) as usize].fill(value);
                }
                if page < 8192 {
                    let sum = crc32c::crc32c(&bytes[..4092]).to_le_bytes();
                    bytes[4092..].copy_from_slice(&sum);
                } else {
                    let sum = crc32c::crc32c(&bytes[4..]).to_le_bytes();
                    bytes[..4].copy_from_slice(&sum);
                }
                disks.fast.write(page, &bytes).unwrap();
            }
            let Ok(cache) = ICache::open(disks.fast(), disks.slow(), options(Mode::Back)) else { continue };
            let _any = read_all(&cache);
            let _done = cache.write(0, &[1; 64 << 10], &[]).and_then(|()| cache.flush());
            let _resized = cache.resize((87 + random.below(60)) * 4096);
            let _closed = cache.close();
        }
    }
}

/// A copy of the superblock that is damaged after the cache was resized: the other one does not bring the old size back.
#[test]
fn a_damaged_superblock_does_not_undo_a_resize() {
    for copy in 0..2 {
        let mut random = Random::new(copy);
        let mut world = World::new();
        world.open(Mode::Back).unwrap();
        live(&mut world, &mut random, 60).unwrap();
        world.resize(&mut random).unwrap();
        let size = world.cache.as_ref().unwrap().stats().size;
        live_at_this_size(&mut world, &mut random);
        world.kill();
        let disks = world.disks.copy();
        disks.fast.write(copy * 4096, &[0; 4096]).unwrap();
        let cache = ICache::open(disks.fast(), disks.slow(), options(Mode::Back)).unwrap();
        assert_eq!(cache.stats().size, size);
        assert!(world.model.check_crashed(&read_all(&cache).unwrap()).is_ok());
    }
}

/// Without being closed or opened, which writes superblocks.
fn live_at_this_size(world: &mut World, random: &mut Random) {
    let tags = [];
    for round in 0..100 {
        world.read(random.below(100) * 8, 8, &tags).unwrap();
        if round % 10 == 0 {
            world.flush().unwrap();
        }
    }
}
