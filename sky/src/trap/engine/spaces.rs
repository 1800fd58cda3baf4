//! Which address space runs on a virtual CPU, and whether its calls are watched.

use std::sync::Arc;
use std::time::Duration;

use tracing::info;

use super::armed::{Armed, GuestFacts};
use super::{SLOTS, Vcpu};
use crate::guest::{Gpa, Gva, View};
use crate::observer::ProcessEvent;
use crate::process::{Monitored, Space};
use crate::trap::engine::arm::msr;
use crate::trap::mechanism::Watch;
use crate::trap::{Cpu, Engine};
use crate::{Error, Result};

/// In a value for CR3: keep the TLB. The bit is not part of CR3.
const NO_FLUSH: u64 = 1 << 63;
/// The address-space id in CR3, and the bit in it that marks the user's half (`X86_CR3_PTI_PCID_USER_BIT`).
const PCID: u64 = 0x7ff;
const USER_PCID: u64 = 1 << 11;
/// `PTI_USER_PGTABLE_BIT`.
const USER_DIRECTORY: u64 = 1 << 12;
/// No address space has this number.
pub(super) const NOBODY: u64 = 0;
/// How often threads that were killed are looked for, while processes come and go.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

impl Vcpu {
    /// Another page directory was loaded, from RDI.
    pub(super) fn switched(&mut self, armed: &Armed, cpu: &mut dyn Cpu, rdi: u64) -> Result<()> {
        if self.per_cpu.is_none() {
            // The kernel wrote CR3, so GS is its own.
            self.per_cpu = Some(Gva(cpu.msr(msr::GS_BASE)?)).filter(|base| base.is_kernel());
        }
        self.cr3 = rdi & !NO_FLUSH;
        let loaded = self.loaded(armed);
        let mut state = armed.lock();
        state.counts.stops.switches += 1;
        let (ctx_id, done) = match loaded {
            Ok(ctx_id) if ctx_id == self.ctx_id => return Ok(()),
            Ok(ctx_id) => (ctx_id, Ok(())),
            // Whoever it is: unwatched every call goes well.
            Err(error) => (NOBODY, Err(error)),
        };
        self.ctx_id = ctx_id;
        // Told before it is looked up: whoever leaves it alone meanwhile sees that it is loaded here.
        self.machine.load(self.index, ctx_id);
        self.space = if ctx_id == NOBODY { Space::Bystander } else { state.space(ctx_id) };
        drop(state);
        self.watch_space(armed, cpu)?;
        done
    }

    /// Watches the calls of the current space, or not, as it deserves.
    pub(super) fn watch_space(&mut self, armed: &Armed, cpu: &mut dyn Cpu) -> Result<()> {
        let watch = if self.space == Space::Bystander { Watch::Switches } else { Watch::Calls };
        self.set_watch(armed, cpu, watch)
    }

    /// Number of the address space that CR3 has loaded.
    ///
    /// `switch_mm_irqs_off` files it under the address-space id that CR3 carries (0 without PCID) before it writes
    /// CR3, so at that point it is exact, unlike the page directory's frame, which is used again at once.
    fn loaded(&mut self, armed: &Armed) -> Result<u64> {
        let per_cpu = self.per_cpu.ok_or(Error::Kernel("the per-CPU area is not known yet"))?;
        let view = armed.view(self.cr3);
        // kern_pcid(): the id is stored plus one.
        let slot = usize::try_from((self.cr3 & PCID).saturating_sub(1)).unwrap_or(0).min(SLOTS - 1);
        let gpa = match self.ctx_ids[slot] {
            Some(gpa) => gpa,
            None => {
                let at = armed.linux.loaded_ctx_id(per_cpu, slot as u64);
                let gpa = view.translate(at)?.gpa;
                self.ctx_ids[slot] = Some(gpa);
                gpa
            }
        };
        view.load(gpa).ok_or(Error::Kernel("the per-CPU area is gone"))
    }

    /// Learns from scratch where a virtual CPU is whose traps have just been set.
    pub(super) fn learn(&mut self, armed: &Armed, cpu: &mut dyn Cpu) -> Result<()> {
        let sregs = cpu.sregs()?;
        let user = sregs.cs.selector & 3 == 3;
        self.per_cpu = per_cpu(cpu, user)?;
        self.stack_top = None;
        self.ctx_ids = Default::default();
        self.flag = None;
        self.cr3 = sregs.cr3;
        if armed.isolated {
            self.cr3 &= !(USER_DIRECTORY | USER_PCID);
        }
        // A CPU that is still asleep has none; its first switch will tell.
        self.ctx_id = self.loaded(armed).unwrap_or(NOBODY);
        self.machine.load(self.index, self.ctx_id);
        Ok(())
    }

    /// The address space that runs here has turned out to be of no interest: nobody watches its calls any more, on any
    /// virtual CPU.
    ///
    /// Linux leaves an address space loaded on a CPU that idles, and need not write CR3 when the process comes back to
    /// it. With SCE still clear there, a call that has begun here with SCE set would end in a SYSRET that faults. So
    /// before this virtual CPU goes on, the others that have it loaded stand still, and look anew before they run.
    /// Engine `entry` leaves SCE alone: there the others find out at their next call.
    pub(super) fn leave_alone(&mut self, armed: &Armed, cpu: &mut dyn Cpu) -> Result<()> {
        self.watch_space(armed, cpu)?;
        let matters = armed.engine == Engine::Sce && self.ctx_id != NOBODY;
        if matters && self.machine.is_loaded_elsewhere(self.index, self.ctx_id) {
            let machine = Arc::clone(&self.machine);
            // It may have to wait until others have done what they hold the machine for.
            machine.place(self.index, self.position(cpu)?);
            let _held = machine.rendezvous.hold(self.index);
            machine.tell();
        }
        Ok(())
    }

    /// The first call of a new address space tells whose it is. Called with its thread stopped at the call.
    pub(super) fn identify(&mut self, armed: &Armed, view: &View<'_>) -> Result<Space> {
        let per_cpu = self.per_cpu.ok_or(Error::Kernel("the per-CPU area is not known yet"))?;
        let process = armed.linux.current(view, per_cpu).and_then(|task| armed.linux.process(view, task));
        let process = match process {
            Ok(Some(process)) if process.ctx_id == self.ctx_id => process,
            // One that cannot be read is left alone as well, or each of its calls would fail again.
            other => {
                let mut state = armed.lock();
                state.counts.identified += 1;
                state.spaces.ignore(self.ctx_id);
                return other.map(|_| Space::Bystander);
            }
        };
        let sweep;
        let (events, gone) = {
            let mut state = armed.lock();
            let due = state.outstanding() > 0 || state.ending;
            sweep = due && state.swept.elapsed() > SWEEP_INTERVAL;
            let wanted = state.wanted(&mut GuestFacts::new(&armed.linux, *view, &process));
            // The same process with another address space has executed another program.
            let before: Vec<u64> = state
                .spaces
                .monitored()
                .filter(|(_, monitored)| monitored.pid == process.pid)
                .map(|(ctx_id, _)| ctx_id)
                .collect();
            let mut events = Vec::new();
            let mut gone = Vec::new();
            for ctx_id in before {
                gone.extend(state.forget_space(ctx_id).into_iter().flat_map(|(_, calls)| calls));
                if wanted.is_none() {
                    events.push(ProcessEvent::Ends { pid: process.pid });
                }
            }
            match wanted {
                None => {
                    state.counts.identified += 1;
                    state.spaces.ignore(self.ctx_id);
                }
                Some((rule, children)) => {
                    if children {
                        state.families.insert(process.pid, rule);
                    }
                    let executable = process.executable.clone();
                    state.counts.monitoring(&executable, process.pid);
                    events.push(ProcessEvent::Begins { pid: process.pid, executable: executable.clone() });
                    state.spaces.monitor(self.ctx_id, Monitored { pid: process.pid, executable, rule });
                }
            }
            state.counts.unreturned += gone.len() as u64;
            (events, gone)
        };
        armed.abandon(gone.iter().map(|(_, call)| call));
        for event in &events {
            info!(?event, "process");
            armed.tell(event);
        }
        if sweep {
            armed.sweep(self.cr3);
        }
        Ok(armed.lock().space(self.ctx_id))
    }
}

/// Where the per-CPU area begins. In user mode the kernel's GS is put aside.
pub(super) fn per_cpu(cpu: &mut dyn Cpu, user: bool) -> Result<Option<Gva>> {
    let order = if user { [msr::KERNEL_GS_BASE; 2] } else { [msr::GS_BASE, msr::KERNEL_GS_BASE] };
    for index in order {
        let base = Gva(cpu.msr(index)?);
        if base.is_kernel() {
            return Ok(Some(base));
        }
    }
    Ok(None)
}

/// Where a virtual CPU stands that does not run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) rip: u64,
    /// In user mode.
    pub(crate) user: bool,
    /// Its per-CPU area, if it has one already.
    pub(crate) per_cpu: Option<Gva>,
    /// An exception is on its way to the guest's handler.
    pub(crate) exception: bool,
}

impl Vcpu {
    /// Where this virtual CPU stands.
    pub(super) fn position(&self, cpu: &mut dyn Cpu) -> Result<Position> {
        let user = cpu.sregs()?.cs.selector & 3 == 3;
        Ok(Position {
            rip: cpu.regs().rip,
            user,
            per_cpu: per_cpu(cpu, user)?,
            exception: cpu.exception_pending()?,
        })
    }

    /// Physical address of the per-CPU variable that holds the top of the current thread's stack.
    pub(super) fn stack_top_at(&mut self, armed: &Armed, view: &View<'_>) -> Result<Gpa> {
        if let Some(gpa) = self.stack_top {
            return Ok(gpa);
        }
        let per_cpu = self.per_cpu.ok_or(Error::Kernel("the per-CPU area is not known yet"))?;
        let gpa = view.translate(per_cpu.offset(armed.sites.stack_top))?.gpa;
        self.stack_top = Some(gpa);
        Ok(gpa)
    }
}
