//! ACPI tables: how the guest learns of its CPUs, its disks, and how to switch itself off.
//!
//! ```text
//!   RSDP ──▶ XSDT ──▶ FADT (hardware-reduced: power off, reset) ──▶ DSDT (disks, console)
//!                └──▶ MADT (local APICs, I/O APIC)
//! ```
//!
//! Linux on x86 has no other way to find a virtio-mmio device unless its command line can name one, and kernels of
//! distributions leave that out.

use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, sdt::Sdt};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::error::{Error, Result};
use crate::machine::layout;

mod dsdt;

pub use dsdt::VirtioNode;

const OEM: [u8; 6] = *b"SKYVMM";
const TABLE: [u8; 8] = *b"SKYVMM  ";
const REVISION: u32 = 1;

// There is no VGA, and no CMOS clock (IAPC_BOOT_ARCH); the keyboard controller's bit stays clear.
const NO_VGA: u16 = 1 << 2;
const NO_CMOS_CLOCK: u16 = 1 << 5;

/// Writes the tables of a machine with `cpus` vCPUs and the given disks.
///
/// # Errors
/// The tables do not fit, which would be a mistake of the layout.
pub fn write(memory: &GuestMemoryMmap, cpus: u32, disks: &[VirtioNode]) -> Result<()> {
    let image = build(layout::ACPI, cpus, disks)?;
    if image.len() as u64 > layout::ACPI_SPACE {
        return Err(too_large());
    }
    memory
        .write_slice(&image, GuestAddress(layout::ACPI))
        .map_err(|error| Error::internal("writing the ACPI tables", error))
}

fn too_large() -> Error {
    Error::internal("building the ACPI tables", "they do not fit")
}

/// All tables as one image for address `base`: the RSDP first, the others at multiples of 16 behind it.
fn build(base: u64, cpus: u32, disks: &[VirtioNode]) -> Result<Vec<u8>> {
    // The RSDP names the XSDT, which is complete last; its place is kept free until then.
    let mut image = vec![0; Rsdp::len()];
    let dsdt = append(&mut image, base, &dsdt::table(disks));
    let fadt = append(&mut image, base, &fadt(dsdt));
    let madt = append(&mut image, base, &madt(cpus)?);
    let mut xsdt = XSDT::new(OEM, TABLE, REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = append(&mut image, base, &xsdt);
    let mut rsdp = vec![];
    Rsdp::new(OEM, xsdt).to_aml_bytes(&mut rsdp);
    image[..rsdp.len()].copy_from_slice(&rsdp);
    Ok(image)
}

/// Puts a table behind the others and says at which address it is.
fn append(image: &mut Vec<u8>, base: u64, table: &dyn Aml) -> u64 {
    image.resize(image.len().next_multiple_of(16), 0);
    let address = base + image.len() as u64;
    table.to_aml_bytes(image);
    address
}

fn fadt(dsdt: u64) -> impl Aml {
    let port = |port: u16| GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(port));
    let mut fadt = FADTBuilder::new(OEM, TABLE, REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.iapc_boot_arch = (NO_VGA | NO_CMOS_CLOCK).into();
    fadt.sleep_control_reg = port(layout::SLEEP_CONTROL);
    fadt.sleep_status_reg = port(layout::SLEEP_STATUS);
    fadt.reset_reg = port(layout::RESET);
    fadt.reset_value = layout::RESET_VALUE;
    fadt.finalize()
}

fn madt(cpus: u32) -> Result<MADT> {
    let mut madt = MADT::new(OEM, TABLE, REVISION, LocalInterruptController::Address(layout::LOCAL_APIC));
    for cpu in 0..cpus {
        let id = u8::try_from(cpu).map_err(|_| too_large())?;
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, layout::IO_APIC, 0));
    Ok(madt)
}

/// A definition block around `aml`.
fn definition_block(aml: &[u8]) -> Sdt {
    let mut table = Sdt::new(*b"DSDT", 36, 2, OEM, TABLE, REVISION);
    table.append_slice(aml);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0xe_0000;

    fn disks(count: u8) -> Vec<VirtioNode> {
        (0..count)
            .map(|index| VirtioNode {
                index,
                address: 0xd000_0000 + u32::from(index) * 0x1000,
                irq: 16 + u32::from(index),
            })
            .collect()
    }

    fn number<const N: usize>(image: &[u8], offset: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes[..N].copy_from_slice(&image[offset..offset + N]);
        u64::from_le_bytes(bytes)
    }

    /// The table at `address`, its signature and checksum verified.
    fn table<'a>(image: &'a [u8], address: u64, signature: &[u8]) -> &'a [u8] {
        let start = usize::try_from(address - BASE).unwrap();
        let length = usize::try_from(number::<4>(image, start + 4)).unwrap();
        let table = &image[start..start + length];
        assert_eq!(&table[..4], signature);
        assert_eq!(table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0, "checksum");
        table
    }

    #[test]
    fn the_tables_lead_to_each_other_and_their_checksums_are_right() {
        for cpus in [1, 2, 4, 32] {
            for count in [0, 1, 8] {
                let image = build(BASE, cpus, &disks(count)).unwrap();
                assert!(image.len() as u64 <= layout::ACPI_SPACE);
                assert_eq!(&image[..8], b"RSD PTR ");
                assert_eq!(image[..20].iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0);
                assert_eq!(image[..36].iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0);
                let xsdt = table(&image, number::<8>(&image, 24), b"XSDT");
                let fadt = table(&image, number::<8>(xsdt, 36), b"FACP");
                let madt = table(&image, number::<8>(xsdt, 44), b"APIC");
                table(&image, number::<8>(fadt, 140), b"DSDT");
                assert_eq!(madt.len(), 44 + usize::try_from(cpus).unwrap() * 8 + 12);
            }
        }
    }

    #[test]
    fn the_fadt_says_how_to_power_off_and_reset() {
        let image = build(BASE, 1, &[]).unwrap();
        let xsdt = table(&image, number::<8>(&image, 24), b"XSDT");
        let fadt = table(&image, number::<8>(xsdt, 36), b"FACP");
        // Flags: hardware-reduced and reset register supported; then the three registers as I/O ports.
        assert_eq!(number::<4>(fadt, 112) & (1 << 20 | 1 << 10), 1 << 20 | 1 << 10);
        assert_eq!((fadt[116], number::<8>(fadt, 120)), (1, u64::from(layout::RESET)));
        assert_eq!(fadt[128], layout::RESET_VALUE);
        assert_eq!((fadt[244], number::<8>(fadt, 248)), (1, u64::from(layout::SLEEP_CONTROL)));
        assert_eq!((fadt[256], number::<8>(fadt, 260)), (1, u64::from(layout::SLEEP_STATUS)));
    }

    #[test]
    fn every_disk_has_a_node() {
        let image = build(BASE, 1, &disks(3)).unwrap();
        let nodes = image.windows(8).filter(|window| *window == b"LNRO0005").count();
        assert_eq!(nodes, 3);
        assert!(image.windows(4).any(|window| window == b"_S5_"));
    }
}
