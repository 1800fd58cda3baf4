//! The definition block: devices that cannot be found by asking a bus, and the state "off".

use acpi_tables::Aml;
use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, Path, ResourceTemplate, Scope,
};
use acpi_tables::sdt::Sdt;

use super::definition_block;
use crate::machine::layout;

/// Bytes of registers of one virtio device.
const VIRTIO_REGISTERS: u32 = 0x1000;

/// A virtio-mmio device as ACPI describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtioNode {
    /// Number among its kind.
    pub index: u8,
    /// Where its registers are.
    pub address: u32,
    /// Its interrupt line.
    pub irq: u32,
}

pub(super) fn table(disks: &[VirtioNode]) -> Sdt {
    let mut aml = vec![];
    // Both sleep types are given, as always; a hardware-reduced system uses the first.
    let off = layout::SLEEP_TYPE_OFF;
    Name::new(Path::new("_S5_"), &Package::new(vec![&off, &off])).to_aml_bytes(&mut aml);
    console(&mut aml);
    for disk in disks {
        virtio(disk, &mut aml);
    }
    definition_block(&aml)
}

fn console(aml: &mut Vec<u8>) {
    let ports = IO::new(layout::COM1, layout::COM1, 1, 8);
    let irq = Interrupt::new(true, true, false, false, layout::COM1_IRQ);
    let hid = Name::new(Path::new("_HID"), &EISAName::new("PNP0501"));
    let uid = Name::new(Path::new("_UID"), &0_u8);
    let resources = Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&ports, &irq]));
    let device = Device::new(Path::new("COM1"), vec![&hid, &uid, &resources]);
    Scope::new(Path::new("_SB_"), vec![&device]).to_aml_bytes(aml);
}

fn virtio(disk: &VirtioNode, aml: &mut Vec<u8>) {
    let registers = Memory32Fixed::new(true, disk.address, VIRTIO_REGISTERS);
    // Edge-triggered, active high, exclusive: an irqfd without resampling is an edge.
    let irq = Interrupt::new(true, true, false, false, disk.irq);
    let hid = Name::new(Path::new("_HID"), &"LNRO0005");
    let uid = Name::new(Path::new("_UID"), &disk.index);
    let resources = Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&registers, &irq]));
    let device = Device::new(Path::new(&format!("VD{:02X}", disk.index)), vec![&hid, &uid, &resources]);
    Scope::new(Path::new("_SB_"), vec![&device]).to_aml_bytes(aml);
}
