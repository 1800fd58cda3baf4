//! The boot parameters: what a BIOS and a boot loader would have told the kernel.

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::initrd::Initrd;
use super::kernel::Kernel;
use super::{BootError, Result};
use crate::machine::layout;

const LOADER_UNDEFINED: u8 = 0xff;
const RAM: u32 = 1;
const RESERVED: u32 = 2;

pub(super) fn write(
    memory: &GuestMemoryMmap,
    kernel: &Kernel,
    initrd: Option<Initrd>,
    cmdline: &str,
    memory_size: u64,
) -> Result<()> {
    let mut params = boot_params { hdr: kernel.header, acpi_rsdp_addr: layout::ACPI, ..Default::default() };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.cmd_line_ptr =
        u32::try_from(layout::CMDLINE).map_err(BootError::memory("the command line"))?;
    params.hdr.cmdline_size = u32::try_from(cmdline.len()).map_err(BootError::memory("the command line"))?;
    if let Some(initrd) = initrd {
        params.hdr.ramdisk_image = initrd.address;
        params.hdr.ramdisk_size = initrd.size;
    }
    let map = memory_map(memory_size);
    for (entry, (addr, size, kind)) in params.e820_table.iter_mut().zip(&map) {
        *entry = boot_e820_entry { addr: *addr, size: *size, r#type: *kind };
    }
    params.e820_entries = u8::try_from(map.len()).map_err(BootError::memory("the memory map"))?;
    memory
        .write_obj(params, GuestAddress(layout::ZERO_PAGE))
        .map_err(BootError::memory("the boot parameters"))
}

/// Start, length and kind of every piece of physical memory that the guest shall know of.
fn memory_map(memory_size: u64) -> Vec<(u64, u64, u32)> {
    let mut map = vec![
        (0, layout::CONVENTIONAL_END, RAM),
        (layout::CONVENTIONAL_END, layout::HIGH_MEMORY - layout::CONVENTIONAL_END, RESERVED),
    ];
    for (start, length) in layout::memory_ranges(memory_size) {
        let start_of_rest = start.max(layout::HIGH_MEMORY);
        map.push((start_of_rest, length - (start_of_rest - start), RAM));
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_has_no_overlap_and_covers_all_memory() {
        for megabytes in [32, 33, 512, 2048, 3071, 3072, 3073, 4096, 10_000, 1 << 20] {
            let size: u64 = megabytes << 20;
            let map = memory_map(size);
            for pair in map.windows(2) {
                assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:x?}");
            }
            assert_eq!(map.iter().map(|(_, length, _)| length).sum::<u64>(), size);
            assert!(map.iter().all(|(_, length, _)| *length > 0));
            let acpi = map.iter().find(|(start, length, _)| (*start..start + length).contains(&layout::ACPI));
            assert!(acpi.is_some_and(|(.., kind)| *kind == RESERVED));
        }
    }
}
