//! The formats, the oracle, and the oracle's own test.

use super::case::Case;
use super::explore::{Effort, Failure, explore, explore_faults, replay};
use super::idedup::Idedup;
use super::qcow2::Qcow2;
use super::raw::Raw;
use super::selfie::Selfie;
use super::subject::Subject;
use super::toy::Toy;

const TOYS: [Toy; 7] =
    [Toy::DataSync, Toy::LastSync, Toy::OldSlot, Toy::Zeros, Toy::Rest, Toy::OldRecords, Toy::Errors];

/// Steps of a workload.
const STEPS: usize = 40;

/// How much to try with so many workloads.
fn effort(seeds: u64) -> Effort {
    if nightly() {
        let effort =
            Effort { first: 0, seeds: seeds * 60, steps: STEPS, choices: 24, lives_on: 4, faults: 100 };
        return chosen(effort);
    }
    Effort { first: 0, seeds, steps: STEPS, choices: 6, lives_on: 8, faults: 12 }
}

pub(super) fn nightly() -> bool {
    std::env::var_os("SKY_NIGHTLY").is_some()
}

/// `SKY_SEEDS=FIRST..END` has a long search done in pieces.
fn chosen(effort: Effort) -> Effort {
    let Ok(text) = std::env::var("SKY_SEEDS") else { return effort };
    let (first, end) = text.split_once("..").unwrap();
    let (first, end): (u64, u64) = (first.parse().unwrap(), end.parse().unwrap());
    Effort { first, seeds: end - first, ..effort }
}

fn subjects() -> Vec<Box<dyn Subject>> {
    let mut subjects: Vec<Box<dyn Subject>> = vec![
        Box::new(Raw { atomic_write: 4096 }),
        Box::new(Raw { atomic_write: 512 }),
        Box::new(Selfie::Embedded),
        Box::new(Selfie::SmallSectors),
        Box::new(Selfie::Ordered),
        Box::new(Selfie::Sparse),
        Box::new(Selfie::NoHoles),
        Box::new(Selfie::Tended),
        Box::new(Selfie::Worn),
        Box::new(Selfie::Long),
        Box::new(Idedup::Fingerprints),
        Box::new(Idedup::SmallSectors),
        Box::new(Idedup::Collisions),
        Box::new(Idedup::Tight),
        Box::new(Idedup::Collected),
        Box::new(Qcow2),
        Box::new(Toy::Nothing),
    ];
    subjects.extend(TOYS.into_iter().map(|toy| Box::new(toy) as Box<dyn Subject>));
    subjects
}

/// Tries a subject, and says how to repeat what failed.
fn try_hard(subject: &dyn Subject, effort: Effort) {
    tell(subject, explore(subject, effort, true));
}

/// Tries a few of its workloads with every error of the medium.
fn try_errors(subject: &dyn Subject) {
    let (seeds, steps) = if nightly() { (24, STEPS) } else { (1, 16) };
    let effort = Effort { first: 0, seeds, steps, choices: 4, lives_on: 16, faults: 0 };
    tell(subject, explore_faults(subject, if nightly() { chosen(effort) } else { effort }));
}

fn tell(subject: &dyn Subject, (states, failures): (u64, Vec<Failure>)) {
    if let Some(failure) = failures.first() {
        panic!("SKY_CRASH='{}': {}", failure.case, failure.why);
    }
    println!("{}: {states} crash states", subject.name());
}

#[test]
fn raw_images_pass() {
    try_hard(&Raw { atomic_write: 4096 }, effort(12));
    try_hard(&Raw { atomic_write: 512 }, effort(12));
}

#[test]
fn a_small_format_that_forgets_nothing_passes() {
    try_hard(&Toy::Nothing, effort(6));
}

#[test]
fn whatever_a_small_format_forgets_is_found_and_found_again() {
    for toy in TOYS {
        let (_, failures) = explore(&toy, effort(24), true);
        let Some(failure) = failures.first() else { panic!("{}: nothing was found", toy.name()) };
        println!("{}: {}", failure.case, failure.why);
        let case: Case = failure.case.to_string().parse().unwrap();
        assert_eq!(replay(&toy, &case, effort(24)).unwrap_err().why, failure.why);
    }
}

#[test]
fn selfie_passes_where_blocks_carry_their_mappings() {
    try_hard(&Selfie::Embedded, effort(24));
}

#[test]
fn selfie_passes_where_tables_hold_all_mappings() {
    try_hard(&Selfie::SmallSectors, effort(16));
}

#[test]
fn selfie_passes_on_a_disk_without_holes() {
    try_hard(&Selfie::NoHoles, effort(8));
}

#[test]
fn selfie_passes_in_the_ways_it_is_compared_with() {
    try_hard(&Selfie::Ordered, effort(8));
    try_hard(&Selfie::Sparse, effort(8));
}

#[test]
fn selfie_passes_whenever_its_chores_are_done() {
    try_hard(&Selfie::Tended, effort(8));
}

#[test]
fn selfie_passes_where_zones_become_full_and_free() {
    try_hard(&Selfie::Worn, effort(8));
    try_hard(&Selfie::Long, effort(4));
}

#[test]
fn selfie_passes_whatever_fails() {
    for subject in [Selfie::Embedded, Selfie::SmallSectors, Selfie::Worn] {
        try_errors(&subject);
    }
}

#[test]
fn idedup_passes() {
    try_hard(&Idedup::Fingerprints, effort(2));
    try_hard(&Idedup::SmallSectors, effort(1));
}

#[test]
fn idedup_passes_where_fingerprints_collide() {
    try_hard(&Idedup::Collisions, effort(1));
}

#[test]
fn idedup_passes_where_blocks_are_few_and_checkpoints_many() {
    try_hard(&Idedup::Tight, effort(1));
}

#[test]
fn idedup_passes_whenever_garbage_is_collected() {
    try_hard(&Idedup::Collected, effort(1));
}

#[test]
fn idedup_passes_whatever_fails() {
    try_errors(&Idedup::Tight);
    if nightly() {
        try_errors(&Idedup::SmallSectors);
    }
}

/// A peer is looked at, not judged: what it loses is printed.
#[test]
fn qcow2_is_tried_by_the_same_oracle() {
    let effort = Effort { faults: 0, ..effort(24) };
    let one_crash = Effort { lives_on: u64::MAX, ..effort };
    for (crashes, effort) in [("one crash", one_crash), ("two", effort)] {
        let (states, failures) = explore(&Qcow2, effort, false);
        let (failed, tried) = (failures.len(), effort.seeds);
        println!("qcow2, {crashes}: {states} crash states, {failed} of {tried} workloads failed");
        for failure in failures.iter().take(5) {
            println!("  SKY_CRASH='{}': {}", failure.case, failure.why);
        }
        assert!(states > 0);
    }
}

/// `SKY_CRASH=CASE` repeats a case, and prints what was done to the disk.
#[test]
fn replay_a_case() {
    let Ok(text) = std::env::var("SKY_CRASH") else { return };
    let case: Case = text.parse().unwrap();
    let subjects = subjects();
    let subject = subjects.iter().find(|subject| subject.name() == case.subject).unwrap();
    if let Err(failure) = replay(&**subject, &case, effort(1)) {
        panic!("{}: {}", failure.case, failure.why);
    }
}
