//! The index against a map, with more claims than it has memory for.

use std::collections::HashMap;

use proptest::prelude::*;

use super::super::options::{CreateOptions, Verify};
use super::*;
use crate::block::simulated::{SimulatedDisk, SimulatedOptions};
use crate::idedup::create;

fn image(capacity: u64, verify: Verify) -> (Arc<SimulatedDisk>, Layout) {
    let options = SimulatedOptions { record: false, ..SimulatedOptions::file() };
    let disk = Arc::new(SimulatedDisk::new(options));
    let options = CreateOptions { capacity: Some(capacity), verify, ..CreateOptions::new(capacity) };
    create(&*disk, &options).unwrap();
    let layout = Layout::read(&*disk).unwrap();
    (disk, layout)
}

fn name(number: u32) -> Fingerprint {
    Verify::Fingerprint.name(&number.to_le_bytes())
}

fn claim(number: u32) -> Claim {
    Claim { physical: number + 1, generation: number % 7 }
}

#[test]
fn holds_more_than_its_memory_and_reads_one_bucket_for_a_hit_and_hardly_any_for_a_miss() {
    let count = 60_000;
    let (disk, layout) = image(u64::from(count) * BLOCK as u64, Verify::Fingerprint);
    let storage = Arc::clone(&disk) as Arc<dyn Storage>;
    let empty = vec![0; usize::try_from(layout.buckets.div_ceil(8)).unwrap()];
    // A twelfth of what all claims take.
    let mut index = Index::new(storage, layout, 200 << 10, empty, &[]);
    for number in 0..count {
        if index.is_full() {
            index.spill(index.mark(), &|_| true).unwrap();
        }
        index.insert(name(number), claim(number));
    }
    index.spill(index.mark(), &|_| true).unwrap();
    assert!(index.waiting.is_empty() && index.counts().merges > 1 && !index.staged.is_empty());
    let before = disk.counts();
    let (mut lost, mut hits) = (0, 0);
    for number in (0..count).step_by(7) {
        hits += 1;
        match index.find(&name(number)).unwrap() {
            (Some(found), _) => assert_eq!(found, claim(number)),
            (None, _) => lost += 1,
        }
    }
    // A run is read in vain one time in a thousand for each run.
    assert!(disk.counts().reads - before.reads <= hits + hits / 50);
    assert!(lost <= u64::from(count) / 1000 && index.counts().dropped <= u64::from(count) / 1000, "{lost}");
    assert!(disk.counts().reads - before.reads > 1000, "the pages fit into its memory");
    let before = disk.counts().reads;
    let misses =
        (count..count + 4000).filter(|number| index.find(&name(*number)).unwrap().0.is_some()).count();
    assert_eq!(misses, 0);
    assert!(disk.counts().reads - before < 400, "{}", disk.counts().reads - before);
}

#[test]
fn dead_claims_make_room_and_torn_buckets_are_empty() {
    let (disk, layout) = image(70 * BLOCK as u64, Verify::Fingerprint);
    assert_eq!(layout.buckets, 1);
    let storage = Arc::clone(&disk) as Arc<dyn Storage>;
    let mut index = Index::new(Arc::clone(&storage), layout, 0, vec![0], &[]);
    let mut living: HashMap<u32, Claim> = HashMap::new();
    for round in 0..9u32 {
        let alive = |claim: Claim| claim.generation == round % 7;
        living.clear();
        for number in (round..).step_by(7).take(60) {
            index.insert(name(number), claim(number));
            living.insert(number, claim(number));
        }
        index.spill(index.mark(), &alive).unwrap();
    }
    for (number, claim) in &living {
        assert_eq!(index.find(&name(*number)).unwrap().0, Some(*claim));
    }
    assert_eq!(index.counts().dropped, 0);
    let mut again = Index::new(storage, layout, 0, index.written().to_vec(), &[]);
    let any = *living.keys().next().unwrap();
    assert_eq!(again.find(&name(any)).unwrap(), (Some(living[&any]), Answered::Disk));
    assert_eq!(again.find(&name(any)).unwrap(), (Some(living[&any]), Answered::Cache));
    assert_eq!(again.find(&name(u32::MAX)).unwrap(), (None, Answered::Filter));
    disk.write(layout.bucket_place(0) + 512, &[1; 512]).unwrap();
    let mut torn = Index::new(disk, layout, 0, index.written().to_vec(), &[]);
    assert_eq!(torn.find(&name(any)).unwrap(), (None, Answered::Disk));
    assert_eq!(torn.find(&name(any)).unwrap(), (None, Answered::Filter));
    assert_eq!(torn.counts().torn, 1);
}

#[test]
fn what_is_not_durable_waits() {
    let (disk, layout) = image(1000 * BLOCK as u64, Verify::Compare { bits: 128 });
    let mut index = Index::new(disk, layout, 0, vec![0; 16], &[]);
    let short = |number: u32| Verify::Compare { bits: 128 }.name(&number.to_le_bytes());
    index.insert(short(1), claim(1));
    let mark = index.mark();
    index.insert(short(2), claim(2));
    index.spill(mark, &|_| true).unwrap();
    assert_eq!(index.find(&short(1)).unwrap(), (Some(claim(1)), Answered::Disk));
    assert_eq!(index.find(&short(1)).unwrap(), (Some(claim(1)), Answered::Cache));
    assert_eq!(index.find(&short(2)).unwrap(), (Some(claim(2)), Answered::Waiting));
    let mut met = Vec::new();
    index
        .each(&mut |name, claim| {
            met.push((name, claim));
            Ok(())
        })
        .unwrap();
    assert_eq!(met, [(short(1), claim(1)), (short(2), claim(2))]);
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u32, u32),
    Find(u32),
    /// What was inserted before the last few goes to the medium.
    Spill(u64),
    Settle,
    /// It is opened again, with the filter that was stored, or without.
    Open(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..400u32, 0..1000u32).prop_map(|(name, claim)| Step::Insert(name, claim)),
        6 => (0..500u32).prop_map(Step::Find),
        3 => (0..6u64).prop_map(Step::Spill),
        1 => Just(Step::Settle),
        1 => any::<bool>().prop_map(Step::Open),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn finds_what_a_map_finds(
        // Of those that can be opened again there is room for few runs, or for many.
        memory in prop_oneof![Just(0), Just(1 << 20)],
        steps in proptest::collection::vec(step(), 0..400),
    ) {
        let (disk, layout) = image(4000 * BLOCK as u64, Verify::Fingerprint);
        let storage = disk as Arc<dyn Storage>;
        let written = vec![0; usize::try_from(layout.buckets.div_ceil(8)).unwrap()];
        let mut index = Index::new(Arc::clone(&storage), layout, memory, written, &[]);
        let (mut map, mut stamp) = (HashMap::new(), 0);
        for step in steps {
            match step {
                Step::Insert(number, content) => {
                    index.insert(name(number), claim(content));
                    map.insert(number, claim(content));
                }
                Step::Find(number) => {
                    let (found, by) = index.find(&name(number)).unwrap();
                    prop_assert_eq!(found, map.get(&number).copied());
                    prop_assert!(by != Answered::Filter || found.is_none());
                }
                Step::Spill(last) => {
                    index.spill(index.mark().saturating_sub(last), &|_| true).unwrap();
                    prop_assert!(index.waiting.len() as u64 <= last);
                }
                Step::Settle => {
                    index.settle(&|_| true).unwrap();
                    prop_assert!(index.staged.is_empty());
                }
                Step::Open(stored) => {
                    index.spill(index.mark(), &|_| true).unwrap();
                    stamp += 1;
                    index.store_filter(stamp).unwrap();
                    let (written, runs) = (index.written().to_vec(), index.staged_at().collect::<Vec<_>>());
                    index = Index::new(Arc::clone(&storage), layout, memory, written, &runs);
                    index.load(if stored { stamp } else { 0 }, &|_| true).unwrap();
                }
            }
        }
        let mut met = HashMap::new();
        // Newer claims come later.
        index
            .each(&mut |name, claim| {
                met.insert(name.0, claim);
                Ok(())
            })
            .unwrap();
        prop_assert_eq!(met.len(), map.len());
        for (number, claim) in map {
            prop_assert_eq!(index.find(&name(number)).unwrap().0, Some(claim));
            prop_assert_eq!(met.get(&name(number).0).copied(), Some(claim));
        }
        prop_assert_eq!(index.counts().torn, 0);
    }
}

#[test]
fn a_run_ends_with_its_first_page_that_is_none() {
    let (disk, layout) = image(4000 * BLOCK as u64, Verify::Fingerprint);
    let storage = Arc::clone(&disk) as Arc<dyn Storage>;
    let mut index = Index::new(Arc::clone(&storage), layout, 1 << 20, vec![0; 8], &[]);
    (0..400).for_each(|number| index.insert(name(number), claim(number)));
    assert!(!index.spill(index.mark(), &|_| true).unwrap());
    let runs: Vec<_> = index.staged_at().collect();
    assert_eq!(runs.iter().map(|run| run.pages).collect::<Vec<_>>(), [4]);
    disk.write(layout.staged_place(runs[0].first + 2) + 512, &[1; 512]).unwrap();
    for settled in [false, true] {
        let mut index = Index::new(Arc::clone(&storage), layout, 1 << 20, vec![0; 8], &runs);
        index.load(0, &|_| true).unwrap();
        if settled {
            index.settle(&|_| true).unwrap();
        }
        let found = (0..400).filter_map(|number| index.find(&name(number)).unwrap().0).count();
        assert_eq!(found, 202);
    }
}
