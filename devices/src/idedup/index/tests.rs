//! The index against a map, with more claims than it has memory for.

use std::collections::HashMap;

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
    let mut index = Index::new(storage, layout, 200 << 10, empty);
    for number in 0..count {
        if index.is_full() {
            index.spill(index.mark(), &|_| true).unwrap();
        }
        index.insert(name(number), claim(number));
    }
    index.spill(index.mark(), &|_| true).unwrap();
    assert!(index.waiting.is_empty());
    let before = disk.counts();
    let mut lost = 0;
    for number in (0..count).step_by(7) {
        let reads = disk.counts().reads;
        match index.find(&name(number)).unwrap() {
            (Some(found), _) => assert_eq!(found, claim(number)),
            (None, _) => lost += 1,
        }
        assert!(disk.counts().reads <= reads + 1);
    }
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
    let mut index = Index::new(Arc::clone(&storage), layout, 0, vec![0]);
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
    let mut again = Index::new(storage, layout, 0, index.written().to_vec());
    let any = *living.keys().next().unwrap();
    assert_eq!(again.find(&name(any)).unwrap(), (Some(living[&any]), Answered::Disk));
    assert_eq!(again.find(&name(any)).unwrap(), (Some(living[&any]), Answered::Cache));
    assert_eq!(again.find(&name(u32::MAX)).unwrap(), (None, Answered::Filter));
    disk.write(layout.bucket_place(0) + 512, &[1; 512]).unwrap();
    let mut torn = Index::new(disk, layout, 0, index.written().to_vec());
    assert_eq!(torn.find(&name(any)).unwrap(), (None, Answered::Disk));
    assert_eq!(torn.find(&name(any)).unwrap(), (None, Answered::Filter));
    assert_eq!(torn.counts().torn, 1);
}

#[test]
fn what_is_not_durable_waits() {
    let (disk, layout) = image(1000 * BLOCK as u64, Verify::Compare { bits: 128 });
    let mut index = Index::new(disk, layout, 0, vec![0; 16]);
    let short = |number: u32| Verify::Compare { bits: 128 }.name(&number.to_le_bytes());
    index.insert(short(1), claim(1));
    let mark = index.mark();
    index.insert(short(2), claim(2));
    index.spill(mark, &|_| true).unwrap();
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
