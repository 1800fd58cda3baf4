//! A virtual machine: built from a [`VmConfig`], run once, gone.
//!
//! ```text
//!   Machine::new   memory ─ KVM ─ disks ─ kernel ─ ACPI ─ vCPUs       anything wrong is an error here
//!   Machine::run   one thread per vCPU; this thread: console input, signals, the end
//! ```

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use event_manager::{EventManager, MutEventSubscriber, SubscriberOps};
use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use kvm_ioctls::{Kvm, VmFd};
use sky_devices::virtio::blk::Stats;
use vm_memory::GuestMemoryAtomic;

use crate::bus::{Mmio, Ports};
use crate::config::{ConfigError, VmConfig};
use crate::console::{self, Console, Input, RawMode};
use crate::error::{Error, Result};
use crate::exit::ExitReason;
use crate::stats::{DiskStats, RunStats};
use crate::vcpu::hook::{Extension, Parts};
use crate::vcpu::kick::{self, Kicker};
use crate::vcpu::{self, Counters, Tally, Vcpu};
use crate::{acpi, boot};

pub mod control;
mod disks;
pub mod layout;
mod memory;
mod signals;

use control::Control;
use disks::Disk;
pub use disks::OpenDisks;
use signals::Signals;

/// How long a kicked vCPU may take before it is kicked again.
const KICK_INTERVAL: Duration = Duration::from_millis(20);

/// How a run ended, and its counters.
#[derive(Debug)]
pub struct Outcome {
    /// Why it ended.
    pub reason: ExitReason,
    /// What was counted.
    pub stats: RunStats,
}

/// A machine that is ready to run.
pub struct Machine {
    vcpus: Vec<Vcpu>,
    console: Arc<Console>,
    control: Arc<Control>,
    mmio: Arc<Mmio>,
    disks: Vec<(Disk, Arc<Stats>)>,
    lent: OpenDisks,
    extension: Arc<dyn Extension>,
    // Last, so that the VM and its memory outlive everything that uses them.
    parts: Parts,
}

impl Machine {
    /// Builds the machine that `config` describes, with `extension` embedded in it.
    ///
    /// # Errors
    /// A file is missing or wrong, something does not fit, or KVM refuses.
    pub fn new(config: &VmConfig, extension: Arc<dyn Extension>) -> Result<Self> {
        kick::install().map_err(Error::io("installing the signal handler of the vCPUs"))?;
        let opened = disks::open(&config.disks)?;
        let memory = memory::map(config.memory)?;
        let entry = boot::load(&memory, config)?;

        let kvm = Kvm::new().map_err(Error::kvm("opening /dev/kvm"))?;
        let most = u32::try_from(kvm.get_max_vcpus()).unwrap_or(u32::MAX);
        if config.cpus > most {
            return Err(ConfigError::Cpus { cpus: config.cpus, most }.into());
        }
        let vm = Arc::new(create_vm(&kvm)?);
        memory::register(&vm, &memory)?;
        let nodes = (0..).take(opened.len()).map(disks::node).collect::<Result<Vec<_>>>()?;
        acpi::write(&memory, config.cpus, &nodes)?;
        let memory = GuestMemoryAtomic::new(memory);

        let console = Console::new(Box::new(stdout()?)).map_err(Error::io("creating the console"))?;
        let console = Arc::new(console);
        vm.register_irqfd(console.interrupt(), layout::COM1_IRQ).map_err(Error::kvm("KVM_IRQFD"))?;
        let mut transports = vec![];
        let mut disks = vec![];
        for (disk, node) in opened.into_iter().zip(nodes) {
            let (transport, stats) = disks::plug(&vm, &memory, node, &disk, &extension)?;
            transports.push(transport);
            disks.push((disk, stats));
        }

        let control = Arc::new(Control::new().map_err(Error::io("creating an eventfd"))?);
        let ports = Arc::new(Ports::new(Arc::clone(&console)));
        let mmio = Arc::new(Mmio::new(transports));
        let mut vcpus = vec![];
        let mut kickers = vec![];
        for index in 0..config.cpus {
            let fd = vcpu::create(&kvm, &vm, index, config.cpus, entry)?;
            let kicker = Arc::new(Kicker::new(&fd).map_err(Error::io("mapping a vCPU"))?);
            kickers.push(Arc::clone(&kicker));
            vcpus.push(Vcpu {
                index,
                fd,
                kicker,
                hook: extension.hook(index),
                ports: Arc::clone(&ports),
                mmio: Arc::clone(&mmio),
                control: Arc::clone(&control),
                counters: Counters::default(),
            });
        }
        let parts = Parts { vm, memory, kickers, control: Arc::clone(&control) };
        extension.attach(&parts).map_err(Error::Extension)?;
        let lent = OpenDisks::default();
        Ok(Self { vcpus, console, control, mmio, disks, lent, extension, parts })
    }

    /// Lets whoever has `to` look into the disks until they are closed.
    pub fn lend_disks(&mut self, to: &OpenDisks) {
        self.lent = to.clone();
        self.lent.set(self.disks.iter().map(|(disk, _)| disk));
    }

    /// Runs the machine until it ends. Disks are closed and the terminal is as it was when this returns.
    ///
    /// # Errors
    /// The host failed: no threads, no events, or a disk that could not be closed.
    pub fn run(mut self) -> Result<Outcome> {
        let started = Instant::now();
        let mut events = EventManager::<Box<dyn MutEventSubscriber>>::new().map_err(|error| Error::Io {
            operation: "waiting for events".into(),
            source: io::Error::other(error),
        })?;
        let signals = Signals::new(Arc::clone(&self.control)).map_err(Error::io("listening for signals"))?;
        events.add_subscriber(Box::new(signals));
        let terminal = RawMode::enter().map_err(Error::io("preparing the terminal"))?;
        // A background job must not touch the terminal: the shell would stop it.
        if let Some(input) = stdin().filter(|_| !console::is_background()) {
            let (console, control) = (Arc::clone(&self.console), Arc::clone(&self.control));
            events.add_subscriber(Box::new(Input::new(input, console, control, terminal.is_some())));
        }

        let threads = self.start()?;
        let reason = loop {
            if let Some(reason) = self.control.reason() {
                break reason.clone();
            }
            if let Err(error) = events.run() {
                self.control.end(ExitReason::Internal { message: format!("waiting for events: {error}") });
            }
        };
        let tallies = self.join(threads);
        drop(terminal);
        self.mmio.shutdown();
        let stats = self.stats(&reason, started.elapsed(), tallies);
        self.close()?;
        Ok(Outcome { stats, reason })
    }

    fn start(&mut self) -> Result<Vec<JoinHandle<Tally>>> {
        let mut threads = vec![];
        for vcpu in std::mem::take(&mut self.vcpus) {
            match thread::Builder::new().name(format!("vcpu{}", vcpu.index)).spawn(move || vcpu.run()) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    self.control
                        .end(ExitReason::Internal { message: format!("no thread for a vCPU: {error}") });
                    self.join(threads);
                    return Err(Error::io("starting a vCPU's thread")(error));
                }
            }
        }
        Ok(threads)
    }

    /// Waits for the vCPUs to see that the machine ends. A hook may run the guest by itself, so one kick may not do.
    fn join(&self, threads: Vec<JoinHandle<Tally>>) -> Vec<Tally> {
        while !threads.iter().all(JoinHandle::is_finished) {
            self.parts.kickers.iter().for_each(|kicker| kicker.kick());
            let kicked = Instant::now();
            while kicked.elapsed() < KICK_INTERVAL && !threads.iter().all(JoinHandle::is_finished) {
                thread::sleep(Duration::from_millis(1));
            }
        }
        // A thread that panicked has said so, and has ended the run with that as the reason.
        threads.into_iter().map(|thread| thread.join().unwrap_or_default()).collect()
    }

    /// Takes the devices away and closes all disks, whatever becomes of each.
    ///
    /// # Errors
    /// The first that was met.
    fn close(self) -> Result<()> {
        let Self { mmio, disks, lent, .. } = self;
        drop(mmio);
        lent.set([]);
        let closed: Vec<_> = disks.into_iter().map(|(disk, _)| disk.close()).collect();
        closed.into_iter().collect()
    }

    fn stats(&self, reason: &ExitReason, elapsed: Duration, vcpus: Vec<Tally>) -> RunStats {
        let disks = self
            .disks
            .iter()
            .map(|(disk, stats)| DiskStats {
                path: disk.path.clone(),
                counters: stats.snapshot(),
                layers: disk.layers(),
            })
            .collect();
        RunStats::new(reason, elapsed, vcpus, disks, self.extension.statistics())
    }
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine")
            .field("vcpus", &self.vcpus.len())
            .field("disks", &self.disks)
            .finish_non_exhaustive()
    }
}

/// A VM with the interrupt controllers and the timer of a PC, which the kernel emulates.
fn create_vm(kvm: &Kvm) -> Result<VmFd> {
    let vm = kvm.create_vm().map_err(Error::kvm("KVM_CREATE_VM"))?;
    vm.set_identity_map_address(layout::KVM_IDENTITY_MAP).map_err(Error::kvm("KVM_SET_IDENTITY_MAP_ADDR"))?;
    vm.set_tss_address(layout::KVM_TSS).map_err(Error::kvm("KVM_SET_TSS_ADDR"))?;
    vm.create_irq_chip().map_err(Error::kvm("KVM_CREATE_IRQCHIP"))?;
    // The speaker's port has bits that a guest polls to calibrate its clock; with this KVM answers it.
    let timer = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
    vm.create_pit2(timer).map_err(Error::kvm("KVM_CREATE_PIT2"))?;
    Ok(vm)
}

/// Standard output without the buffer of the standard library, which would keep a prompt until its line ends.
fn stdout() -> Result<File> {
    io::stdout().as_fd().try_clone_to_owned().map(File::from).map_err(Error::io("standard output"))
}

/// Standard input without the buffer of the standard library. It may be closed; then there is no input.
fn stdin() -> Option<File> {
    io::stdin().as_fd().try_clone_to_owned().map(File::from).ok()
}
