use std::collections::{BTreeMap, HashMap, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::block::simulated::Random;

mod reference;
use reference::{Lirs, Lru};

fn class(id: u8) -> ClassId {
    ClassId::new(id).unwrap()
}

fn policy(lines: &str) -> Policy {
    Policy::parse(&format!("{}\n{lines}", crate::policy::HEADER)).unwrap()
}

/// The cache alone, as a trace meets it.
struct Cache {
    lines: Lines,
    free: Vec<Line>,
    hits: u64,
}

impl Cache {
    fn new(capacity: u32, policy: &Policy) -> Self {
        let lines = Lines::new(capacity, capacity, policy);
        Self { lines, free: (0..capacity).rev().collect(), hits: 0 }
    }

    /// Answers whether it was a hit.
    fn access(&mut self, block: u32, class: ClassId) -> bool {
        self.used(block, class, true)
    }

    fn used(&mut self, block: u32, class: ClassId, read: bool) -> bool {
        if let Some(line) = self.lines.find(block) {
            self.lines.reclassify(line, class);
            self.lines.touch(line);
            self.hits += 1;
            return true;
        }
        match self.lines.room(class) {
            Room::Refused => return false,
            Room::Victim(line) => {
                self.lines.evict(line);
                self.free.push(line);
            }
            Room::Free => {}
        }
        let line = self.free.pop().unwrap();
        self.lines.insert(line, block, class, read);
        false
    }
}

fn adopt(lines: &mut Lines, policy: &Policy) {
    lines.adopt(policy);
    (0..lines.len()).for_each(|line| lines.adopt_line(line, policy));
}

/// Everything that is counted is counted again, line by line.
fn check(lines: &Lines) {
    let mut places: HashMap<Line, (ClassId, Place)> = HashMap::new();
    for id in 0..34 {
        let share = lines.shares.of(class(id));
        for (queue, place) in [(share.cold, Place::Cold), (share.hot, Place::Hot)] {
            let found: Vec<Line> = lines.table.iter(queue).collect();
            assert_eq!(found.len(), queue.length as usize);
            assert_eq!(found.last().copied().unwrap_or(NONE), queue.tail);
            for line in found {
                assert!(places.insert(line, (class(id), place)).is_none(), "in two queues");
            }
        }
        let proven = lines.table.iter(share.hot).filter(|&line| lines.has(line, Mark::Proven)).count();
        assert_eq!(proven, share.proven as usize);
    }
    assert_eq!(places.len(), lines.held as usize);
    assert!(lines.held <= lines.capacity);
    for line in 0..lines.len() {
        match places.get(&line) {
            None => assert_eq!((lines.place(line), lines.block(line)), (Place::Free, None)),
            Some(&place) => {
                assert_eq!((lines.class(line), lines.place(line)), place);
                assert_eq!(lines.find(lines.block(line).unwrap()), Some(line));
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Access(u32, u8),
    Remove(u32),
    Replace(u32),
    Reclassify(u32, u8),
    Adopt(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let block = || prop_oneof![0..20u32, 0..120u32];
    prop_oneof![
        20 => (block(), 0..7u8).prop_map(|(block, class)| Step::Access(block, class)),
        2 => block().prop_map(Step::Remove),
        2 => block().prop_map(Step::Replace),
        2 => (block(), 0..7u8).prop_map(|(block, class)| Step::Reclassify(block, class)),
        1 => (0..3usize).prop_map(Step::Adopt),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Against a map from blocks to classes, which is told of every block that comes and goes.
    #[test]
    fn a_map_agrees(capacity in 1..40u32, steps in proptest::collection::vec(step(), 1..300)) {
        let policies = [
            Policy::paper(),
            policy("0,unclassified,9,0.3\n1,direct,,0.5\n2,metadata,0,1\n3,io_class:9,3,0\n4,io_class:9,3,0.2\n"),
            policy("0,unclassified,9,0\n1,direct,,1\n2,metadata,,1\n5,io_class:9,3,1\n6,io_class:9,3,1\n"),
        ];
        let mut lines = Lines::new(capacity + 1, capacity, &policies[0]);
        let mut free: Vec<Line> = (0..capacity + 1).collect();
        let mut now = &policies[0];
        let mut map: BTreeMap<u32, ClassId> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Access(block, id) => {
                    let id = now.class(class(id)).id();
                    if let Some(line) = lines.find(block) {
                        prop_assert_eq!(map.get(&block), Some(&lines.class(line)));
                        lines.touch(line);
                        continue;
                    }
                    prop_assert!(!map.contains_key(&block));
                    let before = map.values().filter(|other| **other == id).count() as u64;
                    let room = lines.room(id);
                    prop_assert_eq!(lines.admits(id), now.class(id).allocation().caches());
                    if let Room::Victim(line) = room {
                        let gone = lines.block(line).unwrap();
                        let theirs = map.remove(&gone).unwrap();
                        let pinned = now.class(theirs).priority() == crate::policy::Priority::Pinned;
                        let mine = now.class(id).priority() == crate::policy::Priority::Pinned;
                        prop_assert!(mine || !pinned, "a pinned line went for another class");
                        lines.evict(line);
                        free.push(line);
                    }
                    if room == Room::Refused {
                        let pinned = map.values().filter(|id| now.class(**id).priority() == crate::policy::Priority::Pinned);
                        let all = pinned.count() as u64 >= u64::from(capacity - capacity / 8);
                        prop_assert!(all || !now.class(id).allocation().caches());
                        continue;
                    }
                    lines.insert(free.pop().unwrap(), block, id, !block.is_multiple_of(3));
                    map.insert(block, id);
                    let most = now.class(id).allocation().of(u64::from(capacity)).max(1);
                    let held = map.values().filter(|other| **other == id).count() as u64;
                    prop_assert!(held <= most.max(before), "more than its share");
                }
                Step::Remove(block) => {
                    prop_assert_eq!(lines.find(block).is_some(), map.remove(&block).is_some());
                    if let Some(line) = lines.find(block) {
                        lines.remove(line);
                        free.push(line);
                    }
                }
                Step::Replace(block) => {
                    if let Some(old) = lines.find(block)
                        && let Some(new) = free.pop()
                    {
                        lines.replace(old, new);
                        free.push(old);
                        prop_assert_eq!(lines.find(block), Some(new));
                    }
                }
                Step::Reclassify(block, id) => {
                    let id = now.class(class(id)).id();
                    if let Some(line) = lines.find(block) {
                        let (from, before) = (lines.class(line), lines.of_class(id));
                        lines.reclassify(line, id);
                        let moved = lines.class(line) == id;
                        let allocation = now.class(id).allocation();
                        let most = if allocation.caches() { allocation.of(u64::from(capacity)).max(1) } else { 0 };
                        let pinned = now.class(id).priority() == crate::policy::Priority::Pinned;
                        prop_assert!(moved || lines.class(line) == from);
                        prop_assert!(moved || pinned || u64::from(before) >= most);
                        prop_assert!(!moved || from == id || u64::from(before) < most);
                        map.insert(block, lines.class(line));
                    }
                }
                Step::Adopt(number) => {
                    now = &policies[number];
                    adopt(&mut lines, now);
                    map.values_mut().for_each(|id| *id = now.class(*id).id());
                }
            }
            check(&lines);
            prop_assert_eq!(lines.held as usize, map.len());
        }
    }
}

/// A scan keeps to the cold lines, and a class to its allocation.
#[test]
fn shares_hold() {
    let policy = policy("0,unclassified,9,1\n1,direct,3,0.25\n2,metadata,0,1\n");
    let mut cache = Cache::new(400, &policy);
    (0..10_000).for_each(|block| _ = cache.access(block, class(1)));
    assert_eq!(cache.lines.of_class(class(1)), 100);
    (20_000..30_000).for_each(|block| _ = cache.access(block, class(0)));
    // There was room for both, and class 0 goes first. Its one cold line may be the other's, where there are no more.
    assert!(cache.lines.of_class(class(1)) >= 99);
    (40_000..50_000).for_each(|block| _ = cache.access(block, class(2)));
    assert!(cache.lines.of_class(class(0)) > 0 && cache.lines.of_class(class(2)) > 300);
    check(&cache.lines);
}

/// Data that is used again and again keeps an eighth, however much metadata there is; metadata that is used again has
/// the rest.
#[test]
fn metadata_does_not_starve_data() {
    let mut cache = Cache::new(800, &Policy::paper());
    let mut random = Random::new(1);
    let mut used_again = 0;
    for round in 0..40_000u32 {
        cache.access(1_000_000 + round, class(5));
        let block = u32::try_from(random.below(80)).unwrap();
        used_again += u64::from(round >= 20_000 && cache.access(block, class(0)));
    }
    assert!(used_again > 19_000, "{used_again} of 20000 uses of 80 data blocks were hits");
}

#[test]
fn pinned_lines_stay_and_leave_an_eighth() {
    let policy = policy("0,unclassified,9,1\n1,metadata,,1\n");
    let mut cache = Cache::new(80, &policy);
    (0..30).for_each(|block| _ = cache.access(block, class(1)));
    // What is learnt late pins no more than what is known at once.
    (1000..5000).for_each(|block| _ = cache.access(block, class(0)));
    assert!((0..30).all(|block| cache.lines.find(block).is_some()));
    (0..5000).for_each(|block| _ = cache.access(block, class(1)));
    assert_eq!(cache.lines.of_class(class(1)), 70);
    assert!(cache.access(4999, class(1)));
}

#[test]
fn a_class_that_is_learnt_late_moves_the_line() {
    let mut cache = Cache::new(100, &Policy::paper());
    (0..100).for_each(|block| _ = cache.access(block, class(0)));
    let line = cache.lines.find(7).unwrap();
    cache.lines.reclassify(line, class(5));
    assert_eq!((cache.lines.of_class(class(0)), cache.lines.of_class(class(5))), (99, 1));
    (1000..2000).for_each(|block| _ = cache.access(block, class(4)));
    assert!(cache.lines.find(7).is_some() && cache.lines.find(8).is_none());
    check(&cache.lines);
}

/// Numbers that follow Zipf's law closely enough: the logarithm of the rank is even.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "from 0 to the number of blocks, which is small"
)]
fn zipf(random: &mut Random, blocks: f64) -> u32 {
    let even = random.below(1 << 32) as f64 / (1u64 << 32) as f64;
    (blocks.powf(even) - 1.0) as u32
}

fn traces() -> Vec<(&'static str, Vec<u32>)> {
    let mut random = Random::new(3);
    let popular: Vec<u32> = (0..60_000).map(|_| zipf(&mut random, 20_000.0)).collect();
    let looped: Vec<u32> = (0..60_000).map(|at| at % 1300).collect();
    let scanned: Vec<u32> = popular
        .iter()
        .enumerate()
        .flat_map(|(at, &block)| {
            let scan = (at / 3000 % 2 == 1).then_some(100_000 + u32::try_from(at).unwrap());
            std::iter::once(block).chain(scan)
        })
        .collect();
    let drifting: Vec<u32> = (0..60_000).map(|at| at / 20 + zipf(&mut random, 600.0)).collect();
    vec![("popular", popular), ("loop", looped), ("scans", scanned), ("drift", drifting)]
}

/// Without classes: like LIRS with its full stack, which is a few hundredths below LRU where what is used drifts.
#[test]
fn without_classes_it_is_nearly_as_good_as_the_better_of_lru_and_lirs() {
    for (name, trace) in traces() {
        for capacity in [100u32, 400] {
            let mut cache = Cache::new(capacity, &Policy::paper());
            let (mut lru, mut lirs) = (Lru::new(capacity as usize), Lirs::new(capacity as usize));
            for &block in &trace {
                cache.access(block, class(0));
                lru.access(block);
                lirs.access(block);
            }
            let ratio = |hits: u64| hits as f64 / trace.len() as f64;
            let (ours, lru, lirs) = (ratio(cache.hits), ratio(lru.hits), ratio(lirs.hits));
            println!("{name} {capacity}: ours {ours:.3}, LRU {lru:.3}, LIRS {lirs:.3}");
            assert!(ours + 0.03 >= lru.max(lirs), "{name} {capacity}: {ours} is below {lru}, {lirs}");
        }
    }
}

/// `find` between scans: its metadata is kept from the first time on, as far as there is room.
#[test]
fn metadata_is_kept_between_scans() {
    let mut cache = Cache::new(4000, &Policy::paper());
    let (mut hits, mut scan) = (0u32, 1_000_000);
    for _ in 0..5 {
        hits += (0..3000).map(|block| u32::from(cache.access(block, class(5)))).sum::<u32>();
        for _ in 0..20_000 {
            scan += 1;
            cache.access(scan, class(0));
        }
    }
    assert_eq!(hits, 4 * 3000, "the best that is possible");
}

/// A journal: metadata that is written again and again, and not read.
#[test]
fn what_is_only_written_leaves_other_classes_their_room() {
    let mut cache = Cache::new(1000, &Policy::paper());
    (0..2).for_each(|_| (0..900).for_each(|block| _ = cache.access(block, class(4))));
    (0..30_000).for_each(|at| _ = cache.used(10_000 + at % 6000, class(5), false));
    let stay = (0..900).filter(|&block| cache.lines.find(block).is_some()).count();
    assert!(stay > 880, "{stay}");
    // Reading is what class 5 is kept for.
    (0..2).for_each(|_| (50_000..50_500).for_each(|block| _ = cache.access(block, class(5))));
    assert!((50_000..50_500).all(|block| cache.lines.find(block).is_some()));
}

/// Metadata that outgrows the cache: what fits of it stays.
#[test]
fn a_loop_of_metadata_that_is_too_large_keeps_a_part() {
    let mut cache = Cache::new(2000, &Policy::paper());
    let mut last = 0;
    for _ in 0..6 {
        last = (0..4000).map(|block| u32::from(cache.access(block, class(5)))).sum::<u32>();
        (0..9000).for_each(|block| _ = cache.access(1_000_000 + block, class(0)));
    }
    assert!(last >= 1900, "{last} of 4000");
}

#[test]
fn a_line_takes_less_than_24_bytes() {
    for lines in [1u32 << 18, 1 << 20, 100_000_000] {
        assert!(Lines::bytes(lines) * 100 / u64::from(lines) <= 2330, "{}", Lines::bytes(lines));
    }
    let lines = Lines::new(10_000, 10_000, &Policy::paper());
    let table = size_of_val(&*lines.table.blocks) as u64 * 4;
    assert_eq!(table, 10_000 * table::LINE_BYTES);
}
