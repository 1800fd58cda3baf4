//! Registers of a vCPU before its first instruction.

use kvm_bindings::{Msrs, kvm_lapic_state, kvm_msr_entry, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;

use super::msr;
use crate::boot::{CODE, DATA, GDT_SIZE};
use crate::error::{Error, Result};
use crate::machine::layout;

const FAST_STRINGS: u64 = 1;
/// Memory type ranges on, write-back by default.
const MTRR_WRITE_BACK: u64 = 1 << 11 | 6;

const PROTECTED_MODE_AND_PAGING: u64 = 1 << 31 | 1;
const PHYSICAL_ADDRESS_EXTENSION: u64 = 1 << 5;
const LONG_MODE_ENABLED_AND_ACTIVE: u64 = 1 << 8 | 1 << 10;

// Offsets of the two local interrupt pins in the local APIC, and how they are wired: the PIC to one, NMI to the other.
const LINT0: usize = 0x350;
const LINT1: usize = 0x360;
const EXTERNAL_INTERRUPT: u8 = 7;
const NMI: u8 = 4;

/// What every vCPU needs, whether it starts by itself or is started.
pub(super) fn prepare(vcpu: &VcpuFd) -> Result<()> {
    let entry = |index, data| kvm_msr_entry { index, data, ..Default::default() };
    let entries = [entry(msr::MISC_ENABLE, FAST_STRINGS), entry(msr::MTRR_DEF_TYPE, MTRR_WRITE_BACK)];
    let msrs = Msrs::from_entries(&entries)
        .map_err(|error| Error::internal("building the list of MSRs", format!("{error:?}")))?;
    let written = vcpu.set_msrs(&msrs).map_err(Error::kvm("KVM_SET_MSRS"))?;
    if let Some(refused) = entries.get(written) {
        tracing::warn!("KVM refused MSR {:#x}", refused.index);
    }
    let mut lapic = vcpu.get_lapic().map_err(Error::kvm("KVM_GET_LAPIC"))?;
    set_delivery_mode(&mut lapic, LINT0, EXTERNAL_INTERRUPT);
    set_delivery_mode(&mut lapic, LINT1, NMI);
    vcpu.set_lapic(&lapic).map_err(Error::kvm("KVM_SET_LAPIC"))
}

/// The delivery mode is bits 8 to 10 of a register.
fn set_delivery_mode(lapic: &mut kvm_lapic_state, register: usize, mode: u8) {
    let byte = &mut lapic.regs[register + 1];
    let value = (byte.to_ne_bytes()[0] & !7) | mode;
    *byte = i8::from_ne_bytes([value]);
}

/// Makes the first vCPU start at `entry` in 64-bit mode, as the boot protocol demands.
pub(super) fn enter_kernel(vcpu: &VcpuFd, entry: u64) -> Result<()> {
    let mut sregs = vcpu.get_sregs().map_err(Error::kvm("KVM_GET_SREGS"))?;
    let segment = |selector, type_, code: bool| kvm_segment {
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        db: u8::from(!code),
        s: 1,
        l: u8::from(code),
        g: 1,
        ..Default::default()
    };
    sregs.cs = segment(CODE, 0xb, true);
    let data = segment(DATA, 3, false);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.gdt.base = layout::GDT;
    sregs.gdt.limit = GDT_SIZE - 1;
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    sregs.cr3 = layout::PAGE_TABLES;
    sregs.cr4 |= PHYSICAL_ADDRESS_EXTENSION;
    sregs.cr0 |= PROTECTED_MODE_AND_PAGING;
    sregs.efer |= LONG_MODE_ENABLED_AND_ACTIVE;
    vcpu.set_sregs(&sregs).map_err(Error::kvm("KVM_SET_SREGS"))?;
    let regs = kvm_regs {
        rip: entry,
        rsi: layout::ZERO_PAGE,
        rsp: layout::STACK,
        rbp: layout::STACK,
        rflags: 2,
        ..Default::default()
    };
    vcpu.set_regs(&regs).map_err(Error::kvm("KVM_SET_REGS"))
}
