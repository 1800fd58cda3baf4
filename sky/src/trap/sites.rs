//! Finding the places to stop at in a running kernel, by decoding its text from the addresses the CPU itself holds.
//!
//! No address, no offset and no version is built in. What holds on Debian's 6.1 and 6.12 alike:
//!
//! - IDT gate 6 leads to the handler for invalid opcodes; its first instruction of two bytes or more, behind an
//!   `endbr64` if there is one, is `clac`, a NOP or a `push`.
//! - Direct jumps followed, the path from LSTAR loads RSP from a per-CPU variable (the top of the thread's kernel
//!   stack), and the last call before `pop r15` is the dispatcher. The first conditional jump behind it leads to the
//!   path that returns by IRET.
//! - A write of CR3 that paravirtualisation patched in leaves a NOP of three bytes behind it, where CR3 is new and
//!   there is nothing to emulate.
//!
//! Linux rewrites its text while it boots, so the search belongs after that: when the disk driver is ready.

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};

use crate::guest::{Gva, KernelImage, View};
use crate::trap::{Site, Skip, StopKind};
use crate::{Error, Result};

/// `mov cr3, rdi` and the NOP behind it.
const CR3_WRITE: [u8; 6] = [0x0f, 0x22, 0xdf, 0x0f, 0x1f, 0x00];
const CR3_WRITE_LENGTH: u64 = 3;
const NOP_LENGTH: u8 = 3;

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
}

/// Everything that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sites {
    /// The first instruction of the handler for invalid opcodes that can be stopped at.
    pub invalid_opcode: Site,
    /// Behind the dispatcher's call.
    pub returned: Site,
    /// The guest's own way out by IRET.
    pub iret_path: Gva,
    /// Offset, from the per-CPU base, of the top of the current thread's kernel stack.
    pub stack_top: u64,
    /// Behind writes of CR3.
    pub cr3_writes: Vec<Site>,
}

impl Sites {
    /// Finds all sites.
    ///
    /// # Errors
    /// [`Error::Site`] says which one was not found and why.
    pub fn find(view: &View<'_>, image: &KernelImage, anchors: Anchors) -> Result<Self> {
        let path = syscall_path(view, anchors.lstar)?;
        Ok(Self {
            invalid_opcode: invalid_opcode(view, anchors.idt)?,
            returned: path.returned,
            iret_path: path.iret_path,
            stack_top: path.stack_top,
            cr3_writes: cr3_writes(view, image)?,
        })
    }
}

fn not_found(site: &'static str, reason: impl Into<String>) -> Error {
    Error::Site { site, reason: reason.into() }
}

/// Decodes the instruction at `at`.
fn decode(view: &View<'_>, at: Gva, site: &'static str) -> Result<Instruction> {
    let mut bytes = [0; 15];
    let mut length = bytes.len();
    // The last instruction before an unmapped page.
    if view.read(at, &mut bytes).is_err() {
        length = usize::try_from((4096 - at.0 % 4096).min(MAX_LENGTH)).unwrap_or(0);
        view.read(at, &mut bytes[..length])?;
    }
    let instruction = Decoder::with_ip(64, &bytes[..length], at.0, DecoderOptions::NONE).decode();
    if instruction.is_invalid() {
        return Err(not_found(site, format!("no instruction at {:#x}", at.0)));
    }
    Ok(instruction)
}

fn invalid_opcode(view: &View<'_>, idt: Gva) -> Result<Site> {
    const SITE: &str = "the handler for invalid opcodes";
    const VECTOR: u64 = 6;
    let low = view.read_u64(idt.offset(VECTOR * 16))?;
    let high = view.read_u64(idt.offset(VECTOR * 16 + 8))?;
    if low >> 47 & 1 == 0 {
        return Err(not_found(SITE, "IDT gate 6 is not present"));
    }
    let mut at = Gva((low & 0xffff) | ((low >> 48) << 16) | (high << 32));
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
    iret_path: Gva,
    stack_top: u64,
}

fn syscall_path(view: &View<'_>, lstar: Gva) -> Result<SyscallPath> {
    const SITE: &str = "the return of the system-call dispatcher";
    let mut at = lstar;
    let mut stack_top = None;
    let mut after_call: Option<Gva> = None;
    let mut iret_path = None;
    for _ in 0..MAX_INSTRUCTIONS {
        let instruction = decode(view, at, SITE)?;
        let mut next = Gva(instruction.next_ip());
        match instruction.flow_control() {
            FlowControl::Call | FlowControl::IndirectCall => {
                after_call = Some(next);
                iret_path = None;
            }
            FlowControl::ConditionalBranch if after_call.is_some() && iret_path.is_none() => {
                iret_path = Some(Gva(instruction.near_branch_target()));
            }
            FlowControl::UnconditionalBranch => next = Gva(instruction.near_branch_target()),
            FlowControl::Return | FlowControl::Exception | FlowControl::IndirectBranch => break,
            _ if loads_stack_from_gs(&instruction) && stack_top.is_none() => {
                stack_top = Some(instruction.memory_displacement64());
            }
            _ if instruction.mnemonic() == Mnemonic::Pop && instruction.op0_register() == Register::R15 => {
                let found = after_call.zip(iret_path).zip(stack_top);
                let ((returned, iret_path), stack_top) = found.ok_or_else(|| {
                    not_found(SITE, "no call, conditional jump or stack load before pop r15")
                })?;
                return Ok(SyscallPath {
                    returned: Site {
                        at: returned,
                        length: patchable(view, returned)?,
                        kind: StopKind::Returned,
                        skip: Skip::Never,
                    },
                    iret_path,
                    stack_top,
                });
            }
            _ => {}
        }
        at = next;
    }
    Err(not_found(SITE, "no pop r15 on the way from LSTAR"))
}

/// Length of the instruction at `at`, which a trap overwrites whole.
fn patchable(view: &View<'_>, at: Gva) -> Result<u8> {
    let length = decode(view, at, "the return of the system-call dispatcher")?.len();
    u8::try_from(length)
        .ok()
        .filter(|&length| length >= 2)
        .ok_or_else(|| not_found("the return of the system-call dispatcher", "its instruction has one byte"))
}

/// `mov rsp, gs:[offset]`, absolute or relative to RIP.
fn loads_stack_from_gs(instruction: &Instruction) -> bool {
    instruction.mnemonic() == Mnemonic::Mov
        && instruction.op0_register() == Register::RSP
        && instruction.op1_kind() == OpKind::Memory
        && instruction.memory_segment() == Register::GS
        && matches!(instruction.memory_base(), Register::None | Register::RIP)
}

fn cr3_writes(view: &View<'_>, image: &KernelImage) -> Result<Vec<Site>> {
    const SITE: &str = "the write of CR3 at a process switch";
    let found = image.find_in_text(view, &CR3_WRITE)?;
    if found.is_empty() {
        return Err(not_found(SITE, "no mov cr3, rdi with a NOP behind it"));
    }
    if found.len() > MAX_CR3_SITES {
        return Err(not_found(SITE, format!("{} candidates", found.len())));
    }
    let site = |at: Gva| Site {
        at: at.offset(CR3_WRITE_LENGTH),
        length: NOP_LENGTH,
        kind: StopKind::SwitchedSpace,
        skip: Skip::Nop,
    };
    Ok(found.into_iter().map(site).collect())
}

#[cfg(test)]
mod tests;
