//! A compressed kernel, as distributions ship it: it unpacks itself.

use linux_loader::loader::bzimage::BzImage;
use linux_loader::loader::{self, KernelLoader};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::kernel::{Image, Kernel};
use super::{BootError, Result};
use crate::machine::layout::HIGH_MEMORY;

// Offsets in the setup header (Documentation/arch/x86/boot.rst).
const SETUP_SECTS: usize = 0x1f1;
const SYSSIZE: usize = 0x1f4;
const VERSION: usize = 0x206;
const INITRD_ADDR_MAX: usize = 0x22c;
const XLOADFLAGS: usize = 0x236;
const CMDLINE_SIZE: usize = 0x238;
const PREF_ADDRESS: usize = 0x258;
const INIT_SIZE: usize = 0x260;

/// The 64-bit entry, and the fields that tell of it, came with this version of the protocol.
const VERSION_64_BIT: u16 = 0x020c;
const XLF_KERNEL_64: u16 = 1;
/// The 64-bit entry lies this far behind the start of the loaded part.
const ENTRY_64: u64 = 0x200;

pub(super) fn load(memory: &GuestMemoryMmap, image: &mut Image<'_>, low_end: u64) -> Result<Kernel> {
    let setup = match image.byte(SETUP_SECTS) {
        0 => 4,
        sectors => u64::from(sectors),
    };
    image.check_length(Some((setup + 1) * 512 + u64::from(image.u32(SYSSIZE)) * 16))?;
    if image.u16(VERSION) < VERSION_64_BIT || image.u16(XLOADFLAGS) & XLF_KERNEL_64 == 0 {
        return Err(BootError::Not64Bit { path: image.path.to_owned() });
    }
    // It is loaded low, moves itself to where it prefers to be, and unpacks itself there.
    let end = image.u64(PREF_ADDRESS).max(HIGH_MEMORY).saturating_add(u64::from(image.u32(INIT_SIZE)));
    if end > low_end {
        return Err(BootError::DoesNotFit { what: "the kernel", need: end, have: low_end });
    }
    let at = GuestAddress(HIGH_MEMORY);
    let failed = |source| BootError::Load { path: image.path.to_owned(), source };
    let loaded = BzImage::load(memory, Some(at), &mut image.file, Some(at)).map_err(failed)?;
    let header = loaded.setup_header.ok_or_else(|| failed(loader::Error::InvalidKernelStartAddress))?;
    Ok(Kernel {
        entry: HIGH_MEMORY + ENTRY_64,
        end,
        header,
        initrd_max: u64::from(image.u32(INITRD_ADDR_MAX)),
        cmdline_max: u64::from(image.u32(CMDLINE_SIZE)),
    })
}
