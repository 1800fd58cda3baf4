//! The guest's memory: mapped here, made known to KVM.

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{
    Address, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MemoryRegionAddress,
};

use super::layout;
use crate::error::{Error, Result};

/// Maps `size` bytes of memory for a guest. Pages that the guest never touches cost nothing.
///
/// # Errors
/// The host cannot map that much.
pub(super) fn map(size: u64) -> Result<GuestMemoryMmap> {
    let ranges = layout::memory_ranges(size)
        .into_iter()
        .map(|(start, length)| usize::try_from(length).map(|length| (GuestAddress(start), length)))
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|error| Error::Memory { size, reason: error.to_string() })?;
    GuestMemoryMmap::from_ranges(&ranges).map_err(|error| Error::Memory { size, reason: error.to_string() })
}

/// Makes `memory` the memory of `vm`.
///
/// # Errors
/// KVM refuses a piece of it.
pub(super) fn register(vm: &VmFd, memory: &GuestMemoryMmap) -> Result<()> {
    for (slot, region) in (0..).zip(memory.iter()) {
        let host = region
            .get_host_address(MemoryRegionAddress(0))
            .map_err(|error| Error::Memory { size: region.len(), reason: error.to_string() })?;
        let description = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().raw_value(),
            memory_size: region.len(),
            userspace_addr: host.expose_provenance() as u64,
        };
        // SAFETY: the regions of a memory do not overlap, and the machine keeps the memory for as long as the VM.
        unsafe { vm.set_user_memory_region(description) }
            .map_err(Error::kvm("KVM_SET_USER_MEMORY_REGION"))?;
    }
    Ok(())
}
