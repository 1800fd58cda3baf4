//! KVM's own statistics of a vCPU, in their binary form (`KVM_GET_STATS_FD`).
//!
//! The file describes itself: a header, descriptors with names, and the values. Sizes and offsets in it are checked
//! before they are used, as if they came from a stranger.

use std::fs::File;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;

use kvm_bindings::KVMIO;
use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::ioctl;
use vmm_sys_util::ioctl_io_nr;

ioctl_io_nr!(KVM_GET_STATS_FD, KVMIO, 0xce);

/// Every stop of the guest, whoever handled it.
pub(super) const EXITS: &str = "exits";

/// Bytes of a descriptor without its name.
const DESCRIPTOR: u64 = 16;
/// A file with larger numbers is not one of statistics.
const SANE: u64 = 1 << 16;

/// The value named `name` of a vCPU, if the kernel has such statistics.
pub(super) fn of_vcpu(vcpu: &VcpuFd, name: &str) -> Option<u64> {
    // SAFETY: the request takes no argument and returns a new descriptor or an error.
    let descriptor = unsafe { ioctl(vcpu, KVM_GET_STATS_FD()) };
    if descriptor < 0 {
        return None;
    }
    // SAFETY: the descriptor was just made and belongs to nobody else.
    let file = unsafe { File::from_raw_fd(descriptor) };
    find(&file, name)
}

fn find(file: &impl FileExt, name: &str) -> Option<u64> {
    let header: [u8; 24] = bytes(file, 0)?;
    let field =
        |number: usize| u64::from(u32::from_le_bytes([0, 1, 2, 3].map(|byte| header[number * 4 + byte])));
    let (name_size, count, descriptors, data) = (field(1), field(2), field(4), field(5));
    if name_size > SANE || count > SANE {
        return None;
    }
    (0..count).find_map(|index| {
        let place = descriptors + index * (DESCRIPTOR + name_size);
        let descriptor: [u8; 16] = bytes(file, place)?;
        let mut found = vec![0; usize::try_from(name_size).ok()?];
        file.read_exact_at(&mut found, place + DESCRIPTOR).ok()?;
        let found = found.split(|byte| *byte == 0).next()?;
        let offset = u32::from_le_bytes([8, 9, 10, 11].map(|byte| descriptor[byte]));
        if found == name.as_bytes() {
            bytes(file, data + u64::from(offset)).map(u64::from_le_bytes)
        } else {
            None
        }
    })
}

fn bytes<const N: usize>(file: &impl FileExt, place: u64) -> Option<[u8; N]> {
    let mut buffer = [0; N];
    file.read_exact_at(&mut buffer, place).ok()?;
    Some(buffer)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A file of statistics with the given names and values.
    fn image(values: &[(&str, u64)]) -> Vec<u8> {
        const NAME: u32 = 48;
        let count = u32::try_from(values.len()).unwrap();
        let descriptors = 24 + NAME;
        let data = descriptors + count * (16 + NAME);
        let mut image = vec![];
        for field in [0, NAME, count, 24, descriptors, data] {
            image.extend(field.to_le_bytes());
        }
        image.resize(image.len() + NAME as usize, 0);
        for (index, (name, _)) in (0_u32..).zip(values) {
            image.extend([0; 8]);
            image.extend((index * 8).to_le_bytes());
            image.extend([0; 4]);
            let mut padded = name.as_bytes().to_vec();
            padded.resize(NAME as usize, 0);
            image.extend(padded);
        }
        values.iter().for_each(|(_, value)| image.extend(value.to_le_bytes()));
        image
    }

    fn look(image: &[u8], name: &str) -> Option<u64> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(image).unwrap();
        find(&file, name)
    }

    #[test]
    fn finds_by_name() {
        let image = image(&[("pf_taken", 7), ("exits", 123_456), ("exits_more", 9)]);
        assert_eq!(look(&image, "exits"), Some(123_456));
        assert_eq!(look(&image, "halt"), None);
    }

    #[test]
    fn damage_is_no_danger() {
        let image = image(&[("pf_taken", 7), ("exits", 5)]);
        for length in 0..image.len() {
            assert_eq!(look(&image[..length], "exits"), None);
        }
        for place in 0..24 {
            let mut damaged = image.clone();
            damaged[place] = 0xff;
            let _ = look(&damaged, "exits");
        }
    }
}
