//! What a vCPU says of itself: everything that KVM supports, less what a guest cannot use here, with a topology of
//! one socket and one thread per core.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm};

use crate::error::{Error, Result};

const HYPERVISOR: u32 = 1 << 31;
const TSC_DEADLINE: u32 = 1 << 24;
const VMX: u32 = 1 << 5;
const SVM: u32 = 1 << 2;
const HYPER_THREADING: u32 = 1 << 28;
const LEGACY_MULTI_CORE: u32 = 1 << 1;
/// Flexible return and event delivery: it replaces the interrupt table and `SYSCALL`'s entry, which Sky watches.
const FRED: u32 = 1 << 17;

/// CPUID of vCPU `index` of `count`.
pub(super) fn build(kvm: &Kvm, index: u32, count: u32) -> Result<CpuId> {
    let supported =
        kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(Error::kvm("KVM_GET_SUPPORTED_CPUID"))?;
    let mut entries = supported.as_slice().to_vec();
    adjust(&mut entries, index, count, kvm.check_extension(Cap::TscDeadlineTimer));
    CpuId::from_entries(&entries).map_err(|error| Error::internal("building CPUID", format!("{error:?}")))
}

fn adjust(entries: &mut Vec<kvm_cpuid_entry2>, index: u32, count: u32, deadline_timer: bool) {
    let highest = entries.iter().find(|entry| entry.function == 0).map_or(0, |entry| entry.eax);
    for entry in entries.iter_mut() {
        match (entry.function, entry.index) {
            (1, _) => features(entry, index, count, deadline_timer),
            (4 | 0x8000_001d, _) if entry.eax & 0x1f != 0 => cache(entry, count),
            (7, 1) => entry.eax &= !FRED,
            (0x8000_0001, _) => {
                entry.ecx &= !(SVM | LEGACY_MULTI_CORE);
                if count > 1 {
                    entry.ecx |= LEGACY_MULTI_CORE;
                }
            }
            (0x8000_0008, _) => entry.ecx = (entry.ecx & !0xf0ff) | (id_bits(count) << 12) | (count - 1),
            (0x8000_001e, _) => (entry.eax, entry.ebx, entry.ecx) = (index, index, 0),
            _ => {}
        }
    }
    // The two leaves with the topology are written anew; the newer one is not needed with it.
    entries.retain(|entry| !matches!(entry.function, 0xb | 0x1f));
    if highest >= 0xb {
        const THREADS: u32 = 1 << 8;
        const CORES: u32 = 2 << 8 | 1;
        entries.push(topology(0, 0, 1, THREADS, index));
        entries.push(topology(1, id_bits(count), count, CORES, index));
    }
}

fn features(entry: &mut kvm_cpuid_entry2, index: u32, count: u32, deadline_timer: bool) {
    entry.ebx = (entry.ebx & 0xffff) | (index << 24) | (count << 16);
    entry.ecx = (entry.ecx & !(VMX | TSC_DEADLINE)) | HYPERVISOR;
    if deadline_timer {
        entry.ecx |= TSC_DEADLINE;
    }
    entry.edx &= !HYPER_THREADING;
    if count > 1 {
        entry.edx |= HYPER_THREADING;
    }
}

/// A cache of level 3 belongs to the whole socket, the others to one core.
fn cache(entry: &mut kvm_cpuid_entry2, count: u32) {
    let level = entry.eax >> 5 & 7;
    let sharing = if level >= 3 { count - 1 } else { 0 };
    entry.eax = (entry.eax & 0x3fff) | (sharing << 14);
    if entry.function == 4 {
        entry.eax |= (count - 1).min(63) << 26;
    }
}

fn topology(level: u32, shift: u32, processors: u32, kind: u32, id: u32) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function: 0xb,
        index: level,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: processors,
        ecx: kind,
        edx: id,
        ..Default::default()
    }
}

/// Bits that `count` different APIC ids take.
fn id_bits(count: u32) -> u32 {
    count.next_power_of_two().trailing_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            index,
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
            ..Default::default()
        }
    }

    fn find(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> &kvm_cpuid_entry2 {
        entries.iter().find(|entry| (entry.function, entry.index) == (function, index)).unwrap()
    }

    #[test]
    fn every_cpu_is_one_core_with_its_own_id() {
        for count in 1..=32 {
            for index in 0..count {
                let mut entries: Vec<_> =
                    [(0, 0), (1, 0), (7, 0), (7, 1), (0xb, 0), (0x1f, 0), (0x8000_0008, 0), (0x8000_001e, 0)]
                        .map(|(function, index)| leaf(function, index))
                        .to_vec();
                adjust(&mut entries, index, count, true);
                assert_eq!(find(&entries, 1, 0).ebx >> 16, index << 8 | count);
                let cores = find(&entries, 0xb, 1);
                assert_eq!((cores.ebx, cores.edx), (count, index));
                assert!(index >> cores.eax == 0, "the id does not fit its bits");
                assert_eq!(find(&entries, 0x8000_0008, 0).ecx & 0xff, count - 1);
                assert_eq!(find(&entries, 0x8000_001e, 0).eax, index);
                assert!(!entries.iter().any(|entry| entry.function == 0x1f));
            }
        }
    }

    #[test]
    fn what_does_not_work_is_hidden() {
        let mut entries = vec![leaf(0, 0), leaf(1, 0), leaf(7, 1), leaf(0x8000_0001, 0)];
        adjust(&mut entries, 0, 1, false);
        assert_eq!(find(&entries, 7, 1).eax & FRED, 0);
        assert_eq!(find(&entries, 1, 0).ecx & (VMX | TSC_DEADLINE | HYPERVISOR), HYPERVISOR);
        assert_eq!(find(&entries, 1, 0).edx & HYPER_THREADING, 0);
        assert_eq!(find(&entries, 0x8000_0001, 0).ecx & SVM, 0);
    }
}
