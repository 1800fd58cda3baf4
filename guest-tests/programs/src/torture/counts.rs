//! Calls that only this program's counted code makes, and how often it made them, over all its processes.
//!
//! Neither the standard library nor the C library uses any of them here, as `tests/torture.rs` makes sure. A call is counted before it is made, in
//! memory that all processes share, so the sum is exact at any point where nobody stands between the two.

use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use super::sys;

/// A counted call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Own {
    /// `getpid`.
    Getpid,
    /// `getppid`.
    Getppid,
    /// `getpgid`.
    Getpgid,
    /// `getpriority`.
    Getpriority,
    /// `umask`.
    Umask,
    /// `sysinfo`.
    Sysinfo,
    /// `personality`.
    Personality,
    /// `sched_yield`.
    SchedYield,
    /// `pause`: of these, some never return.
    Pause,
    /// `getsid`: only signal handlers make it, so its number differs from run to run.
    Getsid,
    /// `times`: only signal handlers make it.
    Times,
}

impl Own {
    /// All of them; a call's place here is its place in [`Shared`].
    pub const ALL: [Own; 11] = [
        Own::Getpid,
        Own::Getppid,
        Own::Getpgid,
        Own::Getpriority,
        Own::Umask,
        Own::Sysinfo,
        Own::Personality,
        Own::SchedYield,
        Own::Pause,
        Own::Getsid,
        Own::Times,
    ];

    /// Those that signal handlers make.
    pub const OF_HANDLERS: [Own; 2] = [Own::Getsid, Own::Times];

    /// The kernel's name of the call.
    pub fn name(self) -> &'static str {
        match self {
            Own::Getpid => "getpid",
            Own::Getppid => "getppid",
            Own::Getpgid => "getpgid",
            Own::Getpriority => "getpriority",
            Own::Umask => "umask",
            Own::Sysinfo => "sysinfo",
            Own::Personality => "personality",
            Own::SchedYield => "sched_yield",
            Own::Pause => "pause",
            Own::Getsid => "getsid",
            Own::Times => "times",
        }
    }

    /// The kernel's number of the call.
    pub fn number(self) -> i64 {
        match self {
            Own::Getpid => libc::SYS_getpid,
            Own::Getppid => libc::SYS_getppid,
            Own::Getpgid => libc::SYS_getpgid,
            Own::Getpriority => libc::SYS_getpriority,
            Own::Umask => libc::SYS_umask,
            Own::Sysinfo => libc::SYS_sysinfo,
            Own::Personality => libc::SYS_personality,
            Own::SchedYield => libc::SYS_sched_yield,
            Own::Pause => libc::SYS_pause,
            Own::Getsid => libc::SYS_getsid,
            Own::Times => libc::SYS_times,
        }
    }
}

/// The page that all processes share.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Shared {
    entered: [AtomicU64; Own::ALL.len()],
    /// Calls of `pause` that were still blocked when their thread was ended.
    pub unreturned: AtomicU64,
    /// Signals handled.
    pub signals: AtomicU64,
    /// Calls that a signal interrupted, as their callers saw it.
    pub interrupted: AtomicU64,
    /// Rounds that workers have completed, and processes that have ended: what shows that the storm is not too strong.
    pub progress: AtomicU64,
    /// Processes that were started.
    pub processes: AtomicU64,
    /// Bytes that were checked.
    pub bytes: AtomicU64,
    /// The session that all belong to.
    pub session: AtomicU32,
    /// A word that nobody ever changes, to wait on.
    pub never: AtomicU32,
}

const PAGE: usize = 4096;
const _: () = assert!(size_of::<Shared>() <= PAGE);

static SHARED: AtomicPtr<Shared> = AtomicPtr::new(std::ptr::null_mut());

impl Shared {
    /// A new page, and the descriptor by which programs that are executed find it.
    pub fn create() -> Result<(i32, &'static Shared), i64> {
        // SAFETY: the kernel reads the name, which ends with a zero.
        let fd = unsafe { sys::call(libc::SYS_memfd_create, [c"torture".as_ptr() as u64, 0, 0, 0, 0, 0]) };
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or(fd)?;
        match sys::ftruncate(fd, PAGE as u64) {
            0 => Ok((fd, Shared::attach(fd)?)),
            error => Err(error),
        }
    }

    /// The page behind a descriptor. It stays for the life of the process, and [`Shared::get`] finds it.
    pub fn attach(fd: i32) -> Result<&'static Shared, i64> {
        let place = sys::map(PAGE, libc::MAP_SHARED, fd)?.cast::<Shared>();
        SHARED.store(place, Ordering::SeqCst);
        // SAFETY: the page is mapped for good and holds atomics only, for which every value is valid.
        Ok(unsafe { &*place })
    }

    /// The page that was created or attached, if any: for signal handlers and bare threads.
    pub fn get() -> Option<&'static Shared> {
        // SAFETY: null, or mapped for good and holding atomics only.
        unsafe { SHARED.load(Ordering::SeqCst).as_ref() }
    }

    /// Makes a counted call that is given no address; `times` and `sysinfo` get null, which one allows and the
    /// other answers with `EFAULT`.
    pub fn call(&self, own: Own, args: [u64; 2]) -> i64 {
        let args = if matches!(own, Own::Times | Own::Sysinfo) { [0; 2] } else { args };
        self.count(own);
        // SAFETY: the calls take numbers, or null.
        unsafe { sys::call(own.number(), [args[0], args[1], 0, 0, 0, 0]) }
    }

    /// Makes a counted call that takes nothing at all, and checks that it changes no register.
    pub fn call_with_registers(&self, own: Own) -> Result<i64, &'static str> {
        debug_assert!(matches!(own, Own::Getpid | Own::Getppid | Own::SchedYield));
        self.count(own);
        super::registers::call(own.number())
    }

    /// `sysinfo`: the bytes of memory, which stay the same.
    pub fn sysinfo(&self) -> (i64, u64) {
        // SAFETY: all-zero is a valid sysinfo.
        let mut info: libc::sysinfo = unsafe { std::mem::zeroed() };
        self.count(Own::Sysinfo);
        let args = [(&raw mut info).addr() as u64, 0, 0, 0, 0, 0];
        // SAFETY: the kernel writes one sysinfo.
        let result = unsafe { sys::call(libc::SYS_sysinfo, args) };
        (result, info.totalram)
    }

    /// Counts a call that is made elsewhere, before it is made.
    pub fn count(&self, own: Own) {
        self.entered[own as usize].fetch_add(1, Ordering::SeqCst);
    }

    /// How often a call was made.
    pub fn entered(&self, own: Own) -> u64 {
        self.entered[own as usize].load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_has_its_place() {
        for (place, own) in Own::ALL.into_iter().enumerate() {
            assert_eq!(own as usize, place);
        }
    }

    #[test]
    fn calls_are_counted_and_made() {
        let shared = Shared::default();
        assert_eq!(shared.call(Own::Getpid, [0; 2]), i64::from(std::process::id()));
        assert_eq!(shared.call(Own::Getpriority, [99, 0]), -i64::from(libc::EINVAL));
        assert_eq!(shared.call(Own::Sysinfo, [1, 1]), -i64::from(libc::EFAULT));
        assert_eq!(shared.sysinfo().0, 0);
        let counts = Own::ALL.map(|own| shared.entered(own));
        assert_eq!(counts, [1, 0, 0, 1, 0, 2, 0, 0, 0, 0, 0]);
    }
}
