//! The engine of the paper: SYSCALL faults while a monitored process runs, because `EFER.SCE` is clear.
//!
//! ```text
//!   CR3 written ─▶ whose address space? monitored or new: clear SCE; anybody else's: set it
//!   #UD         ─▶ a SYSCALL? do what the CPU would have done and go on at LSTAR; otherwise it is the guest's
//!   returned    ─▶ note the result, go on at the guest's IRET path
//! ```
//!
//! **SYSRET must not run while SCE is clear**: the kernel has loaded the user's stack pointer by then, so the fault's
//! frame would land on the user's stack. SYSCALL is therefore emulated with `RF` set in R11. Linux looks at the saved
//! flags before SYSRET and returns by IRET if RF or TF is set (`arch/x86/entry`, `do_syscall_64`), which makes every
//! trapped call safe whether its return is stopped or not. So the trap behind the dispatcher, which every thread of
//! the guest would run into, is only in place while a monitored process runs *and* one of its calls is worth
//! following. Where the return is stopped, RF is taken out again; elsewhere it is gone after one instruction.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kvm_bindings::kvm_regs;
use tracing::{debug, info, warn};
use vm_memory::GuestMemoryMmap;

use crate::config::Returns;
use crate::guest::{Gpa, Gva, KernelImage, Linux, Syscall, View};
use crate::insight::{Tracker, WriteNote};
use crate::process::{Outstanding, Pending, Space, Spaces};
use crate::report::{CallCount, Report, Stops};
use crate::sky::Sky;
use crate::trap::sites::{Anchors, Sites};
use crate::trap::{Cpu, Efer, Mechanism, PortTraps, Site, StopKind};
use crate::{Error, Result};

mod frames;

use frames::{EntryStack, InterruptFrame, PtRegs, RF};

/// Model-specific registers that describe the system-call entry (SDM vol. 4, 2.1).
mod msr {
    pub(super) const STAR: u32 = 0xc000_0081;
    pub(super) const LSTAR: u32 = 0xc000_0082;
    pub(super) const CSTAR: u32 = 0xc000_0083;
    pub(super) const FMASK: u32 = 0xc000_0084;
    pub(super) const GS_BASE: u32 = 0xc000_0101;
    pub(super) const KERNEL_GS_BASE: u32 = 0xc000_0102;
}

const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// CR4.LA57.
const LA57: u64 = 1 << 12;
/// In a value for CR3: keep the TLB. The bit is not part of CR3.
const NO_FLUSH: u64 = 1 << 63;
const PAGE_FRAME: u64 = 0x000f_ffff_ffff_f000;
/// A CR3 write that has changed nothing this often is not the one of process switches.
const CENSUS: u32 = 64;
/// Numbers of system calls that are counted one by one.
const NUMBERED: usize = 512;

/// What the CPU does at SYSCALL, from its registers.
#[derive(Clone, Copy, Debug)]
struct Entry {
    lstar: u64,
    cstar: u64,
    fmask: u64,
    user_cs64: u64,
    user_cs32: u64,
}

/// Everything that is known once traps are set.
#[derive(Debug)]
struct Armed {
    sites: Sites,
    linux: Linux,
    entry: Entry,
    per_cpu: Gva,
    /// Where the top of the current thread's stack is filed. Per-CPU variables of the kernel itself never move.
    stack_top: Gpa,
    entry_stack: EntryStack,
    five_level: bool,
    mechanism: Box<dyn Mechanism>,
    spaces: Spaces,
    /// CR3 and number of the address space that is loaded. Both were taken in kernel mode: under page-table isolation
    /// this is the kernel's page directory, also while the user's is in use.
    cr3: u64,
    ctx_id: u64,
    /// What `spaces` says of it.
    space: Space,
    efer: Efer,
    calls: Outstanding<Option<Box<WriteNote>>>,
    /// Whether the trap behind the dispatcher is in place.
    returns_armed: bool,
    /// For each CR3 write: stops, until one changed the address space.
    census: Vec<(Gva, u32)>,
    tracker: Tracker,
}

/// The engine on one virtual CPU.
#[derive(Debug)]
pub struct Sce {
    sky: Arc<Sky>,
    memory: GuestMemoryMmap,
    port: u8,
    armed: Option<Armed>,
    efer_before: Efer,
    counts: Counts,
}

#[derive(Debug)]
struct Counts {
    report: Report,
    stops: Stops,
    calls: Vec<CallCount>,
    unreturned: u64,
    identified: u64,
}

impl Sce {
    pub(crate) fn new(sky: Arc<Sky>, memory: GuestMemoryMmap) -> Self {
        let port = sky.config().trap.port;
        let counts = Counts {
            report: Report::default(),
            stops: Stops::default(),
            calls: vec![CallCount::default(); NUMBERED + 1],
            unreturned: 0,
            identified: 0,
        };
        Self { sky, memory, port, armed: None, efer_before: Efer::default(), counts }
    }

    /// Sets the traps if [`Sky::arm`] asked for it. Called after every exit; costs one load when nobody asked.
    ///
    /// A guest that cannot be watched runs on without traps, and the report says why.
    pub fn arm_if_asked(&mut self, cpu: &mut dyn Cpu) {
        if !self.sky.asked().load(Ordering::Relaxed) || !self.sky.asked().swap(false, Ordering::Acquire) {
            return;
        }
        if self.armed.is_some() {
            return;
        }
        match self.arm(cpu) {
            Ok(armed) => {
                info!(mechanism = armed.mechanism.name(), sites = ?armed.sites, "traps are set");
                self.counts.report.armed = true;
                self.counts.report.mechanism = armed.mechanism.name().to_owned();
                self.armed = Some(armed);
            }
            Err(error) => self.problem(&error),
        }
        self.publish();
    }

    /// Handles a write to I/O port `port`. Returns whether it was one of Sky's stops.
    ///
    /// # Errors
    /// [`Error::Kvm`]: the virtual CPU cannot go on.
    pub fn port_exit(&mut self, cpu: &mut dyn Cpu, port: u16) -> Result<bool> {
        if port != u16::from(self.port) {
            return Ok(false);
        }
        let Some(armed) = self.armed.as_mut() else { return Ok(false) };
        let mut regs = cpu.regs()?;
        let Some(site) = armed.mechanism.site(regs.rip) else { return Ok(false) };
        let memory = &self.memory;
        match site.kind {
            StopKind::SwitchedSpace => {
                self.counts.stops.switches += 1;
                if let Err(error) = armed.switched(memory, cpu, &regs, site.at) {
                    self.problem(&error);
                }
            }
            StopKind::InvalidOpcode => {
                self.counts.stops.calls += 1;
                if armed.emulate_syscall(memory, &mut regs) {
                    let action = armed.entered(memory, &self.sky, cpu, &regs, &mut self.counts);
                    cpu.set_regs(&regs)?;
                    match action {
                        Ok(true) => self.publish(),
                        Ok(false) => {}
                        Err(error) => self.problem(&error),
                    }
                } else {
                    self.counts.stops.calls -= 1;
                    self.counts.stops.invalid_opcodes += 1;
                    let view = armed.view(memory);
                    armed.mechanism.resume(&view, &site, &mut regs)?;
                    cpu.set_regs(&regs)?;
                }
            }
            StopKind::Returned => {
                self.counts.stops.returns += 1;
                if let Err(error) = armed.returned(memory, &regs, &mut self.counts) {
                    self.problem(&error);
                }
                if let Some(armed) = self.armed.as_mut() {
                    regs.rip = armed.sites.iret_path.0;
                }
                cpu.set_regs(&regs)?;
            }
        }
        Ok(true)
    }

    /// What the guest's `rdmsr` of `index` is to see; `None` for an MSR that is not Sky's.
    ///
    /// # Errors
    /// [`Error::Kvm`]: the guest gets a general-protection fault.
    pub fn rdmsr(&mut self, cpu: &mut dyn Cpu, index: u32) -> Option<Result<u64>> {
        (index == super::EFER).then(|| self.efer().read(cpu))
    }

    /// Carries out the guest's `wrmsr`; `None` for an MSR that is not Sky's.
    ///
    /// # Errors
    /// [`Error::Kvm`]: the guest gets a general-protection fault.
    pub fn wrmsr(&mut self, cpu: &mut dyn Cpu, index: u32, value: u64) -> Option<Result<()>> {
        (index == super::EFER).then(|| self.efer().write(cpu, value))
    }

    fn efer(&mut self) -> &mut Efer {
        match &mut self.armed {
            Some(armed) => &mut armed.efer,
            None => &mut self.efer_before,
        }
    }

    fn problem(&mut self, error: &Error) {
        warn!(%error, "sky");
        self.counts.report.problem.get_or_insert_with(|| error.to_string());
        self.publish();
    }

    fn publish(&self) {
        let counts = &self.counts;
        let numbered = counts.calls.iter().enumerate().filter(|(_, count)| count.entered > 0);
        let calls = numbered.map(|(number, count)| (frames::call_name(number, NUMBERED), *count)).collect();
        let untracked = self.armed.as_ref().map(|armed| armed.tracker.counts()).unwrap_or_default();
        self.sky.publish(Report {
            calls,
            stops: counts.stops,
            unreturned: counts.unreturned,
            identified: counts.identified,
            untracked,
            ..counts.report.clone()
        });
    }

    fn arm(&mut self, cpu: &mut dyn Cpu) -> Result<Armed> {
        let memory = &self.memory;
        let sregs = cpu.sregs()?;
        let per_cpu = [msr::GS_BASE, msr::KERNEL_GS_BASE]
            .into_iter()
            .filter_map(|index| cpu.msr(index).ok().map(Gva))
            .find(|base| base.is_kernel())
            .ok_or(Error::Kernel("GS does not hold a per-CPU area"))?;
        let star = cpu.msr(msr::STAR)?;
        // SYSRET's selectors: 32-bit code, stack, 64-bit code, eight bytes apart, with RPL 3.
        let user_cs32 = (star >> 48) | 3;
        let entry = Entry {
            lstar: cpu.msr(msr::LSTAR)?,
            cstar: cpu.msr(msr::CSTAR)?,
            fmask: cpu.msr(msr::FMASK)?,
            user_cs64: (user_cs32 + 16) & 0xffff,
            user_cs32,
        };
        let five_level = sregs.cr4 & LA57 != 0;
        let view = View::new(memory, sregs.cr3, five_level);
        let image = KernelImage::around(&view, Gva(entry.lstar))?;
        let anchors = Anchors { idt: Gva(sregs.idt.base), lstar: Gva(entry.lstar) };
        let sites = Sites::find(&view, &image, anchors)?;
        let linux = Linux::new(&image.btf(&view)?)?;

        let task = linux.current(&view, per_cpu)?;
        let processes = linux.processes(&view, task)?;
        let floor = processes.iter().map(|process| process.ctx_id).max().unwrap_or(0);
        let wanted = |name: &str| self.sky.config().wants(name);
        let early = processes.iter().filter(|process| wanted(&process.executable)).count();
        self.counts.report.too_early = early as u64;

        let mut efer = Efer::default();
        efer.learn(cpu)?;
        let mut mechanism: Box<dyn Mechanism> = Box::new(PortTraps::new(self.port));
        // In the order in which a failure leaves nothing behind that could stop an unwatched guest for long.
        for site in sites.cr3_writes.iter().chain([&sites.invalid_opcode]) {
            if let Err(error) = mechanism.arm(&view, site) {
                for site in sites.cr3_writes.iter().chain([&sites.invalid_opcode]) {
                    mechanism.disarm(&view, site.at)?;
                }
                return Err(error);
            }
        }
        Ok(Armed {
            stack_top: view.translate(per_cpu.offset(sites.stack_top))?.gpa,
            entry_stack: EntryStack::default(),
            census: sites.cr3_writes.iter().map(|site| (site.at, 0)).collect(),
            sites,
            linux,
            entry,
            per_cpu,
            five_level,
            mechanism,
            spaces: Spaces::above(floor),
            cr3: sregs.cr3,
            ctx_id: floor,
            space: Space::Bystander,
            efer,
            calls: Outstanding::default(),
            returns_armed: false,
            tracker: Tracker::new(Arc::clone(self.sky.index())),
        })
    }
}

impl Drop for Sce {
    fn drop(&mut self) {
        self.publish();
    }
}

impl Armed {
    fn view<'a>(&self, memory: &'a GuestMemoryMmap) -> View<'a> {
        View::new(memory, self.cr3, self.five_level)
    }

    /// Another page directory was loaded.
    fn switched(
        &mut self,
        memory: &GuestMemoryMmap,
        cpu: &mut dyn Cpu,
        regs: &kvm_regs,
        at: Gva,
    ) -> Result<()> {
        let cr3 = regs.rdi & !NO_FLUSH;
        let changed = cr3 & PAGE_FRAME != self.cr3 & PAGE_FRAME;
        self.cr3 = cr3;
        let view = self.view(memory);
        self.count(&view, at, changed)?;
        let ctx_id = self.linux.loaded_ctx_id(&view, self.per_cpu, cr3)?;
        if ctx_id == self.ctx_id {
            return Ok(());
        }
        self.ctx_id = ctx_id;
        self.space = self.spaces.get(ctx_id);
        self.efer.set_trapping(cpu, self.space != Space::Bystander)?;
        self.arm_returns(&view)
    }

    /// Which CR3 writes switch processes shows in use; one that only rewrites the same value costs stops for nothing.
    fn count(&mut self, view: &View<'_>, at: Gva, changed: bool) -> Result<()> {
        let Some(index) = self.census.iter().position(|entry| entry.0 == at) else { return Ok(()) };
        if changed {
            self.census.swap_remove(index);
            return Ok(());
        }
        self.census[index].1 += 1;
        if self.census[index].1 >= CENSUS {
            debug!(?at, "this CR3 write does not switch processes");
            self.census.swap_remove(index);
            self.mechanism.disarm(view, at)?;
        }
        Ok(())
    }

    /// Does what SYSCALL does (APM vol. 3), if that is what faulted; otherwise leaves `regs` as they are.
    fn emulate_syscall(&mut self, memory: &GuestMemoryMmap, regs: &mut kvm_regs) -> bool {
        let view = self.view(memory);
        let frame = self.entry_stack.locate(&view, regs.rsp).and_then(|at| InterruptFrame::read(&view, at));
        let Some(frame) = frame else { return false };
        let entry = match frame.cs {
            cs if cs == self.entry.user_cs64 => self.entry.lstar,
            cs if cs == self.entry.user_cs32 => self.entry.cstar,
            _ => return false,
        };
        // The CPU fetched it a moment ago, so on one virtual CPU it is there; if not, the guest decides.
        if !view.read_pair(Gva(frame.rip)).is_ok_and(|opcode| opcode == SYSCALL) {
            return false;
        }
        regs.rcx = frame.rip.wrapping_add(2);
        regs.r11 = frame.rflags | RF;
        regs.rflags = (frame.rflags & !(self.entry.fmask | RF)) | 2;
        regs.rsp = frame.rsp;
        regs.rip = entry;
        true
    }

    /// A thread is about to enter a system call. Returns whether the report changed in a way worth publishing.
    fn entered(
        &mut self,
        memory: &GuestMemoryMmap,
        sky: &Sky,
        cpu: &mut dyn Cpu,
        regs: &kvm_regs,
        counts: &mut Counts,
    ) -> Result<bool> {
        let view = self.view(memory);
        let mut news = false;
        if self.space == Space::New {
            news = self.identify(&view, sky, cpu, counts)?;
        }
        if self.space != Space::Monitored {
            return Ok(news);
        }
        // 32-bit calls have numbers of their own and pass through.
        let call = if regs.rip == self.entry.lstar {
            Syscall::decode(regs.rax, [regs.rdi, regs.rsi, regs.rdx, regs.r10])
        } else {
            Syscall::Other(u64::MAX)
        };
        counts.entered(&call);
        if sky.config().trap.returns == Returns::All || call.result_matters() {
            let stack_top =
                view.load(self.stack_top).map(Gva).ok_or(Error::Kernel("the per-CPU area is gone"))?;
            let note = match call {
                Syscall::Write { .. } | Syscall::Pwrite64 { .. } => {
                    let task = self.linux.current(&view, self.per_cpu)?;
                    self.tracker.entered(&view, &self.linux, task, &call).map(Box::new)
                }
                _ => {
                    debug!(%call, path = Tracker::path_argument(&view, &call), "entered");
                    None
                }
            };
            let pending = Pending { call, ctx_id: self.ctx_id, resumes_at: regs.rcx, note };
            if self.calls.enter(stack_top, pending).is_some() {
                counts.unreturned += 1;
            }
        }
        if let Syscall::ExitGroup { .. } = call {
            // Its other threads end inside their calls.
            let ended = self.calls.drain_space(self.ctx_id).len() as u64;
            counts.unreturned += ended;
            news = true;
        }
        self.arm_returns(&view)?;
        Ok(news)
    }

    /// The first call of a new address space tells whose it is.
    fn identify(
        &mut self,
        view: &View<'_>,
        sky: &Sky,
        cpu: &mut dyn Cpu,
        counts: &mut Counts,
    ) -> Result<bool> {
        let process = self
            .linux
            .current(view, self.per_cpu)
            .and_then(|task| self.linux.process(view, task))?
            .filter(|process| sky.config().wants(&process.executable));
        if let Some(process) = process {
            info!(executable = process.executable, pid = process.pid, "monitoring");
            self.spaces.monitor(self.ctx_id, process.pid);
            self.space = Space::Monitored;
            if counts.report.processes.len() < NUMBERED {
                counts.report.processes.push((process.executable, process.pid));
            }
            return Ok(true);
        }
        counts.identified += 1;
        self.spaces.ignore(self.ctx_id);
        self.space = Space::Bystander;
        self.efer.set_trapping(cpu, false)?;
        Ok(false)
    }

    /// A thread has come back from the system-call dispatcher.
    fn returned(&mut self, memory: &GuestMemoryMmap, regs: &kvm_regs, counts: &mut Counts) -> Result<()> {
        let view = self.view(memory);
        let at = Gva(regs.rsp);
        let stack_top = at.offset(PtRegs::SIZE);
        if let Some(pending) = self.calls.take(stack_top) {
            let saved = PtRegs::take(&view, at)?;
            // Elsewhere than behind the SYSCALL: a signal handler runs first, or the call is made again.
            let result = (saved.ip == pending.resumes_at).then_some(saved.ax);
            counts.returned(&pending.call);
            if let Some(note) = pending.note {
                self.tracker.returned(&view, *note, result);
            }
        }
        Ok(())
    }

    /// Puts the trap behind the dispatcher in place, or lifts it.
    ///
    /// This is decided when a call is entered and at a switch, not at a return: one followed call often comes after
    /// another.
    fn arm_returns(&mut self, view: &View<'_>) -> Result<()> {
        let wanted = !self.calls.is_empty() && self.space == Space::Monitored;
        if wanted != self.returns_armed {
            let Site { at, .. } = self.sites.returned;
            if wanted {
                self.mechanism.arm(view, &self.sites.returned)?;
            } else {
                self.mechanism.disarm(view, at)?;
            }
            self.returns_armed = wanted;
        }
        Ok(())
    }
}

impl Counts {
    fn count(&mut self, call: &Syscall) -> &mut CallCount {
        let number = usize::try_from(call.number()).unwrap_or(NUMBERED).min(NUMBERED);
        &mut self.calls[number]
    }

    fn entered(&mut self, call: &Syscall) {
        self.count(call).entered += 1;
    }

    fn returned(&mut self, call: &Syscall) {
        self.count(call).returned += 1;
    }
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
