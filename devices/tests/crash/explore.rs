//! Trying the crash states of a workload, and saying which one failed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use sky_devices::block::simulated::{Fault, FaultKind, FaultOn, SimulatedDisk};

use super::case::{Case, Crash};
use super::life::{self, Life};
use super::model::Model;
use super::subject::{Outcome, Subject};

/// Steps between a crash and the next.
const LATER_STEPS: usize = 10;

/// How much is tried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    /// Number of the first workload.
    pub(super) first: u64,
    /// Workloads.
    pub(super) seeds: u64,
    /// Steps of each.
    pub(super) steps: usize,
    /// Crash states at each moment of each.
    pub(super) choices: usize,
    /// After one crash state in so many the disk lives on to a second crash.
    pub(super) lives_on: u64,
    /// Errors of the medium for each workload.
    pub(super) faults: u64,
}

/// A case that failed, and how.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) case: Case,
    pub(super) why: String,
}

/// Tries all of `effort`, on all processors, and stops at the first failure if `stop`. Answers how many crash states
/// there were, and the failures: one of each workload at most.
pub(super) fn explore(subject: &dyn Subject, effort: Effort, stop: bool) -> (u64, Vec<Failure>) {
    for_each_seed(effort, stop, |seed, states| workload(subject, seed, effort, states))
}

/// The same with every error of the medium instead of some of them.
pub(super) fn explore_faults(subject: &dyn Subject, effort: Effort) -> (u64, Vec<Failure>) {
    for_each_seed(effort, true, |seed, states| every_fault(subject, seed, effort, states))
}

fn for_each_seed(
    effort: Effort,
    stop: bool,
    one: impl Fn(u64, &AtomicU64) -> Result<(), Failure> + Sync,
) -> (u64, Vec<Failure>) {
    let (next, states, failed) = (AtomicU64::new(effort.first), AtomicU64::new(0), AtomicBool::new(false));
    let failures = Mutex::new(Vec::new());
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= effort.first + effort.seeds || (stop && failed.load(Ordering::Relaxed)) {
                return;
            }
            if let Err(found) = one(seed, &states) {
                failed.store(true, Ordering::Relaxed);
                failures.lock().unwrap().push(found);
            }
        }
    };
    thread::scope(|scope| {
        (0..thread::available_parallelism().map_or(1, usize::from)).for_each(|_| {
            scope.spawn(work);
        });
    });
    (states.into_inner(), failures.into_inner().unwrap())
}

/// One workload: without errors of the medium, then with one at this or that moment.
fn workload(subject: &dyn Subject, seed: u64, effort: Effort, states: &AtomicU64) -> Result<(), Failure> {
    let case = Case::new(subject.name(), seed);
    let life = begin(subject, &case, effort)?;
    crash_everywhere(subject, &case, &life, effort, states)?;
    let changes = (life.history.len() - life.first) as u64;
    let mut random = case.random();
    for _ in 0..effort.faults {
        let fault = Fault {
            on: FaultOn::AnyChange,
            after: random.below(changes),
            kind: if random.one_in(2) { FaultKind::NoSpace } else { FaultKind::Io },
            lasting: random.one_in(2),
            partial: random.one_in(2),
        };
        with_fault(subject, &Case { fault: Some(fault), ..case.clone() }, effort, states)?;
    }
    Ok(())
}

/// One workload with every error of the medium that it can meet: each change and each read fails, in every way, once
/// and for good, and each kind of operation from each time on.
fn every_fault(subject: &dyn Subject, seed: u64, effort: Effort, states: &AtomicU64) -> Result<(), Failure> {
    let case = Case::new(subject.name(), seed);
    let met = begin(subject, &case, effort)?.met;
    for (on, count) in met {
        for after in 0..count {
            for kind in [FaultKind::NoSpace, FaultKind::Io] {
                for (lasting, partial) in [(false, false), (true, false), (false, true), (true, true)] {
                    // Only writes can happen in part.
                    if partial && on != FaultOn::Write {
                        continue;
                    }
                    let fault = Some(Fault { on, after, kind, lasting, partial });
                    with_fault(subject, &Case { fault, ..case.clone() }, effort, states)?;
                }
            }
        }
    }
    Ok(())
}

/// One workload with an error of the medium: crashes when it has just happened, at a moment after that, and in the
/// end.
fn with_fault(subject: &dyn Subject, case: &Case, effort: Effort, states: &AtomicU64) -> Result<(), Failure> {
    let life = begin(subject, case, effort)?;
    let mut random = case.random();
    let end = life.history.len();
    let failed = life.failed.unwrap_or(end);
    let between = failed + random.below((end - failed) as u64 + 1) as usize;
    let mut models = life.models();
    let mut moments = vec![failed, between, end];
    moments.dedup();
    for moment in moments {
        let (point, model) = (life.history.at(moment), models(moment));
        for choice in point.choices(4, &mut random) {
            let case = case.then((moment, choice));
            try_state(subject, &case, point.disk(choice), &model, effort, states)?;
        }
    }
    Ok(())
}

fn begin(subject: &dyn Subject, case: &Case, effort: Effort) -> Result<Life, Failure> {
    guarded(case, || {
        life::first(subject, &mut Case::new(subject.name(), case.seed).random(), effort.steps, case.fault)
    })
}

fn crash_everywhere(
    subject: &dyn Subject,
    case: &Case,
    life: &Life,
    effort: Effort,
    states: &AtomicU64,
) -> Result<(), Failure> {
    let (mut random, mut models) = (case.random(), life.models());
    for point in life.history.points(life.first) {
        let model = models(point.position());
        for choice in point.choices(effort.choices, &mut random) {
            let case = case.then((point.position(), choice));
            try_state(subject, &case, point.disk(choice), &model, effort, states)?;
        }
    }
    Ok(())
}

/// Opens one crash state, and sometimes crashes a second time.
fn try_state(
    subject: &dyn Subject,
    case: &Case,
    disk: SimulatedDisk,
    model: &Model,
    effort: Effort,
    states: &AtomicU64,
) -> Result<(), Failure> {
    states.fetch_add(1, Ordering::Relaxed);
    let life = live_on(subject, case, disk, model, effort)?;
    if !lives_on(case, effort) {
        return Ok(());
    }
    let mut random = case.random();
    let mut moments: Vec<usize> =
        (0..4).map(|_| random.below(life.history.len() as u64 + 1) as usize).collect();
    moments.sort_unstable();
    let mut models = life.models();
    for moment in moments {
        let (point, model) = (life.history.at(moment), models(moment));
        for choice in point.choices(2, &mut random) {
            states.fetch_add(1, Ordering::Relaxed);
            live_on(subject, &case.then((moment, choice)), point.disk(choice), &model, effort)?;
        }
    }
    Ok(())
}

/// Whether the disk is worked with after the crashes of a case, to crash once more.
fn lives_on(case: &Case, effort: Effort) -> bool {
    case.crashes.len() == 1 && case.random().one_in(effort.lives_on)
}

/// Opens a crash state. What is done to it then depends on the case alone.
fn live_on(
    subject: &dyn Subject,
    case: &Case,
    disk: SimulatedDisk,
    model: &Model,
    effort: Effort,
) -> Result<Life, Failure> {
    let steps = if lives_on(case, effort) { LATER_STEPS } else { 0 };
    guarded(case, || life::later(subject, disk, model, &mut case.random(), steps))
}

/// Repeats one case.
pub(super) fn replay(subject: &dyn Subject, case: &Case, effort: Effort) -> Result<(), Failure> {
    let mut so_far = Case { crashes: Vec::new(), ..case.clone() };
    let mut life = begin(subject, &so_far, effort)?;
    for &(position, choice) in &case.crashes {
        let (point, model) = (life.history.at(position), life.models()(position));
        println!("{so_far}:\n{:?}\nnot durable at {position}:\n{}", life.history, point.describe());
        so_far = so_far.then((position, choice) as Crash);
        life = live_on(subject, &so_far, point.disk(choice), &model, effort)?;
    }
    Ok(())
}

/// Makes a panic a failure like others.
fn guarded<T>(case: &Case, work: impl FnOnce() -> Outcome<T>) -> Result<T, Failure> {
    let fail = |why| Failure { case: case.clone(), why };
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(fail),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(fail(format!("panicked: {}", text.unwrap_or("without a message"))))
        }
    }
}
