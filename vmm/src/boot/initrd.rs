//! Loading the initial RAM disk: as high as the kernel allows, out of the way of its unpacking.

use std::path::Path;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::kernel::Kernel;
use super::{BootError, Result};

const PAGE: u64 = 4096;

/// Where the initial RAM disk lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Initrd {
    pub(super) address: u32,
    pub(super) size: u32,
}

pub(super) fn load(memory: &GuestMemoryMmap, path: &Path, kernel: &Kernel, low_end: u64) -> Result<Initrd> {
    let read = BootError::read("initial RAM disk", path);
    let (mut file, size) = super::open(path).map_err(&read)?;
    let initrd = place(size, kernel.end, kernel.initrd_max, low_end)?;
    let length = usize::try_from(size).map_err(BootError::memory("the initial RAM disk"))?;
    memory
        .read_exact_volatile_from(GuestAddress(u64::from(initrd.address)), &mut file, length)
        .map_err(BootError::memory("the initial RAM disk"))?;
    Ok(initrd)
}

/// The highest page that leaves room for `size` bytes, below `last` and the end of low memory, above the kernel.
fn place(size: u64, kernel_end: u64, last: u64, low_end: u64) -> Result<Initrd> {
    let end = low_end.min(last.saturating_add(1));
    let does_not_fit = || BootError::DoesNotFit {
        what: "the initial RAM disk",
        need: kernel_end.next_multiple_of(PAGE).saturating_add(size),
        have: end,
    };
    let address = end.checked_sub(size).ok_or_else(does_not_fit)? / PAGE * PAGE;
    if address < kernel_end {
        return Err(does_not_fit());
    }
    match (u32::try_from(address), u32::try_from(size)) {
        (Ok(address), Ok(size)) => Ok(Initrd { address, size }),
        _ => Err(does_not_fit()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_placement_keeps_its_promises() {
        const MIB: u64 = 1 << 20;
        for size in [0, 1, 4095, 4096, 4097, 5 * MIB, 600 * MIB, 4096 * MIB, u64::MAX] {
            for kernel_end in [17 * MIB, 64 * MIB + 1, 500 * MIB] {
                for last in [0x37ff_ffff, 0x7fff_ffff, 0xffff_ffff] {
                    for low_end in [32 * MIB, 512 * MIB, 2048 * MIB, 3072 * MIB] {
                        let Ok(initrd) = place(size, kernel_end, last, low_end) else {
                            // It is only refused if it does not even fit at the lowest page.
                            let lowest = kernel_end.next_multiple_of(PAGE);
                            assert!(lowest.saturating_add(size) > low_end.min(last + 1));
                            continue;
                        };
                        let (address, length) = (u64::from(initrd.address), u64::from(initrd.size));
                        assert_eq!(length, size);
                        assert!(address.is_multiple_of(PAGE) && address >= kernel_end);
                        assert!(address + length <= low_end && (length == 0 || address + length - 1 <= last));
                    }
                }
            }
        }
    }
}
