//! The descriptors and page tables that the first vCPU starts with: the first 4 GiB, each address itself.

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{BootError, Result};
use crate::machine::layout;

/// Entries of one table, and the bytes of a table.
const ENTRIES: u64 = 512;
const TABLE: u64 = 4096;
const PRESENT_WRITABLE: u64 = 3;
const LARGE: u64 = 0x80;
const LARGE_PAGE: u64 = 2 << 20;
/// One page directory for each of four gigabytes.
const DIRECTORIES: u64 = 4;

/// Selectors that the boot protocol demands.
pub(crate) const CODE: u16 = 0x10;
/// As above.
pub(crate) const DATA: u16 = 0x18;
/// Bytes of the descriptor table.
pub(crate) const GDT_SIZE: u16 = 0x20;

pub(super) fn write(memory: &GuestMemoryMmap) -> Result<()> {
    let put = |address: u64, word: u64| {
        memory.write_obj(word, GuestAddress(address)).map_err(BootError::memory("the first page tables"))
    };
    put(layout::GDT + u64::from(CODE), 0x00af_9b00_0000_ffff)?;
    put(layout::GDT + u64::from(DATA), 0x00cf_9300_0000_ffff)?;

    let pointers = layout::PAGE_TABLES + TABLE;
    put(layout::PAGE_TABLES, pointers | PRESENT_WRITABLE)?;
    for directory in 0..DIRECTORIES {
        let table = pointers + (directory + 1) * TABLE;
        put(pointers + directory * 8, table | PRESENT_WRITABLE)?;
        for entry in 0..ENTRIES {
            let page = (directory * ENTRIES + entry) * LARGE_PAGE;
            put(table + entry * 8, page | LARGE | PRESENT_WRITABLE)?;
        }
    }
    Ok(())
}
