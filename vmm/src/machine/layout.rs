//! Where everything lies in the guest's physical addresses.
//!
//! ```text
//!   0           first MiB: tables, boot parameters, command line, ACPI
//!   1 MiB       kernel ... initial RAM disk at the top
//!   3 GiB       end of low memory; disks at 0xd000_0000, interrupt controllers, KVM's own pages
//!   4 GiB       the rest of the memory
//! ```

/// Descriptors that the first vCPU starts with.
pub const GDT: u64 = 0x500;
/// Boot parameters, which Linux calls the zero page.
pub const ZERO_PAGE: u64 = 0x7000;
/// Stack that the first vCPU starts with.
pub const STACK: u64 = 0x8ff0;
/// Root of the page tables that the first vCPU starts with; the other tables follow it.
pub const PAGE_TABLES: u64 = 0x9000;
/// The kernel's command line.
pub const CMDLINE: u64 = 0x2_0000;
/// Bytes that a command line may take.
pub const CMDLINE_SPACE: u64 = 0x1_0000;
/// End of the memory that a BIOS would leave to the system.
pub const CONVENTIONAL_END: u64 = 0x9_fc00;
/// ACPI tables, in the area where a system without other hints looks for them.
pub const ACPI: u64 = 0xe_0000;
/// Bytes for ACPI tables.
pub const ACPI_SPACE: u64 = 0x2_0000;
/// Start of high memory, where kernels are loaded.
pub const HIGH_MEMORY: u64 = 0x10_0000;

/// End of the memory below 4 GiB, if there is that much.
pub const LOW_END: u64 = 3 << 30;
/// Start of the memory that did not find room below.
pub const ABOVE_4G: u64 = 4 << 30;

/// Registers of the first disk.
pub const VIRTIO: u64 = 0xd000_0000;
/// Interrupt line of the first disk, behind those of the PC's own devices.
pub const VIRTIO_IRQ: u32 = 16;
/// Registers of the I/O APIC, which KVM emulates.
pub const IO_APIC: u32 = 0xfec0_0000;
/// Registers of the local APICs, which KVM emulates.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// A page that KVM needs on some Intel CPUs.
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three pages that KVM needs on some Intel CPUs.
pub const KVM_TSS: usize = 0xfffb_d000;

/// First port of the serial console.
pub const COM1: u16 = 0x3f8;
/// Last port of the serial console.
pub const COM1_END: u16 = 0x3ff;
/// Interrupt line of the serial console.
pub const COM1_IRQ: u32 = 4;
/// Data port of the keyboard controller.
pub const KEYBOARD_DATA: u16 = 0x60;
/// Status and command port of the keyboard controller.
pub const KEYBOARD: u16 = 0x64;
/// ACPI's sleep control register.
pub const SLEEP_CONTROL: u16 = 0x600;
/// ACPI's sleep status register.
pub const SLEEP_STATUS: u16 = 0x601;
/// ACPI's reset register.
pub const RESET: u16 = 0x602;
/// What a write to the reset register must be.
pub const RESET_VALUE: u8 = 1;
/// The sleep type of "off".
pub const SLEEP_TYPE_OFF: u8 = 5;

/// Start and length of each piece of a guest's memory of `size` bytes.
#[must_use]
pub fn memory_ranges(size: u64) -> Vec<(u64, u64)> {
    let low = size.min(LOW_END);
    let mut ranges = vec![(0, low)];
    if size > low {
        ranges.push((ABOVE_4G, size - low));
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_complete_and_leaves_the_hole_alone() {
        for megabytes in (32..16 << 10).step_by(97).chain([3071, 3072, 3073, 4096, 1 << 20]) {
            let size = megabytes << 20;
            let ranges = memory_ranges(size);
            assert_eq!(ranges.iter().map(|(_, length)| length).sum::<u64>(), size);
            for (start, length) in ranges {
                assert!(length > 0);
                assert!(start + length <= LOW_END || start >= ABOVE_4G, "{megabytes} MiB");
            }
        }
    }

    #[test]
    fn the_first_megabyte_does_not_overlap_itself() {
        let areas = [
            (GDT, 0x28),
            (ZERO_PAGE, 0x1000),
            (STACK - 0xff0, 0xff0),
            (PAGE_TABLES, 0x6000),
            (CMDLINE, CMDLINE_SPACE),
            (CONVENTIONAL_END, 0),
            (ACPI, ACPI_SPACE),
            (HIGH_MEMORY, 0),
        ];
        for pair in areas.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:x?}");
        }
    }
}
