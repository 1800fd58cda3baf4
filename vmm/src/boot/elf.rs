//! An uncompressed kernel, a `vmlinux`: it is put where its program headers say.

use linux_loader::loader::KernelLoader;
use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::elf::Elf;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::kernel::{Image, Kernel};
use super::{BootError, Result};
use crate::machine::layout::HIGH_MEMORY;

// Offsets in the ELF header, and in a program header.
const CLASS: usize = 4;
const MACHINE: usize = 18;
const ENTRY: usize = 24;
const PROGRAM_HEADERS: usize = 32;
const PROGRAM_HEADER_COUNT: usize = 56;
const PROGRAM_HEADER_SIZE: u64 = 56;

const CLASS_64: u8 = 2;
const MACHINE_X86_64: u16 = 62;
const PT_LOAD: u64 = 1;

/// The last address for an initial RAM disk that every 64-bit kernel accepts.
const INITRD_MAX: u64 = 0x7fff_ffff;
/// The longest command line of Linux on x86.
const CMDLINE_MAX: u64 = 2047;

pub(super) fn load(memory: &GuestMemoryMmap, image: &mut Image<'_>, low_end: u64) -> Result<Kernel> {
    if image.byte(CLASS) != CLASS_64 || image.u16(MACHINE) != MACHINE_X86_64 {
        return Err(BootError::NotAKernel { path: image.path.to_owned() });
    }
    let entry = image.u64(ENTRY);
    let end = check_segments(image, low_end)?;
    if !(HIGH_MEMORY..end).contains(&entry) {
        return Err(BootError::NotAKernel { path: image.path.to_owned() });
    }
    Elf::load(memory, None, &mut image.file, Some(GuestAddress(HIGH_MEMORY)))
        .map_err(|source| BootError::Load { path: image.path.to_owned(), source })?;
    let header =
        setup_header { boot_flag: 0xaa55, header: u32::from_le_bytes(*b"HdrS"), ..Default::default() };
    Ok(Kernel { entry, end, header, initrd_max: INITRD_MAX, cmdline_max: CMDLINE_MAX })
}

/// Refuses segments that the file or the memory has no room for; says where the last one ends.
fn check_segments(image: &Image<'_>, low_end: u64) -> Result<u64> {
    let table = image.u64(PROGRAM_HEADERS);
    let count = u64::from(image.u16(PROGRAM_HEADER_COUNT));
    image.check_length(table.checked_add(count * PROGRAM_HEADER_SIZE))?;
    let mut end = 0;
    for index in 0..count {
        let mut words = [0; 7];
        for (number, word) in (0..).zip(&mut words) {
            let mut bytes = [0; 8];
            image.read_at(&mut bytes, table + index * PROGRAM_HEADER_SIZE + number * 8)?;
            *word = u64::from_le_bytes(bytes);
        }
        let [kind, offset, _virtual_address, address, file_size, memory_size, _align] = words;
        if kind & 0xffff_ffff != PT_LOAD {
            continue;
        }
        image.check_length(offset.checked_add(file_size))?;
        let segment_end = address.saturating_add(memory_size.max(file_size));
        if segment_end > low_end {
            return Err(BootError::DoesNotFit { what: "the kernel", need: segment_end, have: low_end });
        }
        if address < HIGH_MEMORY {
            return Err(BootError::NotAKernel { path: image.path.to_owned() });
        }
        end = end.max(segment_end);
    }
    Ok(end)
}
