//! What the host has.

use std::mem::MaybeUninit;

/// Memory and swap of the host in bytes, whole megabytes, if the host says.
pub(super) fn memory() -> Option<u64> {
    let mut info = MaybeUninit::<libc::sysinfo>::uninit();
    // SAFETY: sysinfo fills the struct that it is given.
    let result = unsafe { libc::sysinfo(info.as_mut_ptr()) };
    if result != 0 {
        return None;
    }
    // SAFETY: the call succeeded.
    let info = unsafe { info.assume_init() };
    let bytes = info.totalram.checked_add(info.totalswap)?.checked_mul(u64::from(info.mem_unit))?;
    Some(bytes >> 20 << 20)
}
