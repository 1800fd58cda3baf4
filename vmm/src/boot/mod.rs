//! Getting Linux into memory: kernel, initial RAM disk, command line, boot parameters, first page tables.
//!
//! The kernel is entered in 64-bit mode, as the x86 boot protocol of Linux describes it; no firmware runs.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::config::VmConfig;
use crate::machine::layout;

mod bzimage;
mod elf;
mod error;
mod initrd;
mod kernel;
mod params;
mod tables;

pub use error::{BootError, Result};
pub(crate) use tables::{CODE, DATA, GDT_SIZE};

/// Loads everything that the first vCPU needs, and says where it starts.
///
/// # Errors
/// A file cannot be read, is not what it should be, or does not fit.
pub fn load(memory: &GuestMemoryMmap, config: &VmConfig) -> Result<u64> {
    let low_end = config.memory.min(layout::LOW_END);
    let kernel = kernel::load(memory, &config.kernel, low_end)?;
    let initrd = match &config.initrd {
        Some(path) => Some(initrd::load(memory, path, &kernel, low_end)?),
        None => None,
    };
    write_cmdline(memory, &config.cmdline, kernel.cmdline_max)?;
    params::write(memory, &kernel, initrd, &config.cmdline, config.memory)?;
    tables::write(memory)?;
    Ok(kernel.entry)
}

/// Opens a regular file and says how long it is. Anything else, a FIFO for example, could make opening wait for ever.
fn open(path: &Path) -> io::Result<(File, u64)> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    Ok((file, length))
}

fn write_cmdline(memory: &GuestMemoryMmap, cmdline: &str, most: u64) -> Result<()> {
    let most = most.min(layout::CMDLINE_SPACE - 1);
    if cmdline.len() as u64 > most {
        return Err(BootError::CmdlineTooLong { length: cmdline.len(), most });
    }
    let mut bytes = cmdline.as_bytes().to_vec();
    bytes.push(0);
    memory.write_slice(&bytes, GuestAddress(layout::CMDLINE)).map_err(BootError::memory("the command line"))
}
