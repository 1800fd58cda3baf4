//! 32-bit entries of the kernel (`int 0x80`, SYSENTER, 32-bit SYSCALL): stopped for monitored processes, and nobody
//! else's.
//!
//! The calls themselves are not decoded, only counted. Each entry leads over a stub of ours first:
//!
//! ```text
//!   swapgs
//!   cmp dword gs:[flag], 1      whether a monitored process runs on this CPU
//!   swapgs
//!   jne on
//!   out                         the stop; KVM goes on behind it by itself
//!   on: jmp                     the guest's own entry
//! ```
//!
//! The flag is `reserved2` of the CPU's TSS, which neither hardware nor Linux uses. The word before it, `sp2`, is where
//! the SYSCALL entry puts the user's RSP: that tells where the flag is, and that it is mapped while the user's page
//! directory is loaded. The stubs change the arithmetic flags; SYSCALL and the interrupt have saved them by then, for
//! SYSENTER they are kept on the stack.

use vm_memory::{Bytes, GuestAddress};

use crate::guest::{Gpa, Gva, View};
use crate::trap::sites::Sites;
use crate::trap::{Engine, Site, Skip, StopKind};
use crate::{Error, Result};

/// Which way a 32-bit call came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CompatEntry {
    /// `int 0x80`, which 64-bit code can use, too.
    Int80,
    /// SYSENTER.
    Sysenter,
    /// SYSCALL in 32-bit code.
    Syscall,
}

/// Bytes of an IDT gate in 64-bit mode.
const GATE: usize = 16;
const SWAPGS: [u8; 3] = [0x0f, 0x01, 0xf8];
/// `cmp dword gs:[disp32], imm8`; the displacement and the immediate follow.
const CMP_GS: [u8; 4] = [0x65, 0x83, 0x3c, 0x25];
const JNE_OVER_OUT: [u8; 2] = [0x75, 0x02];
const OUT_IMM8_AL: u8 = 0xe6;
const JMP_REL32: u8 = 0xe9;
const PUSHFQ: u8 = 0x9c;
const POPFQ: u8 = 0x9d;
const INT3: u8 = 0xcc;
/// From `sp2` of the TSS to `reserved2`.
const FLAG_FROM_SP2: u64 = 8;

/// The stubs, and what was there before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compat {
    at: Gva,
    gpa: Gpa,
    bytes: Vec<u8>,
    stops: Vec<Site>,
    /// Where gate 0x80 lies, what it holds, and what it is to hold.
    gate: Option<(Gpa, [u8; GATE], [u8; GATE])>,
    sysenter: Option<Gva>,
    syscall: Option<Gva>,
    flag: u64,
}

impl Compat {
    /// Plans stubs at `at`, in padding that user mode maps, too. Nothing is written yet.
    ///
    /// # Errors
    /// [`Error::Site`] when the flag has no place.
    pub fn plan(view: &View<'_>, sites: &Sites, engine: Engine, at: Gva, port: u8) -> Result<Self> {
        let flag = sites.user_rsp.ok_or_else(|| unfit("the SYSCALL entry does not save RSP by GS"))?;
        let flag = flag.wrapping_add(FLAG_FROM_SP2);
        let mut compat = Self {
            at,
            gpa: view.translate(at)?.gpa,
            bytes: Vec::new(),
            stops: Vec::new(),
            gate: None,
            sysenter: None,
            syscall: None,
            flag,
        };
        if let Some((gate, handler)) = sites.int80 {
            let mut old = [0; GATE];
            view.read(gate, &mut old)?;
            let stub = compat.stub(CompatEntry::Int80, handler, port)?.0.to_le_bytes();
            let mut new = old;
            new[..2].copy_from_slice(&stub[..2]);
            new[6..8].copy_from_slice(&stub[2..4]);
            new[8..12].copy_from_slice(&stub[4..]);
            compat.gate = Some((view.translate(gate)?.gpa, old, new));
        }
        if let Some(handler) = sites.sysenter {
            compat.sysenter = Some(compat.stub(CompatEntry::Sysenter, handler, port)?);
        }
        // With the other engine it faults, as any SYSCALL does.
        if let (Engine::Entry, Some(handler)) = (engine, sites.compat_syscall) {
            compat.syscall = Some(compat.stub(CompatEntry::Syscall, handler, port)?);
        }
        Ok(compat)
    }

    /// Adds a stub. Gives its address.
    fn stub(&mut self, entry: CompatEntry, handler: Gva, port: u8) -> Result<Gva> {
        let place = |bytes: &Vec<u8>| self.at.offset(bytes.len() as u64);
        let displacement = i32::try_from(self.flag.cast_signed())
            .map_err(|_| unfit("the flag is too far from the base of GS"))?;
        let start = place(&self.bytes);
        let mut bytes = std::mem::take(&mut self.bytes);
        let keeps_flags = entry == CompatEntry::Sysenter;
        bytes.extend(keeps_flags.then_some(PUSHFQ));
        bytes.extend(SWAPGS);
        bytes.extend(CMP_GS);
        bytes.extend(displacement.to_le_bytes());
        bytes.push(1);
        bytes.extend(SWAPGS);
        bytes.extend(JNE_OVER_OUT);
        let stop = place(&bytes);
        bytes.extend([OUT_IMM8_AL, port]);
        bytes.extend(keeps_flags.then_some(POPFQ));
        bytes.push(JMP_REL32);
        let next = place(&bytes).offset(4);
        let distance = i32::try_from(handler.0.wrapping_sub(next.0).cast_signed())
            .map_err(|_| unfit("an entry is too far away"))?;
        bytes.extend(distance.to_le_bytes());
        self.bytes = bytes;
        self.stops.push(Site { at: stop, length: 2, kind: StopKind::Compat(entry), skip: Skip::Nop });
        Ok(start)
    }

    /// Writes the stubs and leads gate 0x80 there. The MSRs are for each virtual CPU to set.
    ///
    /// # Errors
    /// [`Error::NotMapped`].
    pub fn install(&self, view: &View<'_>) -> Result<()> {
        self.write(view, self.gpa, &self.bytes)?;
        self.gate.iter().try_for_each(|(gpa, _, new)| self.write(view, *gpa, new))
    }

    /// Gives the guest its gate back. The stubs stay for whoever is inside.
    ///
    /// # Errors
    /// [`Error::NotMapped`].
    pub fn remove(&self, view: &View<'_>) -> Result<()> {
        self.gate.iter().try_for_each(|(gpa, old, _)| self.write(view, *gpa, old))
    }

    /// Makes the stubs padding again. No thread may be on its way through them.
    ///
    /// # Errors
    /// [`Error::NotMapped`].
    pub fn clear(&self, view: &View<'_>) -> Result<()> {
        self.write(view, self.gpa, &vec![INT3; self.bytes.len()])
    }

    fn write(&self, view: &View<'_>, gpa: Gpa, bytes: &[u8]) -> Result<()> {
        view.physical().write_slice(bytes, GuestAddress(gpa.0)).map_err(|_| Error::NotMapped(self.at))
    }

    /// The stops.
    #[must_use]
    pub fn stops(&self) -> &[Site] {
        &self.stops
    }

    /// What the MSR of SYSENTER has to hold.
    #[must_use]
    pub fn sysenter(&self) -> Option<Gva> {
        self.sysenter
    }

    /// What CSTAR has to hold.
    #[must_use]
    pub fn syscall(&self) -> Option<Gva> {
        self.syscall
    }

    /// Offset of the flag, 32 bits wide, from the base of the per-CPU area.
    #[must_use]
    pub fn flag(&self) -> u64 {
        self.flag
    }

    /// Whether a thread that stands at `rip` is inside.
    #[must_use]
    pub fn contains(&self, rip: u64) -> bool {
        rip.wrapping_sub(self.at.0) < self.bytes.len() as u64
    }
}

fn unfit(reason: &str) -> Error {
    Error::Site { site: "the entries of 32-bit code", reason: reason.to_owned() }
}
