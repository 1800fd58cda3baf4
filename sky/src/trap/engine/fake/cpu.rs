//! A CPU that runs the few instructions of the fake guest's kernel, and stops where a real one would.

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use kvm_bindings::{kvm_debug_exit_arch, kvm_regs};

use super::super::Vcpu;
use super::super::arm::msr;
use super::super::frames::RF;
use super::kernel::{CSTAR, DISPATCHER, GATE, INT80, Kernel, SWITCH, SYSENTER};
use crate::trap::EFER;
use crate::trap::cpu::mock::MockCpu;

const AC: u64 = 1 << 18;
const ZF: u64 = 1 << 6;

/// Where the CPU has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::trap::engine) enum Ran {
    /// The dispatcher's first instruction: the kernel carries out the call in RSI.
    Dispatcher,
    User,
    /// Behind the first instruction of the handler for invalid opcodes.
    Fault,
    /// Behind the NOP behind the write of CR3.
    Switched,
    /// The kernel's own entry for a 32-bit call.
    Compat,
}

pub(in crate::trap::engine) struct FakeCpu {
    pub(in crate::trap::engine) mock: MockCpu,
    pub(in crate::trap::engine) vcpu: Vcpu,
    /// Slot of the thread that runs.
    pub(in crate::trap::engine) thread: usize,
    pub(in crate::trap::engine) stops: u64,
}

impl FakeCpu {
    pub(in crate::trap::engine) fn sce(&self) -> u64 {
        self.mock.msrs[&EFER] & 1
    }

    /// Enters or leaves the kernel, with GS as it has to be there.
    pub(in crate::trap::engine) fn set_mode(&mut self, user: bool, per_cpu: u64) {
        self.mock.sregs.cs.selector = if user { 0x33 } else { 0x10 };
        let (gs, kernel_gs) = if user { (0, per_cpu) } else { (per_cpu, 0) };
        self.mock.msrs.insert(msr::GS_BASE, gs);
        self.mock.msrs.insert(msr::KERNEL_GS_BASE, kernel_gs);
    }

    /// Runs from RIP on until it comes to one of the places of [`Ran`].
    pub(in crate::trap::engine) fn run(&mut self, kernel: &Kernel, port: u8) -> Ran {
        for _ in 0..500 {
            let rip = self.mock.regs.rip;
            match rip {
                DISPATCHER => return Ran::Dispatcher,
                _ if rip == GATE + 3 => return Ran::Fault,
                _ if rip == SWITCH + 3 => return Ran::Switched,
                INT80 | SYSENTER | CSTAR => return Ran::Compat,
                _ => {}
            }
            let bytes = kernel.bytes(rip, 15);
            if bytes[..2] == [0xe6, port] {
                self.stops += 1;
                assert!(self.vcpu.port_exit(&mut self.mock, u16::from(port)).unwrap(), "{rip:#x}");
                if self.mock.regs.rip == rip {
                    self.mock.regs.rip += 2;
                }
                continue;
            }
            let breaks = self.mock.breaks();
            if self.mock.regs.rflags & RF == 0
                && let Some(at) = breaks.iter().position(|&at| at == rip)
            {
                self.stops += 1;
                let stop = kvm_debug_exit_arch { dr6: 0xffff_0ff0 | 1 << at, pc: rip, ..Default::default() };
                assert!(self.vcpu.debug_exit(&mut self.mock, &stop).unwrap());
                let regs = self.mock.regs;
                assert!(regs.rip != rip || regs.rflags & RF != 0, "it would stop here for ever");
                continue;
            }
            let instruction = Decoder::with_ip(64, &bytes, rip, DecoderOptions::NONE).decode();
            if self.execute(kernel, &instruction) {
                return Ran::User;
            }
        }
        panic!("it runs in circles at {:#x}", self.mock.regs.rip);
    }

    /// Executes one instruction. Returns whether it led to user mode.
    fn execute(&mut self, kernel: &Kernel, instruction: &Instruction) -> bool {
        let gs = self.mock.msrs[&msr::GS_BASE];
        let regs = &mut self.mock.regs;
        regs.rip = instruction.next_ip();
        regs.rflags &= !RF;
        match instruction.code() {
            Code::Swapgs => {
                let other = self.mock.msrs.insert(msr::KERNEL_GS_BASE, gs).unwrap();
                self.mock.msrs.insert(msr::GS_BASE, other);
            }
            Code::Clac => regs.rflags &= !AC,
            Code::Test_rm8_r8 => regs.rflags = regs.rflags & !ZF | if regs.rax & 0xff == 0 { ZF } else { 0 },
            Code::Je_rel32_64 => {
                if regs.rflags & ZF != 0 {
                    regs.rip = instruction.near_branch64();
                }
            }
            Code::Cmp_rm32_imm8 => {
                let value = load(kernel, regs, gs, instruction, 0) & 0xffff_ffff;
                let equal = value == instruction.immediate(1);
                regs.rflags = regs.rflags & !ZF | if equal { ZF } else { 0 };
            }
            Code::Jne_rel8_64 => {
                if regs.rflags & ZF == 0 {
                    regs.rip = instruction.near_branch64();
                }
            }
            Code::Pushfq => {
                regs.rsp -= 8;
                kernel.word(regs.rsp, regs.rflags);
            }
            Code::Popfq => {
                regs.rflags = kernel.get(regs.rsp);
                regs.rsp += 8;
            }
            Code::Jmp_rel8_64 | Code::Jmp_rel32_64 => regs.rip = instruction.near_branch64(),
            Code::Call_rel32_64 => {
                regs.rsp -= 8;
                kernel.word(regs.rsp, regs.rip);
                regs.rip = instruction.near_branch64();
            }
            Code::Xor_r32_rm32 | Code::Xor_rm32_r32 => *register(regs, instruction.op0_register()) = 0,
            Code::Movsxd_r64_rm32 => {
                let low = u32::try_from(regs.rax & 0xffff_ffff).unwrap();
                regs.rsi = i64::from(low.cast_signed()).cast_unsigned();
            }
            Code::Add_rm64_imm8 => regs.rsp += instruction.immediate(1),
            Code::Iretq => {
                let [rip, cs, rflags, rsp] = [0, 8, 16, 24].map(|at| kernel.get(regs.rsp + at));
                assert_eq!(cs, 0x33);
                self.mock.sregs.cs.selector = 0x33;
                (regs.rip, regs.rflags, regs.rsp) = (rip, rflags, rsp);
                return true;
            }
            Code::Sysretq => {
                assert_eq!(self.mock.msrs[&EFER] & 1, 1, "SYSRET faults on the user's stack");
                self.mock.sregs.cs.selector = 0x33;
                (regs.rip, regs.rflags) = (regs.rcx, regs.r11 & !RF);
                return true;
            }
            _ => match instruction.mnemonic() {
                Mnemonic::Nop | Mnemonic::Endbr64 => {}
                Mnemonic::Mov => {
                    let value = load(kernel, regs, gs, instruction, 1);
                    if instruction.op0_kind() == OpKind::Memory {
                        kernel.word(address(regs, gs, instruction), value);
                    } else {
                        *register(regs, instruction.op0_register()) = value;
                    }
                }
                Mnemonic::Push => {
                    let value = load(kernel, regs, gs, instruction, 0);
                    regs.rsp -= 8;
                    kernel.word(regs.rsp, value);
                }
                Mnemonic::Pop => {
                    let value = kernel.get(regs.rsp);
                    regs.rsp += 8;
                    *register(regs, instruction.op0_register()) = value;
                }
                _ => panic!("{:?} at {:#x}", instruction.code(), instruction.ip()),
            },
        }
        false
    }
}

fn address(regs: &kvm_regs, gs: u64, instruction: &Instruction) -> u64 {
    let segment = if instruction.memory_segment() == Register::GS { gs } else { 0 };
    let base = match instruction.memory_base() {
        Register::RSP => regs.rsp,
        _ => 0,
    };
    segment.wrapping_add(base).wrapping_add(instruction.memory_displacement64())
}

fn load(kernel: &Kernel, regs: &mut kvm_regs, gs: u64, instruction: &Instruction, operand: u32) -> u64 {
    match instruction.op_kind(operand) {
        OpKind::Register => *register(regs, instruction.op_register(operand)),
        OpKind::Memory => kernel.get(address(regs, gs, instruction)),
        _ => instruction.immediate(operand),
    }
}

fn register(regs: &mut kvm_regs, register: Register) -> &mut u64 {
    match register.full_register() {
        Register::RAX => &mut regs.rax,
        Register::RBX => &mut regs.rbx,
        Register::RCX => &mut regs.rcx,
        Register::RDX => &mut regs.rdx,
        Register::RSI => &mut regs.rsi,
        Register::RDI => &mut regs.rdi,
        Register::RBP => &mut regs.rbp,
        Register::RSP => &mut regs.rsp,
        Register::R8 => &mut regs.r8,
        Register::R9 => &mut regs.r9,
        Register::R10 => &mut regs.r10,
        Register::R11 => &mut regs.r11,
        Register::R12 => &mut regs.r12,
        Register::R13 => &mut regs.r13,
        Register::R14 => &mut regs.r14,
        Register::R15 => &mut regs.r15,
        other => panic!("{other:?}"),
    }
}
