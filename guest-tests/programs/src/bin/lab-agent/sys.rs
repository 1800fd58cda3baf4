//! The system calls that the standard library has no name for.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

/// Mounts a file system; the target directory is made if it does not exist.
pub(crate) fn mount(
    source: &str,
    target: &str,
    kind: &str,
    flags: libc::c_ulong,
    data: &str,
) -> io::Result<()> {
    // A directory that cannot be made is either there already or makes the mount fail, which says why.
    let _ = std::fs::create_dir_all(target);
    let [source, target, kind, data] = [source, target, kind, data].map(CString::new);
    let (source, target, kind, data) = (source?, target?, kind?, data?);
    // SAFETY: all five are valid for the call; the strings end with a zero.
    let result = unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            flags,
            data.as_ptr().cast::<libc::c_void>(),
        )
    };
    done(result.into())
}

/// Loads a kernel module. One that is loaded already is fine.
pub(crate) fn load_module(file: &File) -> io::Result<()> {
    let no_parameters: &CStr = c"";
    // SAFETY: the descriptor is open and the parameter string ends with a zero.
    let result =
        unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), no_parameters.as_ptr(), 0) };
    match done(result) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        result => result,
    }
}

/// Keeps this process, and all that it will start, off the first processor if there are others.
pub(crate) fn leave_first_processor() -> io::Result<()> {
    // SAFETY: a set of processors is plain memory, for which zeros are the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is as large as is said.
    done(unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) }.into())?;
    // SAFETY: the set is valid.
    if unsafe { libc::CPU_COUNT(&set) } > 1 {
        // SAFETY: every set has room for the first processor.
        unsafe { libc::CPU_CLR(0, &mut set) };
    }
    // SAFETY: as above.
    done(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) }.into())
}

/// Switches the machine off; returns only if that failed.
pub(crate) fn power_off() {
    // SAFETY: sync has no preconditions.
    unsafe { libc::sync() };
    // SAFETY: the command takes no pointer.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
}

/// Waits for one of the descriptors; false when the time passed first.
pub(crate) fn poll(fds: &mut [libc::pollfd], timeout: Duration) -> io::Result<bool> {
    let count = libc::nfds_t::try_from(fds.len()).map_err(io::Error::other)?;
    let timeout = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the pointer and count describe a slice that is borrowed mutably for the call.
    let result = unsafe { libc::poll(fds.as_mut_ptr(), count, timeout) };
    if result < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::Interrupted { Ok(false) } else { Err(error) };
    }
    Ok(result > 0)
}

/// An entry for `poll`; no descriptor makes one that never fires.
pub(crate) fn interest(fd: Option<RawFd>, events: libc::c_short) -> libc::pollfd {
    libc::pollfd { fd: fd.unwrap_or(-1), events, revents: 0 }
}

/// A descriptor that becomes readable when the process ends.
pub(crate) fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    done(fd)?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just returned this descriptor to us and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes reads and writes return instead of waiting.
pub(crate) fn set_nonblocking(fd: RawFd) -> io::Result<()> {
    // SAFETY: F_GETFL takes no third argument; a descriptor that is not open is an error, not a fault.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    done(flags.into())?;
    // SAFETY: F_SETFL takes an integer.
    done(unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) }.into())
}

/// For a new process: its own session, and the given root and directory. Touches no memory but its arguments.
pub(crate) fn enter(root: &CStr, directory: &CStr) -> io::Result<()> {
    // SAFETY: setsid has no preconditions.
    done(unsafe { libc::setsid() }.into())?;
    // SAFETY: the path ends with a zero.
    done(unsafe { libc::chroot(root.as_ptr()) }.into())?;
    // SAFETY: the path ends with a zero.
    done(unsafe { libc::chdir(directory.as_ptr()) }.into())
}

/// Waits for any child, as process 1 must; gives its number.
pub(crate) fn wait_for_any_child() -> io::Result<u32> {
    // SAFETY: a null status pointer is allowed.
    let pid = unsafe { libc::waitpid(-1, ptr::null_mut(), 0) };
    done(pid.into())?;
    u32::try_from(pid).map_err(io::Error::other)
}

/// Brings the loopback interface up.
pub(crate) fn loopback_up() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: 0 },
    };
    for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or(0);
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which the reference points to.
    done(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }.into())
}

/// Arms the machine's watchdog for that many seconds.
pub(crate) fn set_watchdog(device: &File, seconds: libc::c_int) -> io::Result<()> {
    /// `_IOWR('W', 6, int)`, which the libc crate does not name.
    const WDIOC_SETTIMEOUT: libc::c_ulong = 0xc004_5706;
    let mut seconds = seconds;
    // SAFETY: the call reads and writes one int, which the pointer leads to.
    done(unsafe { libc::ioctl(device.as_raw_fd(), WDIOC_SETTIMEOUT, &raw mut seconds) }.into())
}

fn done(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
