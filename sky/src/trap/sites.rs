//! Finding the places to stop at in a running kernel, by decoding its text from the addresses the CPU itself holds.
//!
//! No address, no offset and no version is built in. What holds on Debian's 6.1 and 6.12 alike:
//!
//! - IDT gate 6 leads to the handler for invalid opcodes; its first instruction of two bytes or more, behind an
//!   `endbr64` if there is one, is `clac`, a NOP or a `push`.
//! - Direct jumps followed, the path from LSTAR loads RSP from a per-CPU variable (the top of the thread's kernel
//!   stack), and the last call before `pop r15` is the dispatcher. The first conditional jump behind it leads to the
//!   path that returns by IRET; the straight way on ends in SYSRET.
//! - A write of CR3 that paravirtualisation patched in leaves a NOP of three bytes behind it, where CR3 is new and
//!   there is nothing to emulate. The write that switches processes is the one with `bts rdi, 63` before it (keep the
//!   TLB), or its twin without, close by.
//!
//! Linux rewrites its text while it boots, so the search belongs after that: when the disk driver is ready.

use std::ops::RangeInclusive;

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};

use crate::guest::{Gva, KernelImage, View};
use crate::trap::{Site, Skip, StopKind};
use crate::{Error, Result};

/// `mov cr3, rdi` and the NOP behind it.
const CR3_WRITE: [u8; 6] = [0x0f, 0x22, 0xdf, 0x0f, 0x1f, 0x00];
const CR3_WRITE_LENGTH: u64 = 3;
const NOP_LENGTH: u8 = 3;
/// `bts rdi, 63`.
const KEEP_TLB: [u8; 5] = [0x48, 0x0f, 0xba, 0xef, 0x3f];
/// The two writes of `load_new_mm_cr3()` lie within one function, which is this long at most.
const TWIN_REACH: u64 = 0x300;
/// The entry path is about 60 instructions long.
const MAX_INSTRUCTIONS: usize = 512;
/// The handler's first instruction of two bytes comes at once.
const MAX_PROLOGUE: usize = 8;
/// The longest instruction.
const MAX_LENGTH: u64 = 15;
/// More CR3 writes than any kernel has.
const MAX_CR3_SITES: usize = 64;

/// Where the CPU's own registers point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchors {
    /// Base of the interrupt descriptor table.
    pub idt: Gva,
    /// SYSCALL entry of 64-bit code.
    pub lstar: Gva,
    /// SYSCALL entry of 32-bit code.
    pub cstar: Gva,
    /// SYSENTER's entry; 0 on a CPU that has none.
    pub sysenter: Gva,
}

/// Everything that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sites {
    /// The first instruction of the handler for invalid opcodes that can be stopped at.
    pub invalid_opcode: Site,
    /// The first instruction behind LSTAR.
    pub entered: Site,
    /// Behind the dispatcher's call.
    pub returned: Site,
    /// The dispatcher's call itself: RDI points at the saved registers, RSI is the number.
    pub dispatch: Gva,
    /// The guest's own way out by IRET.
    pub iret_path: Gva,
    /// Offset, from the per-CPU base, of the top of the current thread's kernel stack.
    pub stack_top: u64,
    /// Offset, from the per-CPU base, of the word in which the entry path keeps the user's RSP: `sp2` of the TSS.
    pub user_rsp: Option<u64>,
    /// Gate 0x80, and where it leads to.
    pub int80: Option<(Gva, Gva)>,
    /// Where SYSENTER leads to.
    pub sysenter: Option<Gva>,
    /// Where SYSCALL of 32-bit code leads to.
    pub compat_syscall: Option<Gva>,
    /// Behind the writes of CR3 that may switch processes.
    pub switches: Vec<Site>,
    /// The instructions from LSTAR to the dispatcher's call, in the order in which they run, without jumps and NOPs.
    pub entry_path: Vec<Step>,
    /// Text in which a thread is neither in user mode nor has its registers saved in full: from the SYSCALL entries
    /// to SYSRET. The CPU runs it with interrupts off.
    pub transit: Vec<RangeInclusive<u64>>,
}

/// One instruction of the entry path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Where it stands.
    pub at: Gva,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Where in `bytes` a 32-bit displacement lies that is relative to the next instruction.
    pub relative: Option<usize>,
}

impl Sites {
    /// Finds all sites.
    ///
    /// # Errors
    /// [`Error::Site`] says which one was not found and why.
    pub fn find(view: &View<'_>, image: &KernelImage, anchors: Anchors) -> Result<Self> {
        let path = syscall_path(view, anchors.lstar)?;
        let mut transit = vec![path.transit];
        // A kernel without 32-bit calls has no such path.
        transit.extend(transit_path(view, anchors.cstar).ok());
        Ok(Self {
            invalid_opcode: invalid_opcode(view, anchors.idt)?,
            entered: Site { at: anchors.lstar, length: 0, kind: StopKind::Entered, skip: Skip::Never },
            returned: path.returned,
            dispatch: path.dispatch,
            iret_path: path.iret_path,
            stack_top: path.stack_top,
            user_rsp: path.user_rsp,
            int80: gate(view, anchors.idt, 0x80)?.filter(|(_, handler)| handler.is_kernel()),
            sysenter: Some(anchors.sysenter).filter(|entry| entry.is_kernel()),
            compat_syscall: Some(anchors.cstar).filter(|entry| entry.is_kernel()),
            switches: switches(view, image)?,
            entry_path: path.steps,
            transit,
        })
    }

    /// Whether a thread that stands at `rip` is on its way between user mode and its saved registers.
    #[must_use]
    pub fn in_transit(&self, rip: u64) -> bool {
        self.transit.iter().any(|range| range.contains(&rip))
    }
}

fn not_found(site: &'static str, reason: impl Into<String>) -> Error {
    Error::Site { site, reason: reason.into() }
}

/// Decodes the instruction at `at`; gives also its bytes.
fn decode_bytes(view: &View<'_>, at: Gva, site: &'static str) -> Result<(Instruction, Step)> {
    let mut bytes = [0; 15];
    let mut length = bytes.len();
    // The last instruction before an unmapped page.
    if view.read(at, &mut bytes).is_err() {
        length = usize::try_from((4096 - at.0 % 4096).min(MAX_LENGTH)).unwrap_or(0);
        view.read(at, &mut bytes[..length])?;
    }
    let mut decoder = Decoder::with_ip(64, &bytes[..length], at.0, DecoderOptions::NONE);
    let instruction = decoder.decode();
    if instruction.is_invalid() {
        return Err(not_found(site, format!("no instruction at {:#x}", at.0)));
    }
    let offsets = decoder.get_constant_offsets(&instruction);
    let relative = if instruction.is_ip_rel_memory_operand() {
        Some(offsets.displacement_offset())
    } else if instruction.flow_control() == FlowControl::Call {
        Some(offsets.immediate_offset())
    } else {
        None
    };
    Ok((instruction, Step { at, bytes: bytes[..instruction.len()].to_vec(), relative }))
}

fn decode(view: &View<'_>, at: Gva, site: &'static str) -> Result<Instruction> {
    decode_bytes(view, at, site).map(|(instruction, _)| instruction)
}

/// Where an IDT gate lies and where it leads to; none if it is not present (SDM vol. 3, 7.14.1).
fn gate(view: &View<'_>, idt: Gva, vector: u64) -> Result<Option<(Gva, Gva)>> {
    const PRESENT: u64 = 1 << 47;
    let at = idt.offset(vector * 16);
    let (low, high) = (view.read_u64(at)?, view.read_u64(at.offset(8))?);
    let handler = Gva((low & 0xffff) | ((low >> 48) << 16) | (high << 32));
    Ok((low & PRESENT != 0).then_some((at, handler)))
}

fn invalid_opcode(view: &View<'_>, idt: Gva) -> Result<Site> {
    const SITE: &str = "the handler for invalid opcodes";
    let (_, mut at) = gate(view, idt, 6)?.ok_or_else(|| not_found(SITE, "IDT gate 6 is not present"))?;
    for _ in 0..MAX_PROLOGUE {
        let instruction = decode(view, at, SITE)?;
        let length = u8::try_from(instruction.len()).unwrap_or(0);
        let skip = match instruction.code() {
            Code::Clac => Some(Skip::Clac),
            Code::Pushq_imm8 | Code::Pushq_imm32 => Some(Skip::Push(instruction.immediate(0))),
            _ if is_nop(&instruction) => Some(Skip::Nop),
            _ => None,
        };
        match skip {
            Some(skip) if length >= 2 => {
                return Ok(Site { at, length, kind: StopKind::InvalidOpcode, skip });
            }
            _ if instruction.code() == Code::Endbr64 || length == 1 => {
                at = at.offset(u64::from(length));
            }
            _ => return Err(not_found(SITE, format!("it begins with {:?}", instruction.code()))),
        }
    }
    Err(not_found(SITE, "it begins with nothing but short instructions"))
}

fn is_nop(instruction: &Instruction) -> bool {
    instruction.mnemonic() == Mnemonic::Nop
}

struct SyscallPath {
    returned: Site,
    dispatch: Gva,
    iret_path: Gva,
    stack_top: u64,
    user_rsp: Option<u64>,
    steps: Vec<Step>,
    transit: RangeInclusive<u64>,
}

fn syscall_path(view: &View<'_>, lstar: Gva) -> Result<SyscallPath> {
    const SITE: &str = "the return of the system-call dispatcher";
    let mut at = lstar;
    let mut stack_top = None;
    let mut user_rsp = None;
    // Of the last call: where it stands, where it returns to, and how many steps lead there.
    let mut call: Option<(Gva, Gva, usize)> = None;
    let mut iret_path = None;
    let mut steps = Vec::new();
    for _ in 0..MAX_INSTRUCTIONS {
        let (instruction, step) = decode_bytes(view, at, SITE)?;
        let mut next = Gva(instruction.next_ip());
        let mut runs = !is_nop(&instruction) && instruction.code() != Code::Endbr64;
        match instruction.flow_control() {
            FlowControl::Call | FlowControl::IndirectCall => {
                call = Some((at, next, steps.len() + 1));
                iret_path = None;
            }
            FlowControl::ConditionalBranch if call.is_some() && iret_path.is_none() => {
                iret_path = Some(Gva(instruction.near_branch_target()));
            }
            FlowControl::UnconditionalBranch => {
                next = Gva(instruction.near_branch_target());
                runs = false;
            }
            FlowControl::Return | FlowControl::Exception | FlowControl::IndirectBranch => break,
            _ if loads_stack_from_gs(&instruction) && stack_top.is_none() => {
                stack_top = Some(instruction.memory_displacement64());
            }
            _ if stores_stack_to_gs(&instruction) && user_rsp.is_none() => {
                user_rsp = Some(instruction.memory_displacement64());
            }
            _ if instruction.mnemonic() == Mnemonic::Pop && instruction.op0_register() == Register::R15 => {
                let found = call.zip(iret_path).zip(stack_top);
                let (((dispatch, returned, length), iret_path), stack_top) = found.ok_or_else(|| {
                    not_found(SITE, "no call, conditional jump or stack load before pop r15")
                })?;
                steps.truncate(length);
                return Ok(SyscallPath {
                    returned: Site { at: returned, length: 0, kind: StopKind::Returned, skip: Skip::Never },
                    dispatch,
                    iret_path,
                    stack_top,
                    user_rsp,
                    steps,
                    transit: transit_path(view, lstar)?,
                });
            }
            _ => {}
        }
        if runs {
            steps.push(step);
        }
        at = next;
    }
    Err(not_found(SITE, "no pop r15 on the way from LSTAR"))
}

/// The text from a SYSCALL entry to its SYSRET, direct jumps followed.
fn transit_path(view: &View<'_>, entry: Gva) -> Result<RangeInclusive<u64>> {
    const SITE: &str = "SYSRET";
    let mut at = entry;
    let (mut first, mut last) = (entry.0, entry.0);
    for _ in 0..MAX_INSTRUCTIONS {
        let instruction = decode(view, at, SITE)?;
        first = first.min(at.0);
        last = last.max(at.0);
        at = match (instruction.code(), instruction.flow_control()) {
            (Code::Sysretq | Code::Sysretd, _) => return Ok(first..=last),
            (_, FlowControl::UnconditionalBranch) => Gva(instruction.near_branch_target()),
            (_, FlowControl::Return | FlowControl::Exception | FlowControl::IndirectBranch) => break,
            _ => Gva(instruction.next_ip()),
        };
    }
    Err(not_found(SITE, format!("not on the way from {:#x}", entry.0)))
}

/// `mov rsp, gs:[offset]`, absolute or relative to RIP.
fn loads_stack_from_gs(instruction: &Instruction) -> bool {
    instruction.op0_register() == Register::RSP
        && instruction.op1_kind() == OpKind::Memory
        && moves_by_gs(instruction)
}

/// `mov gs:[offset], rsp`, absolute or relative to RIP.
fn stores_stack_to_gs(instruction: &Instruction) -> bool {
    instruction.op0_kind() == OpKind::Memory
        && instruction.op1_register() == Register::RSP
        && moves_by_gs(instruction)
}

fn moves_by_gs(instruction: &Instruction) -> bool {
    instruction.mnemonic() == Mnemonic::Mov
        && instruction.memory_segment() == Register::GS
        && matches!(instruction.memory_base(), Register::None | Register::RIP)
}

fn switches(view: &View<'_>, image: &KernelImage) -> Result<Vec<Site>> {
    const SITE: &str = "the write of CR3 at a process switch";
    let found = image.find_in_text(view, &CR3_WRITE)?;
    if found.is_empty() {
        return Err(not_found(SITE, "no mov cr3, rdi with a NOP behind it"));
    }
    if found.len() > MAX_CR3_SITES {
        return Err(not_found(SITE, format!("{} candidates", found.len())));
    }
    let keeps_tlb = |at: &Gva| {
        let mut before = [0; KEEP_TLB.len()];
        let start = Gva(at.0.wrapping_sub(KEEP_TLB.len() as u64));
        view.read(start, &mut before).is_ok_and(|()| before == KEEP_TLB)
    };
    let keeping: Vec<Gva> = found.iter().copied().filter(keeps_tlb).collect();
    let near = |at: &Gva| keeping.iter().any(|other| other.0.abs_diff(at.0) <= TWIN_REACH);
    // A kernel built otherwise: all that there are. Those that do not switch processes run seldom.
    let chosen: Vec<Gva> = if keeping.is_empty() { found } else { found.into_iter().filter(near).collect() };
    let site = |at: Gva| Site {
        at: at.offset(CR3_WRITE_LENGTH),
        length: NOP_LENGTH,
        kind: StopKind::SwitchedSpace,
        skip: Skip::Nop,
    };
    Ok(chosen.into_iter().map(site).collect())
}

#[cfg(test)]
mod tests;
