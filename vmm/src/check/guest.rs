//! A guest of a few bytes: one page of page tables, one 2 MiB page that is everything, code written by hand.
//!
//! Everything is identity-mapped and open to user mode, and there is no interrupt controller, so nothing but the
//! instructions of a test can make the guest stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, Msrs, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::Failure;
use crate::vcpu::kick::Kicker;
use crate::vcpu::msr;

const MEMORY_SIZE: usize = 2 << 20;
const GDT: u64 = 0x1000;
const IDT: u64 = 0x2000;
const TSS: u64 = 0x3000;
const PML4: u64 = 0x4000;
const PDPT: u64 = 0x5000;
const PAGE_DIRECTORY: u64 = 0x6000;
/// Below the top of 32-bit memory, clear of the guest: Intel CPUs without unrestricted guests need it.
const KVM_TSS: usize = 0xfffb_d000;

/// Where kernel-mode code begins, and where `SYSCALL` enters.
pub(super) const KERNEL: u64 = 0x8000;
/// The handler of #UD, gate 6 of the IDT.
pub(super) const UD_HANDLER: u64 = 0x8100;
/// Where user-mode code begins.
pub(super) const USER: u64 = 0x9000;
/// Top of the stack that the CPU switches to when user mode faults.
pub(super) const KERNEL_STACK: u64 = 0xb000;
/// Top of the user-mode stack.
pub(super) const USER_STACK: u64 = 0xd000;

/// Selectors as `SYSCALL` and `SYSRET` demand them: kernel code, data; user data, code.
pub(super) const KERNEL_CODE: u16 = 0x08;
pub(super) const USER_CODE: u16 = 0x23;
pub(super) const USER_DATA: u16 = 0x1b;
const KERNEL_DATA: u16 = 0x10;
const TASK: u16 = 0x28;

pub(super) const EFER_SCE: u64 = 1;
const EFER_LONG_MODE: u64 = 0x500;
/// Flags that `SYSCALL` clears here: trap, interrupt, direction, I/O privilege.
pub(super) const FMASK: u64 = 0x3700;
/// User mode may do port I/O (privilege level 3), so that it can report.
pub(super) const USER_FLAGS: u64 = 0x3002;

/// Why a guest stopped.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    Out(u8),
    Debug { pc: u64, dr6: u64 },
    ReadMsr(u32),
    WriteMsr(u32, u64),
}

/// What lets a supervisor end a guest that does not stop by itself.
#[derive(Debug, Default)]
pub(super) struct Leash {
    pub(super) expired: AtomicBool,
    pub(super) kicker: std::sync::OnceLock<Arc<Kicker>>,
}

/// A fresh VM with one vCPU. Fields drop in order: the vCPU, the VM, then the memory under it.
#[derive(Debug)]
pub(super) struct TinyGuest {
    pub(super) vcpu: VcpuFd,
    pub(super) vm: VmFd,
    memory: GuestMemoryMmap,
    leash: Arc<Leash>,
    /// What a read of a filtered MSR shall return.
    pub(super) msr_answer: u64,
}

impl TinyGuest {
    /// A guest with `code` at each address, about to start in kernel mode at [`KERNEL`].
    pub(super) fn new(kvm: &Kvm, leash: Arc<Leash>, code: &[(u64, &[u8])]) -> Result<Self, Failure> {
        let vm = kvm.create_vm().map_err(Failure::ioctl("KVM_CREATE_VM"))?;
        vm.set_tss_address(KVM_TSS).map_err(Failure::ioctl("KVM_SET_TSS_ADDR"))?;
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_SIZE)])
            .map_err(|error| Failure::new(format!("no memory for the guest: {error}")))?;
        let host = memory.get_host_address(GuestAddress(0)).map_err(Failure::memory)?;
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: MEMORY_SIZE as u64,
            userspace_addr: host.expose_provenance() as u64,
        };
        // SAFETY: the mapping is owned by the guest, which drops it after the VM; there is no other slot to overlap.
        unsafe { vm.set_user_memory_region(region) }.map_err(Failure::ioctl("KVM_SET_USER_MEMORY_REGION"))?;
        write_tables(&memory)?;
        for (address, bytes) in code {
            memory.write_slice(bytes, GuestAddress(*address)).map_err(Failure::memory)?;
        }

        let vcpu = vm.create_vcpu(0).map_err(Failure::ioctl("KVM_CREATE_VCPU"))?;
        let cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(Failure::ioctl("KVM_GET_SUPPORTED_CPUID"))?;
        vcpu.set_cpuid2(&cpuid).map_err(Failure::ioctl("KVM_SET_CPUID2"))?;
        let kicker =
            Kicker::new(&vcpu).map_err(|error| Failure::new(format!("mapping the vCPU: {error}")))?;
        kicker.enter();
        // The slot is empty: a leash is made for one guest.
        let _ = leash.kicker.set(Arc::new(kicker));
        let guest = Self { vcpu, vm, memory, leash, msr_answer: 0 };
        guest.enter(false)?;
        Ok(guest)
    }

    /// Sets all registers anew: kernel mode at [`KERNEL`], or user mode at [`USER`].
    pub(super) fn enter(&self, user: bool) -> Result<(), Failure> {
        let mut sregs = self.vcpu.get_sregs().map_err(Failure::ioctl("KVM_GET_SREGS"))?;
        long_mode(&mut sregs, user);
        self.vcpu.set_sregs(&sregs).map_err(Failure::ioctl("KVM_SET_SREGS"))?;
        let regs = if user {
            kvm_regs { rip: USER, rsp: USER_STACK, rflags: USER_FLAGS, ..Default::default() }
        } else {
            kvm_regs { rip: KERNEL, rsp: KERNEL_STACK, rflags: 2, ..Default::default() }
        };
        self.set_regs(&regs)?;
        let star = (u64::from(KERNEL_DATA) << 48) | (u64::from(KERNEL_CODE) << 32);
        self.set_msrs(&[(msr::STAR, star), (msr::LSTAR, KERNEL), (msr::SYSCALL_MASK, FMASK)])
    }

    /// Runs until the guest stops for a reason that a test can expect.
    pub(super) fn run(&mut self) -> Result<Stop, Failure> {
        loop {
            match self.vcpu.run() {
                Ok(VcpuExit::IoOut(port, _)) => {
                    return u8::try_from(port)
                        .map(Stop::Out)
                        .map_err(|_| Failure::new(format!("an OUT to port {port:#x}, which no test uses")));
                }
                Ok(VcpuExit::Debug(arch)) => return Ok(Stop::Debug { pc: arch.pc, dr6: arch.dr6 }),
                Ok(VcpuExit::X86Rdmsr(exit)) => {
                    *exit.data = self.msr_answer;
                    return Ok(Stop::ReadMsr(exit.index));
                }
                Ok(VcpuExit::X86Wrmsr(exit)) => return Ok(Stop::WriteMsr(exit.index, exit.data)),
                Ok(VcpuExit::Shutdown) => return Err(Failure::new("the guest triple-faulted")),
                Ok(VcpuExit::InternalError) => return Err(Failure::new("KVM reports an internal error")),
                Ok(VcpuExit::FailEntry(reason, _)) => {
                    return Err(Failure::new(format!(
                        "the CPU refused to enter the guest (reason {reason:#x})"
                    )));
                }
                Ok(other) => return Err(Failure::new(format!("unexpected exit {other:?}"))),
                Err(error) if error.errno() == libc::EINTR || error.errno() == libc::EAGAIN => {
                    if self.leash.expired.load(Ordering::Acquire) {
                        return Err(Failure::new("the guest ran on without stopping"));
                    }
                }
                Err(error) => return Err(Failure::ioctl("KVM_RUN")(error)),
            }
        }
    }

    /// Runs until the guest stops, and fails unless it does so by an `OUT` to `port`.
    pub(super) fn expect_out(&mut self, port: u8, meaning: &str) -> Result<kvm_regs, Failure> {
        let stop = self.run().map_err(|failure| failure.before(meaning))?;
        if stop != Stop::Out(port) {
            return Err(Failure::new(format!("expected {meaning}, got {stop:x?}")));
        }
        self.regs()
    }

    pub(super) fn regs(&self) -> Result<kvm_regs, Failure> {
        self.vcpu.get_regs().map_err(Failure::ioctl("KVM_GET_REGS"))
    }

    pub(super) fn set_regs(&self, regs: &kvm_regs) -> Result<(), Failure> {
        self.vcpu.set_regs(regs).map_err(Failure::ioctl("KVM_SET_REGS"))
    }

    /// Selector of the code that was running, which tells the privilege level.
    pub(super) fn code_selector(&self) -> Result<u16, Failure> {
        Ok(self.vcpu.get_sregs().map_err(Failure::ioctl("KVM_GET_SREGS"))?.cs.selector)
    }

    /// Switches the `SYSCALL` instruction on or off behind the guest's back.
    pub(super) fn set_syscall_enabled(&self, enabled: bool) -> Result<(), Failure> {
        self.set_msrs(&[(msr::EFER, EFER_LONG_MODE | if enabled { EFER_SCE } else { 0 })])
    }

    fn set_msrs(&self, values: &[(u32, u64)]) -> Result<(), Failure> {
        let entries: Vec<_> =
            values.iter().map(|&(index, data)| kvm_msr_entry { index, data, ..Default::default() }).collect();
        let msrs =
            Msrs::from_entries(&entries).map_err(|error| Failure::new(format!("MSR list: {error:?}")))?;
        let written = self.vcpu.set_msrs(&msrs).map_err(Failure::ioctl("KVM_SET_MSRS"))?;
        match entries.get(written) {
            Some(refused) => Err(Failure::new(format!("KVM_SET_MSRS refused MSR {:#x}", refused.index))),
            None => Ok(()),
        }
    }

    /// The words that the CPU pushed on the kernel stack when user mode faulted: RIP, CS, RFLAGS, RSP, SS.
    pub(super) fn fault_frame(&self) -> Result<[u64; 5], Failure> {
        let mut frame = [0; 5];
        for (place, word) in (KERNEL_STACK - 40..KERNEL_STACK).step_by(8).zip(&mut frame) {
            *word = self.memory.read_obj(GuestAddress(place)).map_err(Failure::memory)?;
        }
        Ok(frame)
    }
}

/// The tables that the CPU itself reads: page tables, descriptors, the #UD gate, the kernel stack in the TSS.
fn write_tables(memory: &GuestMemoryMmap) -> Result<(), Failure> {
    const PRESENT_WRITABLE_USER: u64 = 7;
    const LARGE: u64 = 0x80;
    let gate_low = (UD_HANDLER & 0xffff) | (u64::from(KERNEL_CODE) << 16) | (0x8e00 << 32);
    let task_low = 0x67 | ((TSS & 0xff_ffff) << 16) | (0x8b << 40);
    let words = [
        (PML4, PDPT | PRESENT_WRITABLE_USER),
        (PDPT, PAGE_DIRECTORY | PRESENT_WRITABLE_USER),
        (PAGE_DIRECTORY, LARGE | PRESENT_WRITABLE_USER),
        (GDT + u64::from(KERNEL_CODE), 0x00af_9b00_0000_ffff),
        (GDT + u64::from(KERNEL_DATA), 0x00cf_9300_0000_ffff),
        (GDT + u64::from(USER_DATA & !3), 0x00cf_f300_0000_ffff),
        (GDT + u64::from(USER_CODE & !3), 0x00af_fb00_0000_ffff),
        (GDT + u64::from(TASK), task_low),
        (IDT + 6 * 16, gate_low),
    ];
    for (address, word) in words {
        memory.write_obj(word, GuestAddress(address)).map_err(Failure::memory)?;
    }
    // RSP0 lies at byte 4 of the TSS.
    memory.write_obj(KERNEL_STACK, GuestAddress(TSS + 4)).map_err(Failure::memory)
}

fn long_mode(sregs: &mut kvm_sregs, user: bool) {
    let segment = |selector: u16, kind: u8, code: bool| kvm_segment {
        limit: u32::MAX,
        selector,
        type_: kind,
        present: 1,
        dpl: u8::from(selector & 3 == 3) * 3,
        db: u8::from(!code),
        s: 1,
        l: u8::from(code),
        g: 1,
        ..Default::default()
    };
    let (code, data) = if user { (USER_CODE, USER_DATA) } else { (KERNEL_CODE, KERNEL_DATA) };
    sregs.cs = segment(code, 0xb, true);
    let data = segment(data, 3, false);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr =
        kvm_segment { base: TSS, limit: 0x67, selector: TASK, type_: 0xb, present: 1, ..Default::default() };
    sregs.gdt.base = GDT;
    sregs.gdt.limit = 0x37;
    sregs.idt.base = IDT;
    sregs.idt.limit = 7 * 16 - 1;
    sregs.cr3 = PML4;
    sregs.cr4 = 1 << 5;
    sregs.cr0 = 0x8000_0031;
    sregs.efer = EFER_LONG_MODE | EFER_SCE;
}
