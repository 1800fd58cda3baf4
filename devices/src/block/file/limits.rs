//! What the kernel says of a file: how requests must be aligned, and what its medium writes atomically.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, StatxFlags};

/// File systems write whole blocks of this size, whatever the disk below can do.
const USUAL_BLOCK: u32 = 4096;

/// Every disk writes one sector entirely or not at all.
const SECTOR: u32 = 512;

/// How direct requests must be aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Alignment {
    /// Of offsets and lengths, in bytes.
    pub(super) offset: u32,
    /// Of memory, in bytes.
    pub(super) memory: u32,
}

/// How requests past the page cache must be aligned, or nothing where the file cannot be used so.
///
/// # Errors
/// The kernel does not say, of a block device.
pub(super) fn direct_alignment(file: &File, regular: bool) -> io::Result<Option<Alignment>> {
    if !regular {
        let block = rustix::fs::ioctl_blksszget(file)?.max(SECTOR);
        return Ok(Some(Alignment { offset: block, memory: block }));
    }
    // Older kernels leave the bit out of their answer.
    let wanted = StatxFlags::from_bits_retain(libc::STATX_DIOALIGN);
    let usual = Alignment { offset: USUAL_BLOCK, memory: USUAL_BLOCK };
    let Ok(answer) = rustix::fs::statx(file.as_fd(), "", AtFlags::EMPTY_PATH, wanted) else {
        return Ok(Some(usual));
    };
    Ok(match (answer.stx_dio_offset_align, answer.stx_dio_mem_align) {
        _ if answer.stx_mask & libc::STATX_DIOALIGN == 0 => Some(usual),
        (0, _) | (_, 0) => None,
        (offset, memory) if offset.is_power_of_two() && memory.is_power_of_two() => {
            Some(Alignment { offset, memory })
        }
        _ => Some(usual),
    })
}

/// Bytes that the medium of `file` writes entirely or not at all when the power fails.
///
/// That is the physical block of the disk, but no more than a block of the file system, which may put two of them at
/// places that have nothing to do with each other; one sector where the disk's blocks are not where its partition
/// thinks; and the usual block where nobody knows the disk.
pub(super) fn atomic_write(file: &File, regular: bool) -> u32 {
    let size = if regular {
        let Ok(stat) = rustix::fs::fstat(file) else { return SECTOR };
        let block = rustix::fs::fstatvfs(file).ok().and_then(|fs| u32::try_from(fs.f_frsize).ok());
        let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
        physical_block(major, minor).unwrap_or(USUAL_BLOCK).min(block.unwrap_or(USUAL_BLOCK))
    } else {
        let device = rustix::fs::fstat(file).map(|stat| stat.st_rdev);
        let misplaced =
            device.is_ok_and(|device| is_misplaced(rustix::fs::major(device), rustix::fs::minor(device)));
        if misplaced { SECTOR } else { rustix::fs::ioctl_blkpbszget(file).unwrap_or(SECTOR) }
    };
    if size.is_power_of_two() { size.max(SECTOR) } else { SECTOR }
}

/// Bytes of a physical block of a disk, or of the disk that a partition is on.
fn physical_block(major: u32, minor: u32) -> Option<u32> {
    if is_misplaced(major, minor) {
        return Some(SECTOR);
    }
    let disk = format!("/sys/dev/block/{major}:{minor}");
    number(&format!("{disk}/queue/physical_block_size"))
        .or_else(|| number(&format!("{disk}/../queue/physical_block_size")))
}

/// The device does not begin at a physical block of its disk.
fn is_misplaced(major: u32, minor: u32) -> bool {
    // Some drivers say -1 for "bad", which is no number here and means the same.
    let path = format!("/sys/dev/block/{major}:{minor}/alignment_offset");
    std::fs::read_to_string(path).is_ok_and(|text| text.trim() != "0")
}

fn number(path: &str) -> Option<u32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_disks_are_not_guessed_at() {
        // Major number 0 is for file systems without a disk.
        assert_eq!(physical_block(0, 12345), None);
        assert!(!is_misplaced(0, 12345));
    }

    #[test]
    fn a_file_has_a_power_of_two_of_at_least_a_sector() {
        let file = tempfile::tempfile().unwrap();
        let size = atomic_write(&file, true);
        assert!(size.is_power_of_two() && (512..=65536).contains(&size), "{size}");
        if let Some(alignment) = direct_alignment(&file, true).unwrap() {
            assert!(
                alignment.offset.is_power_of_two() && alignment.memory.is_power_of_two(),
                "{alignment:?}"
            );
        }
    }
}
