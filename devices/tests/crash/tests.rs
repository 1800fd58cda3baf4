//! The formats, the oracle, and the oracle's own test.

use super::case::Case;
use super::explore::{Effort, explore, replay};
use super::qcow2::Qcow2;
use super::raw::Raw;
use super::selfie::Selfie;
use super::subject::Subject;
use super::toy::Toy;

const TOYS: [Toy; 7] =
    [Toy::DataSync, Toy::LastSync, Toy::OldSlot, Toy::Zeros, Toy::Rest, Toy::OldRecords, Toy::Errors];

/// How much to try for each test of a subject.
const EFFORT: Effort = Effort { seeds: 24, steps: 40, choices: 8, lives_on: 8, faults: 24 };

fn effort() -> Effort {
    let nightly = std::env::var_os("SKY_NIGHTLY").is_some();
    if nightly {
        Effort { seeds: EFFORT.seeds * 40, choices: 24, lives_on: 4, faults: 100, ..EFFORT }
    } else {
        EFFORT
    }
}

fn subjects() -> Vec<Box<dyn Subject>> {
    let mut subjects: Vec<Box<dyn Subject>> = vec![
        Box::new(Raw { atomic_write: 4096 }),
        Box::new(Raw { atomic_write: 512 }),
        Box::new(Selfie::Embedded),
        Box::new(Selfie::SmallSectors),
        Box::new(Selfie::Ordered),
        Box::new(Selfie::Sparse),
        Box::new(Qcow2),
        Box::new(Toy::Nothing),
    ];
    subjects.extend(TOYS.into_iter().map(|toy| Box::new(toy) as Box<dyn Subject>));
    subjects
}

/// Tries a subject, and says how to repeat what failed.
fn try_hard(subject: &dyn Subject) {
    match explore(subject, effort()) {
        Ok(states) => println!("{}: {states} crash states", subject.name()),
        Err(failure) => panic!("SKY_CRASH='{}': {}", failure.case, failure.why),
    }
}

#[test]
fn raw_images_pass() {
    try_hard(&Raw { atomic_write: 4096 });
    try_hard(&Raw { atomic_write: 512 });
}

#[test]
fn a_small_format_that_forgets_nothing_passes() {
    try_hard(&Toy::Nothing);
}

#[test]
fn whatever_a_small_format_forgets_is_found_and_found_again() {
    for toy in TOYS {
        let failure = explore(&toy, effort()).expect_err(toy.name());
        println!("{}: {}", failure.case, failure.why);
        let case: Case = failure.case.to_string().parse().unwrap();
        assert_eq!(replay(&toy, &case, effort()).unwrap_err().why, failure.why);
    }
}

#[test]
fn selfie_passes_where_blocks_carry_their_mappings() {
    try_hard(&Selfie::Embedded);
}

#[test]
fn selfie_passes_where_tables_hold_all_mappings() {
    try_hard(&Selfie::SmallSectors);
}

#[test]
fn selfie_passes_in_the_ways_it_is_compared_with() {
    try_hard(&Selfie::Ordered);
    try_hard(&Selfie::Sparse);
}

#[test]
fn qcow2_of_imago() {
    try_hard(&Qcow2);
}

/// `SKY_CRASH=CASE` repeats a case, and prints what was done to the disk.
#[test]
fn replay_a_case() {
    let Ok(text) = std::env::var("SKY_CRASH") else { return };
    let case: Case = text.parse().unwrap();
    let subjects = subjects();
    let subject = subjects.iter().find(|subject| subject.name() == case.subject).unwrap();
    if let Err(failure) = replay(&**subject, &case, effort()) {
        panic!("{}: {}", failure.case, failure.why);
    }
}
