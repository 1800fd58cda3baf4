//! Port traps: the site's first bytes become `out imm8, al`, which exits to user space with `KVM_EXIT_IO`.
//!
//! Works on any KVM and for any number of sites; the guest could see it by reading its own text. KVM leaves RIP at
//! the `out` and skips it by itself only if RIP is the same at the next `KVM_RUN`: a site whose instruction does
//! nothing is left alone, every other stop must move RIP.
//!
//! The guest's text is shared by all its CPUs, so only the places where everybody may be stopped are written there:
//! process switches and, for the engine `sce`, the handler for invalid opcodes. Calls are stopped in a
//! [`Detour`](crate::trap::detour::Detour) that only monitored ones enter.

use kvm_bindings::kvm_regs;
use tracing::info;
use vm_memory::{Bytes, GuestAddress};

use crate::guest::{Gpa, Gva, View};
use crate::trap::detour::Detour;
use crate::trap::mechanism::{Plan, Watch, Ways};
use crate::trap::{Compat, Cpu, Engine, Mechanism, Site, Skip, StopKind};
use crate::{Error, Result};

const OUT_IMM8_AL: u8 = 0xe6;
const NOP: u8 = 0x90;
const OUT_LENGTH: usize = 2;
/// The longest instruction.
const MAX_LENGTH: usize = 15;
/// RFLAGS.AC.
const AC: u64 = 1 << 18;
const PAGE: u64 = 4096;

/// A site in the guest's own text, and what stands there.
#[derive(Debug)]
struct Patch {
    site: Site,
    gpa: Gpa,
    original: [u8; MAX_LENGTH],
}

/// The mechanism.
#[derive(Debug)]
pub struct PortTraps {
    port: u8,
    /// Lifted last: a fault may be on its way there.
    late: Option<Patch>,
    patches: Vec<Patch>,
    detour: Detour,
    compat: Option<Compat>,
    stops: [Site; 2],
    ways: Ways,
    engine: Engine,
    /// Where calls return to that were not sent through the detour.
    returned: Gva,
}

impl PortTraps {
    /// Traps on `port`, which no device of the guest may use.
    ///
    /// # Errors
    /// [`Error::Site`] when a site cannot be patched.
    pub fn plan(view: &View<'_>, plan: &Plan<'_>, port: u8) -> Result<Self> {
        let sites = plan.sites;
        let detour = Detour::plan(view, sites, port)?;
        let stop = |at, kind| Site { at, length: 2, kind, skip: Skip::Never };
        let late = match plan.engine {
            Engine::Sce => Some(patch(view, &sites.invalid_opcode)?),
            Engine::Entry => None,
        };
        let compat = Compat::plan(view, sites, plan.engine, detour.behind(), port)
            .inspect_err(|error| info!(%error, "32-bit calls are not counted"))
            .ok();
        Ok(Self {
            port,
            late,
            compat,
            patches: sites.switches.iter().map(|site| patch(view, site)).collect::<Result<_>>()?,
            stops: [stop(detour.enter, StopKind::Entered), stop(detour.returned, StopKind::Returned)],
            ways: Ways { followed: detour.path, passed: sites.entered.at, again: detour.dispatch },
            engine: plan.engine,
            returned: sites.returned.at,
            detour,
        })
    }

    fn write(view: &View<'_>, patch: &Patch, bytes: &[u8]) -> Result<()> {
        view.physical()
            .write_slice(bytes, GuestAddress(patch.gpa.0))
            .map_err(|_| Error::NotMapped(patch.site.at))
    }

    fn restore(view: &View<'_>, patch: &Patch) -> Result<()> {
        Self::write(view, patch, &patch.original[..usize::from(patch.site.length)])
    }

    fn set(&self, view: &View<'_>) -> Result<()> {
        self.detour.install(view)?;
        self.compat.iter().try_for_each(|compat| compat.install(view))?;
        self.patches.iter().chain(&self.late).try_for_each(|patch| {
            let mut bytes = [NOP; MAX_LENGTH];
            bytes[..OUT_LENGTH].copy_from_slice(&[OUT_IMM8_AL, self.port]);
            Self::write(view, patch, &bytes[..usize::from(patch.site.length)])
        })
    }
}

fn patch(view: &View<'_>, site: &Site) -> Result<Patch> {
    let length = usize::from(site.length);
    let unfit = |reason: &str| Error::Site { site: "port trap", reason: reason.to_owned() };
    if !(OUT_LENGTH..=MAX_LENGTH).contains(&length) {
        return Err(unfit("the instruction is too short or too long"));
    }
    if site.at.0 % PAGE + length as u64 > PAGE {
        return Err(unfit("the instruction crosses a page"));
    }
    let mut original = [0; MAX_LENGTH];
    view.read(site.at, &mut original[..length])?;
    Ok(Patch { site: *site, gpa: view.translate(site.at)?.gpa, original })
}

impl Mechanism for PortTraps {
    fn name(&self) -> &'static str {
        "port"
    }

    fn ways(&self) -> Ways {
        self.ways
    }

    fn install(&self, view: &View<'_>) -> Result<()> {
        let done = self.set(view);
        if done.is_err() {
            self.remove(view)?;
            self.clear(view)?;
        }
        done
    }

    fn remove(&self, view: &View<'_>) -> Result<()> {
        self.compat.iter().try_for_each(|compat| compat.remove(view))?;
        self.patches.iter().try_for_each(|patch| Self::restore(view, patch))
    }

    fn clear(&self, view: &View<'_>) -> Result<()> {
        self.late.iter().try_for_each(|patch| Self::restore(view, patch))?;
        self.compat.iter().try_for_each(|compat| compat.clear(view))?;
        self.detour.remove(view)
    }

    fn watch(&self, _cpu: &mut dyn Cpu, _watch: Watch) -> Result<()> {
        Ok(())
    }

    fn lstar(&self) -> Option<Gva> {
        (self.engine == Engine::Entry).then_some(self.detour.enter)
    }

    fn site(&self, rip: u64) -> Option<Site> {
        let patched = self.patches.iter().chain(&self.late).map(|patch| &patch.site);
        let compat = self.compat.iter().flat_map(Compat::stops);
        self.stops.iter().chain(patched).chain(compat).find(|site| site.at.0 == rip).copied()
    }

    fn resume(&self, view: &View<'_>, site: &Site, regs: &mut kvm_regs) -> Result<()> {
        match site.skip {
            Skip::Nop => {}
            Skip::Clac => regs.rflags &= !AC,
            Skip::Push(value) => {
                let rsp = regs.rsp.wrapping_sub(8);
                view.write(Gva(rsp), &value.to_le_bytes())?;
                regs.rsp = rsp;
            }
            Skip::Never => {
                return Err(Error::Kernel("a site without a way on was passed by"));
            }
        }
        regs.rip = regs.rip.wrapping_add(u64::from(site.length));
        Ok(())
    }

    fn passes_nops(&self) -> bool {
        true
    }

    fn overwritten(&self, rip: u64) -> bool {
        self.patches.iter().any(|patch| rip.wrapping_sub(patch.site.at.0) < u64::from(patch.site.length))
    }

    fn in_text(&self, rip: u64) -> bool {
        self.detour.contains(rip) || self.compat.as_ref().is_some_and(|compat| compat.contains(rip))
    }

    fn compat(&self) -> Option<&Compat> {
        self.compat.as_ref()
    }

    fn redirect(&self, view: &View<'_>, slot: Gva, stopped: bool) -> Result<bool> {
        let (from, to) = if stopped {
            (self.returned, self.detour.returned)
        } else {
            (self.detour.returned, self.returned)
        };
        let now = Gva(view.read_u64(slot)?);
        if now == from {
            view.write(slot, &to.0.to_le_bytes())?;
        }
        Ok(now == from || now == to)
    }
}

#[cfg(test)]
mod tests;
