//! From a running guest to one whose traps are set: everything is looked up first, then the traps are written.

use std::sync::Arc;

use vm_memory::GuestMemoryMmap;

use crate::guest::{Gva, KernelImage, Linux, View};
use crate::insight::Tracker;
use crate::process::{Outstanding, Space, Spaces};
use crate::sky::Sky;
use crate::trap::sce::armed::{Armed, Entry};
use crate::trap::sce::frames::EntryStack;
use crate::trap::sites::{Anchors, Sites};
use crate::trap::{Cpu, Efer, Mechanism, PortTraps};
use crate::{Error, Result};

/// Model-specific registers that describe the system-call entry (SDM vol. 4, 2.1).
pub(super) mod msr {
    pub(in crate::trap::sce) const STAR: u32 = 0xc000_0081;
    pub(in crate::trap::sce) const LSTAR: u32 = 0xc000_0082;
    pub(in crate::trap::sce) const CSTAR: u32 = 0xc000_0083;
    pub(in crate::trap::sce) const FMASK: u32 = 0xc000_0084;
    pub(in crate::trap::sce) const GS_BASE: u32 = 0xc000_0101;
    pub(in crate::trap::sce) const KERNEL_GS_BASE: u32 = 0xc000_0102;
}

/// CR4.LA57.
const LA57: u64 = 1 << 12;

/// Sets the traps of a guest that stands in its kernel. Returns also how many processes of a wanted name run already.
pub(super) fn arm(sky: &Arc<Sky>, memory: &GuestMemoryMmap, cpu: &mut dyn Cpu) -> Result<(Armed, u64)> {
    let sregs = cpu.sregs()?;
    let entry = entry(cpu)?;
    let per_cpu = per_cpu(cpu)?;
    let five_level = sregs.cr4 & LA57 != 0;
    let view = View::new(memory, sregs.cr3, five_level);
    let image = KernelImage::around(&view, Gva(entry.lstar))?;
    let anchors = Anchors { idt: Gva(sregs.idt.base), lstar: Gva(entry.lstar) };
    let sites = Sites::find(&view, &image, anchors)?;
    let linux = Linux::new(&image.btf(&view)?)?;
    let stack_top = view.translate(per_cpu.offset(sites.stack_top))?.gpa;
    let mut efer = Efer::default();
    efer.learn(cpu)?;

    let processes = linux.processes(&view, linux.current(&view, per_cpu)?)?;
    let floor = processes.iter().map(|process| process.ctx_id).max().unwrap_or(0);
    let too_early = processes.iter().filter(|process| sky.config().wants(&process.executable)).count();

    let mut mechanism: Box<dyn Mechanism> = Box::new(PortTraps::new(sky.config().trap.port));
    set(mechanism.as_mut(), &view, &sites)?;
    let armed = Armed {
        census: sites.cr3_writes.iter().map(|site| (site.at, 0)).collect(),
        sites,
        linux,
        entry,
        per_cpu,
        stack_top,
        entry_stack: EntryStack::default(),
        five_level,
        mechanism,
        spaces: Spaces::above(floor),
        cr3: sregs.cr3,
        ctx_id: floor,
        space: Space::Bystander,
        efer,
        calls: Outstanding::default(),
        returns_armed: false,
        tracker: Tracker::new(Arc::clone(sky.index())),
    };
    Ok((armed, too_early as u64))
}

/// Sets the traps that are always there: all, or none.
fn set(mechanism: &mut dyn Mechanism, view: &View<'_>, sites: &Sites) -> Result<()> {
    let always = || sites.cr3_writes.iter().chain([&sites.invalid_opcode]);
    let Err(error) = always().try_for_each(|site| mechanism.arm(view, site)) else { return Ok(()) };
    always().try_for_each(|site| mechanism.disarm(view, site.at))?;
    Err(error)
}

fn entry(cpu: &mut dyn Cpu) -> Result<Entry> {
    // SYSRET's selectors: 32-bit code, stack, 64-bit code, eight bytes apart, with RPL 3.
    let user_cs32 = (cpu.msr(msr::STAR)? >> 48) | 3;
    Ok(Entry {
        lstar: cpu.msr(msr::LSTAR)?,
        cstar: cpu.msr(msr::CSTAR)?,
        fmask: cpu.msr(msr::FMASK)?,
        user_cs64: (user_cs32 + 16) & 0xffff,
        user_cs32,
    })
}

/// The per-CPU area is in one of the two: which one depends on whether the kernel has exchanged them.
fn per_cpu(cpu: &mut dyn Cpu) -> Result<Gva> {
    for index in [msr::GS_BASE, msr::KERNEL_GS_BASE] {
        let base = Gva(cpu.msr(index)?);
        if base.is_kernel() {
            return Ok(base);
        }
    }
    Err(Error::Kernel("GS does not hold a per-CPU area"))
}
