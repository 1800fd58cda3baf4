use super::super::Random;
use super::*;

fn time(work: impl FnOnce(&mut Clock)) -> u64 {
    let mut clock = Clock::default();
    work(&mut clock);
    clock.nanoseconds
}

#[test]
fn a_sequential_disk_does_not_seek() {
    let disk = Latency::rotating();
    let write = 100_000 + 4 * 6_500;
    let sequential = time(|clock| {
        clock.write(&disk, 0, 4096);
        clock.write(&disk, 4096, 4096);
        clock.flush(&disk);
    });
    assert_eq!(sequential, 2 * write + 8_300_000);
    let scattered = time(|clock| {
        clock.write(&disk, 0, 4096);
        clock.write(&disk, 0, 4096);
    });
    assert_eq!(scattered, 2 * write + 12_000_000);
}

#[test]
fn a_batch_overlaps_as_far_as_the_disk_can() {
    let batch = |latency: &Latency, count| {
        time(|clock| clock.read_batch(latency, (0..count).map(|index| (index * 4096, 4096))))
    };
    assert_eq!(batch(&Latency::ssd(), 64), 2 * 80_000 + 64 * 2_000);
    assert_eq!(batch(&Latency::ssd(), 65), 3 * 80_000 + 65 * 2_000);
    assert_eq!(batch(&Latency::rotating(), 3), 3 * (100_000 + 26_000));
}

/// Milliseconds that the arm takes, on average, between places of the whole disk.
fn average(seek: &Seek, arm: Arm) -> f64 {
    let mut random = Random::new(1);
    let ways = 100_000;
    let total: u64 = (0..ways)
        .map(|_| {
            let distance = random.below(seek.stroke).abs_diff(random.below(seek.stroke));
            seek.time(arm, distance.max(1)) - seek.rotation
        })
        .sum();
    total as f64 / f64::from(ways) / 1e6
}

#[test]
fn the_products_have_the_averages_that_their_makers_state() {
    for (latency, read, write) in [(Latency::hdd_5400(), 12.0, 13.0), (Latency::hdd_7200(), 7.4, 8.2)] {
        let seek = latency.seek;
        let found = (average(&seek, seek.read), average(&seek, seek.write));
        assert!((found.0 - read).abs() < 0.01 * read, "{found:?}");
        assert!((found.1 - write).abs() < 0.01 * write, "{found:?}");
    }
    // The whole stroke of the 5K320 takes 20 and 21 ms; it is a little longer here, since nothing but the average fits.
    let seek = Latency::hdd_5400().seek;
    let whole = |arm| (seek.time(arm, seek.stroke) - seek.rotation) as f64 / 1e6;
    assert!((20.0..22.0).contains(&whole(seek.read)) && (21.0..24.0).contains(&whole(seek.write)));
}

#[test]
fn a_read_of_a_hard_disk_is_its_seek_half_a_rotation_and_its_bytes() {
    let disk = Latency::hdd_5400();
    let read = |offset| time(|clock| clock.read_batch(&disk, [(0, 0), (offset, 100_000)].into_iter()));
    let bytes = 1_000_000;
    assert_eq!(read(0), bytes);
    assert!(read(1).abs_diff(bytes + 1_000_000 + 5_500_000) < 1_000);
    // A quarter of the stroke takes half of what the whole of it takes more.
    assert_eq!(read(80_000_000_000), bytes + 1_000_000 + 20_625_000 / 2 + 5_500_000);
    assert_eq!(read(u64::MAX), read(320_000_000_000));
}

#[test]
fn a_solid_state_disk_has_no_distances() {
    let disk = Latency::paper_ssd();
    let at = |offset| time(|clock| clock.write(&disk, offset, 4096));
    assert_eq!((at(0), at(1 << 40)), (115_000 + 16_384, 115_000 + 16_384));
}

/// Ruemmler and Wilkes measured the HP 97560. One root instead of their two pieces, with the same average, is never a
/// seventh away from them.
#[test]
fn a_disk_that_was_measured_is_followed() {
    const CYLINDERS: u32 = 1962;
    let measured = |distance: u32| match f64::from(distance) {
        short if short <= 383.0 => 3.24 + 0.400 * short.sqrt(),
        long => 8.00 + 0.008 * long,
    };
    // So many pairs of cylinders have a distance.
    let (mut time, mut pairs) = (0.0, 0.0);
    for distance in 1..CYLINDERS {
        time += measured(distance) * f64::from(CYLINDERS - distance);
        pairs += f64::from(CYLINDERS - distance);
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some milliseconds")]
    let arm = Arm::averaging(3_240_000, (time / pairs * 1e6) as u64);
    let seek = Seek { read: arm, write: arm, stroke: u64::from(CYLINDERS), rotation: 0 };
    for distance in 1..CYLINDERS {
        let (ours, theirs) = (seek.time(arm, distance.into()) as f64 / 1e6, measured(distance));
        assert!((ours / theirs - 1.0).abs() < 1.0 / 7.0, "{distance}: {ours} {theirs}");
    }
}
