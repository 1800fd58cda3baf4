//! One virtual machine under Sky.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use kvm_ioctls::VmFd;
use serde::Serialize;
use sky_devices::io_class::{Classifier, IoTag};
use vm_memory::GuestMemoryMmap;

use crate::insight::{BlockIndex, Tracker};
use crate::observer::Observer;
use crate::process::ProcessRule;
use crate::trap::engine::{self, Armed, Position, Removal, Vcpu};
use crate::trap::rendezvous::{Kick, Rendezvous};
use crate::trap::{self, Cpu};
use crate::{Config, Error, Report, Result};

/// How long a request waits for the guest: its virtual CPUs may be busy elsewhere, or not run at all.
const PATIENCE: Duration = Duration::from_secs(10);
/// How soon a job is tried again that found a virtual CPU at a bad place.
const AGAIN: Duration = Duration::from_millis(1);

/// Sky for one virtual machine.
pub struct Sky {
    config: Config,
    index: Arc<BlockIndex>,
    tracker: Arc<Tracker>,
    observers: Vec<Arc<dyn Observer>>,
    machine: OnceLock<Arc<Machine>>,
}

impl std::fmt::Debug for Sky {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sky")
            .field("config", &self.config)
            .field("machine", &self.machine)
            .finish_non_exhaustive()
    }
}

/// What is watched, and how.
#[derive(Clone, Debug, Serialize)]
pub struct Listing {
    /// The rules, by number.
    pub rules: Vec<(u64, ProcessRule)>,
    /// The processes that are monitored now.
    pub processes: Vec<ListedProcess>,
    /// Calls of theirs that have not returned.
    pub outstanding: usize,
}

/// A monitored process.
#[derive(Clone, Debug, Serialize)]
pub struct ListedProcess {
    /// Process id in the initial namespace.
    pub pid: u32,
    /// File name of its executable.
    pub executable: String,
    /// The rule that chose it.
    pub rule: u64,
}

impl Sky {
    /// Watches what `config` names.
    #[must_use]
    pub fn new(config: Config) -> Arc<Self> {
        Self::with_observers(config, Vec::new())
    }

    /// Also tells `observers` of the calls that they want; at most 31.
    #[must_use]
    pub fn with_observers(config: Config, observers: Vec<Arc<dyn Observer>>) -> Arc<Self> {
        let index = Arc::new(BlockIndex::new(&config.insight));
        let tracker = Arc::new(Tracker::new(Arc::clone(&index), config.insight.patterns()));
        let mut all: Vec<Arc<dyn Observer>> = vec![Arc::clone(&tracker) as Arc<dyn Observer>];
        all.extend(observers.into_iter().take(31));
        Arc::new(Self { config, index, tracker, observers: all, machine: OnceLock::new() })
    }

    /// Knows which blocks of a disk of the guest are data of monitored processes, and which class the policy gives each.
    /// Disks are told apart by numbers of the embedder's choice.
    #[must_use]
    pub fn classifier(&self, disk: u16) -> Arc<dyn Classifier> {
        Arc::new(self.index.disk(disk))
    }

    /// Tells the disk, the byte offset and what is known of each block of the disks that is known now, in order.
    pub fn known_blocks(&self, each: &mut dyn FnMut(u16, u64, &IoTag)) {
        self.index.known_blocks(each);
    }

    /// Takes up a virtual machine, before it runs: its VM, its memory, how many virtual CPUs it has, and how to get
    /// all of their threads out of `KVM_RUN`. Hides from the guest what Sky does to its registers.
    ///
    /// # Errors
    /// [`Error::Kvm`] on a KVM without MSR filters.
    pub fn attach(&self, vm: &VmFd, memory: GuestMemoryMmap, vcpus: u32, kick: Kick) -> Result<()> {
        trap::hide(vm)?;
        self.take_up(memory, vcpus, kick);
        Ok(())
    }

    pub(crate) fn take_up(&self, memory: GuestMemoryMmap, vcpus: u32, kick: Kick) {
        // One machine each: the first stays.
        let _ = self.machine.set(Arc::new(Machine::new(memory, vcpus, kick)));
    }

    /// Sky's part of virtual CPU `index`; lives on its thread. The virtual CPU itself is
    /// [prepared](crate::trap::KvmCpu::prepare) before it runs.
    ///
    /// # Errors
    /// [`Error::NotAttached`].
    pub fn vcpu(self: &Arc<Self>, index: u32) -> Result<Vcpu> {
        let machine = self.machine.get().ok_or(Error::NotAttached)?;
        Ok(Vcpu::new(Arc::clone(self), Arc::clone(machine), index))
    }

    /// Asks for the traps: the next virtual CPU that comes by sets them. The guest's text has to be final, which the
    /// moment at which its disk driver is ready tells.
    pub fn arm(&self) {
        if let Some(machine) = self.machine.get()
            && !machine.asked.swap(true, Ordering::Relaxed)
        {
            machine.post(Box::new(Vcpu::arm));
        }
    }

    /// Also monitors what a rule names, from now on: what runs already as well as what will. Gives the rule's number.
    ///
    /// To be called from a thread that is not a virtual CPU's, as everything here that changes what is monitored.
    ///
    /// # Errors
    /// [`Error::Config`] for a rule without sense; [`Error::NotArmed`]; [`Error::Busy`] when no virtual CPU came by.
    pub fn add(&self, rule: &ProcessRule) -> Result<u64> {
        let rule = rule.compile()?;
        let mut rule = Some(rule);
        let number = self.ask(move |vcpu, _| match rule.take() {
            Some(rule) => engine::add(vcpu, rule),
            None => Err(Error::Busy),
        })?;
        let attached = self.ask_until(|vcpu, _| Ok((vcpu.attach_all() == Done::Yes).then_some(())));
        if attached.is_err() {
            // All or nothing.
            let _ = self.remove(Removal::Rule(number));
        }
        attached.map(|()| number)
    }

    /// No longer monitors what `what` says. Gives how many processes that were.
    ///
    /// # Errors
    /// [`Error::NotArmed`]; [`Error::Busy`].
    pub fn remove(&self, what: Removal) -> Result<usize> {
        self.ask_until(move |vcpu, _| engine::remove(vcpu, what))
    }

    /// Takes every trap out of the guest, which runs on. [`arm`](Self::arm) sets them again, with the rules of the
    /// configuration.
    ///
    /// # Errors
    /// [`Error::Busy`]: something may still be on its way to a trap, which stays; nothing is monitored any more.
    pub fn detach(&self) -> Result<()> {
        self.ask_until(|vcpu, _| engine::detach(vcpu))?;
        // Faults on their way to a handler are delivered long before.
        sleep(Duration::from_millis(20));
        self.ask_until(|vcpu, _| engine::clear(vcpu))?;
        self.machine.get().ok_or(Error::NotAttached)?.ask_again();
        Ok(())
    }

    /// What is monitored now.
    ///
    /// # Errors
    /// [`Error::NotArmed`]; [`Error::Busy`].
    pub fn list(&self) -> Result<Listing> {
        self.ask(|vcpu, _| {
            vcpu.sweep();
            Ok(())
        })?;
        let armed = self.armed().ok_or(Error::NotArmed)?;
        let state = armed.lock();
        Ok(Listing {
            rules: state.rules().iter().map(|(number, rule)| (*number, rule.source.clone())).collect(),
            processes: state
                .spaces()
                .monitored()
                .map(|(_, process)| ListedProcess {
                    pid: process.pid,
                    executable: process.executable.clone(),
                    rule: process.rule,
                })
                .collect(),
            outstanding: state.outstanding(),
        })
    }

    /// What was seen so far.
    #[must_use]
    pub fn report(&self) -> Report {
        let mut report = Report {
            files: self.index.files(),
            blocks: self.index.counts(),
            classes: self.index.classes(),
            lifetimes: self.index.lifetimes(),
            assume: self.config.insight.assume,
            untracked: self.tracker.counts(),
            ..Report::default()
        };
        if let Some(machine) = self.machine.get() {
            let last = machine.last();
            if let Some(armed) = &last {
                let state = armed.lock();
                state.counts.fill(&mut report);
                report.outstanding = state.outstanding() as u64;
                report.mechanism = armed.mechanism_name().to_owned();
                report.engine = armed.engine_name().to_owned();
                report.armed = true;
            }
            report.problem = report.problem.or_else(|| machine.first_problem());
        }
        report
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn port(&self) -> u16 {
        u16::from(self.config.trap.port)
    }

    pub(crate) fn observers(&self) -> Vec<Arc<dyn Observer>> {
        self.observers.clone()
    }

    pub(crate) fn armed(&self) -> Option<Arc<Armed>> {
        self.machine.get()?.armed()
    }

    /// Lets a virtual CPU do something while the machine stands still, and waits for what comes of it.
    fn ask<T: Send + 'static>(
        &self,
        mut work: impl FnMut(&mut Vcpu, &mut dyn Cpu) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let machine = self.machine.get().ok_or(Error::NotAttached)?;
        let (sender, receiver) = channel();
        machine.post(Box::new(move |vcpu, cpu| {
            // Whoever asked may have lost patience.
            let _ = sender.send(work(vcpu, cpu));
            Done::Yes
        }));
        match receiver.recv_timeout(PATIENCE) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Err(Error::Busy),
        }
    }

    /// As [`ask`](Self::ask), again and again until there is an answer.
    fn ask_until<T: Send + 'static>(
        &self,
        work: impl FnMut(&mut Vcpu, &mut dyn Cpu) -> Result<Option<T>> + Clone + Send + 'static,
    ) -> Result<T> {
        let started = Instant::now();
        loop {
            if let Some(answer) = self.ask(work.clone())? {
                return Ok(answer);
            }
            if started.elapsed() > PATIENCE {
                return Err(Error::Busy);
            }
            sleep(AGAIN);
        }
    }
}

/// Whether a job is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    /// It is.
    Yes,
    /// It has to be tried again when the guest has run for a while.
    Later,
}

/// Something that a virtual CPU's thread does while all of them stand still.
pub(crate) type Job = Box<dyn FnMut(&mut Vcpu, &mut dyn Cpu) -> Done + Send>;

/// What the virtual CPUs of one machine share.
pub(crate) struct Machine {
    pub(crate) memory: GuestMemoryMmap,
    pub(crate) rendezvous: Rendezvous,
    asked: AtomicBool,
    /// Grows with every job and every change that all have to hear of.
    news: AtomicU64,
    jobs: Mutex<Jobs>,
    /// Whether a job waits for its time.
    later: AtomicBool,
    armed: Mutex<Traps>,
    positions: Mutex<Vec<Option<Position>>>,
    /// For each virtual CPU: the number of the address space that it has loaded.
    loaded: Vec<AtomicU64>,
    problem: Mutex<Option<String>>,
}

#[derive(Default)]
struct Jobs {
    now: VecDeque<Job>,
    later: Vec<(Instant, Job)>,
}

/// The traps that are set, and those that were set last.
#[derive(Default)]
struct Traps {
    now: Option<Arc<Armed>>,
    last: Option<Arc<Armed>>,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine").field("rendezvous", &self.rendezvous).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in here is left half changed by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Machine {
    fn new(memory: GuestMemoryMmap, vcpus: u32, kick: Kick) -> Self {
        Self {
            memory,
            rendezvous: Rendezvous::new(vcpus, kick),
            asked: AtomicBool::new(false),
            news: AtomicU64::new(0),
            jobs: Mutex::default(),
            later: AtomicBool::new(false),
            armed: Mutex::default(),
            positions: Mutex::new(vec![None; usize::try_from(vcpus).unwrap_or(0)]),
            loaded: (0..vcpus).map(|_| AtomicU64::new(0)).collect(),
            problem: Mutex::default(),
        }
    }

    /// A virtual CPU has loaded an address space, and is about to look up what is known of it.
    pub(crate) fn load(&self, index: u32, ctx_id: u64) {
        let place = usize::try_from(index).ok().and_then(|index| self.loaded.get(index));
        if let Some(place) = place {
            place.store(ctx_id, Ordering::SeqCst);
        }
    }

    /// Whether another virtual CPU than `index` has an address space loaded, in use or not.
    pub(crate) fn is_loaded_elsewhere(&self, index: u32, ctx_id: u64) -> bool {
        (0u32..)
            .zip(&self.loaded)
            .any(|(other, loaded)| other != index && loaded.load(Ordering::SeqCst) == ctx_id)
    }

    /// Traps may be asked for once more.
    pub(crate) fn ask_again(&self) {
        self.asked.store(false, Ordering::Relaxed);
    }

    pub(crate) fn news(&self) -> u64 {
        self.news.load(Ordering::Acquire)
    }

    /// Whether a job that had to wait may be due. Cheap while there is none.
    pub(crate) fn is_due(&self) -> bool {
        self.later.load(Ordering::Relaxed)
            && lock(&self.jobs).later.iter().any(|(due, _)| *due <= Instant::now())
    }

    /// Something has changed that all virtual CPUs have to look at before they run again.
    pub(crate) fn tell(&self) {
        self.news.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn post(&self, job: Job) {
        lock(&self.jobs).now.push_back(job);
        self.tell();
        self.rendezvous.kick();
    }

    pub(crate) fn postpone(&self, job: Job) {
        lock(&self.jobs).later.push((Instant::now() + AGAIN, job));
        self.later.store(true, Ordering::Relaxed);
    }

    pub(crate) fn has_job(&self) -> bool {
        !lock(&self.jobs).now.is_empty() || self.is_due()
    }

    pub(crate) fn next_job(&self) -> Option<Job> {
        let mut jobs = lock(&self.jobs);
        if let Some(job) = jobs.now.pop_front() {
            return Some(job);
        }
        let at = jobs.later.iter().position(|(due, _)| *due <= Instant::now())?;
        let (_, job) = jobs.later.swap_remove(at);
        self.later.store(!jobs.later.is_empty(), Ordering::Relaxed);
        Some(job)
    }

    pub(crate) fn armed(&self) -> Option<Arc<Armed>> {
        lock(&self.armed).now.clone()
    }

    fn last(&self) -> Option<Arc<Armed>> {
        lock(&self.armed).last.clone()
    }

    pub(crate) fn set_armed(&self, armed: Option<Arc<Armed>>) {
        let mut traps = lock(&self.armed);
        if armed.is_some() {
            traps.last.clone_from(&armed);
        }
        traps.now = armed;
        drop(traps);
        self.tell();
    }

    /// A virtual CPU that is about to stand still says where.
    pub(crate) fn place(&self, index: u32, position: Position) {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        if let Some(place) = lock(&self.positions).get_mut(index) {
            *place = Some(position);
        }
    }

    /// Where the virtual CPUs stand that have run at all.
    pub(crate) fn positions(&self) -> Vec<Position> {
        lock(&self.positions).iter().flatten().copied().collect()
    }

    pub(crate) fn problem(&self, error: &Error) {
        lock(&self.problem).get_or_insert_with(|| error.to_string());
    }

    fn first_problem(&self) -> Option<String> {
        lock(&self.problem).clone()
    }
}
