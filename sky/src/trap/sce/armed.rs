//! What happens at each stop of a guest whose traps are set.

use kvm_bindings::kvm_regs;
use tracing::{debug, info};
use vm_memory::GuestMemoryMmap;

use crate::config::Returns;
use crate::guest::{Gpa, Gva, Linux, Syscall, View};
use crate::insight::{Tracker, WriteNote};
use crate::process::{Outstanding, Pending, Space, Spaces};
use crate::sky::Sky;
use crate::trap::sce::counts::Counts;
use crate::trap::sce::frames::{EntryStack, InterruptFrame, PtRegs, RF};
use crate::trap::sites::Sites;
use crate::trap::{Cpu, Efer, Mechanism};
use crate::{Error, Result};

const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// In a value for CR3: keep the TLB. The bit is not part of CR3.
const NO_FLUSH: u64 = 1 << 63;
const PAGE_FRAME: u64 = 0x000f_ffff_ffff_f000;
/// A CR3 write that has changed nothing this often is not the one of process switches.
const CENSUS: u32 = 64;
/// No address space has this number.
const NOBODY: u64 = 0;

/// What the CPU does at SYSCALL, from its registers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) lstar: u64,
    pub(super) cstar: u64,
    pub(super) fmask: u64,
    pub(super) user_cs64: u64,
    pub(super) user_cs32: u64,
}

/// Everything that is known once traps are set.
#[derive(Debug)]
pub(super) struct Armed {
    pub(super) sites: Sites,
    pub(super) linux: Linux,
    pub(super) entry: Entry,
    pub(super) per_cpu: Gva,
    /// Where the top of the current thread's stack is filed. Per-CPU variables of the kernel itself never move.
    pub(super) stack_top: Gpa,
    pub(super) entry_stack: EntryStack,
    pub(super) five_level: bool,
    pub(super) mechanism: Box<dyn Mechanism>,
    pub(super) spaces: Spaces,
    /// CR3 and number of the address space that is loaded. Both were taken in kernel mode: under page-table isolation
    /// this is the kernel's page directory, also while the user's is in use.
    pub(super) cr3: u64,
    pub(super) ctx_id: u64,
    /// What `spaces` says of it.
    pub(super) space: Space,
    pub(super) efer: Efer,
    pub(super) calls: Outstanding<Option<Box<WriteNote>>>,
    /// Whether the trap behind the dispatcher is in place.
    pub(super) returns_armed: bool,
    /// For each CR3 write: stops, until one changed the address space.
    pub(super) census: Vec<(Gva, u32)>,
    pub(super) tracker: Tracker,
}

impl Armed {
    pub(super) fn view<'a>(&self, memory: &'a GuestMemoryMmap) -> View<'a> {
        View::new(memory, self.cr3, self.five_level)
    }

    /// Another page directory was loaded.
    pub(super) fn switched(
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
        let loaded = self.linux.loaded_ctx_id(&view, self.per_cpu, cr3);
        match loaded {
            Ok(ctx_id) if ctx_id == self.ctx_id => {}
            Ok(ctx_id) => self.load(&view, cpu, ctx_id, self.spaces.get(ctx_id))?,
            // Whoever it is: with SCE set every call goes well, trapped or not.
            Err(_) => self.load(&view, cpu, NOBODY, Space::Bystander)?,
        }
        self.count(&view, at, changed)?;
        loaded.map(drop)
    }

    fn load(&mut self, view: &View<'_>, cpu: &mut dyn Cpu, ctx_id: u64, space: Space) -> Result<()> {
        self.ctx_id = ctx_id;
        self.space = space;
        self.efer.set_trapping(cpu, space != Space::Bystander)?;
        self.arm_returns(view)
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
    pub(super) fn emulate_syscall(&mut self, memory: &GuestMemoryMmap, regs: &mut kvm_regs) -> bool {
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
    pub(super) fn entered(
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
            news = self.exits(&view, cpu, counts)?;
        }
        self.arm_returns(&view)?;
        Ok(news)
    }

    /// The process ends, unless this is a child of vfork that still borrows its parent's address space. Its other
    /// threads end inside their calls.
    fn exits(&mut self, view: &View<'_>, cpu: &mut dyn Cpu, counts: &mut Counts) -> Result<bool> {
        let task = self.linux.current(view, self.per_cpu)?;
        let process = self.linux.process(view, task)?;
        if process.map(|process| process.pid) != self.spaces.pid(self.ctx_id) {
            return Ok(false);
        }
        counts.unreturned += self.calls.drain_space(self.ctx_id).len() as u64;
        self.ignore(cpu)?;
        Ok(true)
    }

    /// The current address space is of no interest, or no longer.
    fn ignore(&mut self, cpu: &mut dyn Cpu) -> Result<()> {
        self.spaces.ignore(self.ctx_id);
        self.space = Space::Bystander;
        self.efer.set_trapping(cpu, false)
    }

    /// The first call of a new address space tells whose it is.
    fn identify(
        &mut self,
        view: &View<'_>,
        sky: &Sky,
        cpu: &mut dyn Cpu,
        counts: &mut Counts,
    ) -> Result<bool> {
        let process = self.linux.current(view, self.per_cpu).and_then(|task| self.linux.process(view, task));
        match process {
            Ok(Some(process)) if sky.config().wants(&process.executable) => {
                info!(executable = process.executable, pid = process.pid, "monitoring");
                self.spaces.monitor(self.ctx_id, process.pid);
                self.space = Space::Monitored;
                counts.monitoring(process.executable, process.pid);
                Ok(true)
            }
            // One that cannot be read is left alone as well, or each of its calls would fail again.
            other => {
                counts.identified += 1;
                self.ignore(cpu)?;
                other.map(|_| false)
            }
        }
    }

    /// A thread has come back from the system-call dispatcher.
    pub(super) fn returned(
        &mut self,
        memory: &GuestMemoryMmap,
        regs: &kvm_regs,
        counts: &mut Counts,
    ) -> Result<()> {
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
            } else if let Syscall::Open { .. } | Syscall::Openat { .. } = pending.call
                && let Some(fd) = result.and_then(|result| u32::try_from(result).ok())
            {
                let task = self.linux.current(&view, self.per_cpu)?;
                self.tracker.opened(&view, &self.linux, task, fd);
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
            if wanted {
                self.mechanism.arm(view, &self.sites.returned)?;
            } else {
                self.mechanism.disarm(view, self.sites.returned.at)?;
            }
            self.returns_armed = wanted;
        }
        Ok(())
    }
}
