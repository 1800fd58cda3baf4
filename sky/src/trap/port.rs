//! Port traps: the site's first bytes become `out imm8, al`, which exits to user space with `KVM_EXIT_IO`.
//!
//! Works on any KVM and for any number of sites; the guest could see it by reading its own text. KVM leaves RIP at
//! the `out` and skips it by itself only if RIP is the same at the next `KVM_RUN`: a site whose instruction does
//! nothing is left alone, every other stop must move RIP.

use kvm_bindings::kvm_regs;
use vm_memory::{Bytes, GuestAddress};

use crate::guest::{Gpa, Gva, View};
use crate::trap::{Mechanism, Site, Skip};
use crate::{Error, Result};

const OUT_IMM8_AL: u8 = 0xe6;
const NOP: u8 = 0x90;
const OUT_LENGTH: usize = 2;
/// The longest instruction.
const MAX_LENGTH: usize = 15;
/// RFLAGS.AC.
const AC: u64 = 1 << 18;
const PAGE: u64 = 4096;

#[derive(Debug)]
struct Patch {
    site: Site,
    gpa: Gpa,
    original: [u8; MAX_LENGTH],
    armed: bool,
}

/// The mechanism.
#[derive(Debug)]
pub struct PortTraps {
    port: u8,
    patches: Vec<Patch>,
}

impl PortTraps {
    /// Traps on `port`, which no device of the guest may use.
    #[must_use]
    pub fn new(port: u8) -> Self {
        Self { port, patches: Vec::new() }
    }

    fn patch(&mut self, view: &View<'_>, site: &Site) -> Result<usize> {
        if let Some(index) = self.patches.iter().position(|patch| patch.site.at == site.at) {
            return Ok(index);
        }
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
        let gpa = view.translate(site.at)?.gpa;
        self.patches.push(Patch { site: *site, gpa, original, armed: false });
        Ok(self.patches.len() - 1)
    }

    fn write(view: &View<'_>, patch: &Patch, bytes: &[u8]) -> Result<()> {
        view.physical()
            .write_slice(bytes, GuestAddress(patch.gpa.0))
            .map_err(|_| Error::NotMapped(patch.site.at))
    }
}

impl Mechanism for PortTraps {
    fn name(&self) -> &'static str {
        "port"
    }

    fn arm(&mut self, view: &View<'_>, site: &Site) -> Result<()> {
        let index = self.patch(view, site)?;
        let port = self.port;
        let patch = &mut self.patches[index];
        if !patch.armed {
            let mut bytes = [NOP; MAX_LENGTH];
            bytes[..OUT_LENGTH].copy_from_slice(&[OUT_IMM8_AL, port]);
            Self::write(view, patch, &bytes[..usize::from(site.length)])?;
            patch.armed = true;
        }
        Ok(())
    }

    fn disarm(&mut self, view: &View<'_>, at: Gva) -> Result<()> {
        if let Some(patch) = self.patches.iter_mut().find(|patch| patch.site.at == at && patch.armed) {
            Self::write(view, patch, &patch.original[..usize::from(patch.site.length)])?;
            patch.armed = false;
        }
        Ok(())
    }

    fn site(&self, rip: u64) -> Option<Site> {
        self.patches.iter().find(|patch| patch.site.at.0 == rip).map(|patch| patch.site)
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
}

#[cfg(test)]
mod tests {
    use vm_memory::GuestMemoryMmap;

    use super::*;
    use crate::trap::StopKind;

    /// Identity-maps the first 2 MiB.
    fn guest() -> GuestMemoryMmap {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap();
        for (at, entry) in [(0x1000u64, 0x2003u64), (0x2000, 0x3003), (0x3000, 0x83)] {
            memory.write_obj(entry, GuestAddress(at)).unwrap();
        }
        memory
    }

    fn site(at: u64, length: u8, skip: Skip) -> Site {
        Site { at: Gva(at), length, kind: StopKind::InvalidOpcode, skip }
    }

    fn bytes(memory: &GuestMemoryMmap, at: u64) -> [u8; 4] {
        memory.read_obj(GuestAddress(at)).unwrap()
    }

    #[test]
    fn arming_writes_whole_instructions_and_disarming_restores_them() {
        let memory = guest();
        let view = View::new(&memory, 0x1000, false);
        memory.write_slice(&[0x0f, 0x01, 0xca, 0x55], GuestAddress(0x9000)).unwrap();
        let mut traps = PortTraps::new(0xe8);
        let clac = site(0x9000, 3, Skip::Clac);
        for _ in 0..2 {
            traps.arm(&view, &clac).unwrap();
            assert_eq!(bytes(&memory, 0x9000), [0xe6, 0xe8, 0x90, 0x55]);
        }
        assert_eq!(traps.site(0x9000), Some(clac));
        for _ in 0..2 {
            traps.disarm(&view, Gva(0x9000)).unwrap();
            assert_eq!(bytes(&memory, 0x9000), [0x0f, 0x01, 0xca, 0x55]);
        }
        assert_eq!(traps.site(0x9000), Some(clac), "a stop there may still be pending");
        assert_eq!(traps.site(0x9001), None);
    }

    #[test]
    fn the_overwritten_instruction_is_carried_out() {
        let memory = guest();
        let view = View::new(&memory, 0x1000, false);
        let traps = PortTraps::new(0xe8);
        let mut regs = kvm_regs { rip: 0x9000, rsp: 0x8000, rflags: AC | 2, ..Default::default() };
        traps.resume(&view, &site(0x9000, 3, Skip::Clac), &mut regs).unwrap();
        assert_eq!((regs.rip, regs.rflags), (0x9003, 2));
        traps.resume(&view, &site(0x9003, 2, Skip::Push(u64::MAX)), &mut regs).unwrap();
        assert_eq!((regs.rip, regs.rsp), (0x9005, 0x7ff8));
        assert_eq!(view.read_u64(Gva(0x7ff8)).unwrap(), u64::MAX);
        assert!(traps.resume(&view, &site(0x9005, 2, Skip::Never), &mut regs).is_err());
    }

    #[test]
    fn sites_that_cannot_be_patched_are_refused() {
        let memory = guest();
        let view = View::new(&memory, 0x1000, false);
        let mut traps = PortTraps::new(0xe8);
        for (at, length) in [(0x9000, 1), (0x9fff, 2), (0x20_0000, 2), (0x9000, 16)] {
            assert!(traps.arm(&view, &site(at, length, Skip::Nop)).is_err(), "{at:#x} {length}");
        }
    }
}
