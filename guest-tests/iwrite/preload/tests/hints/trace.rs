//! The calls of a program with all their registers, by ptrace: strace does not show R8 and R9 of a `write`.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::ptr;

/// The start of a call that can carry a hint.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) number: i64,
    /// The file that its descriptor means.
    pub(crate) path: PathBuf,
    pub(crate) r8: u64,
    pub(crate) r9: u64,
}

/// The calls of interest: those that [`hint::number`] names.
pub(crate) const CALLS: [i64; 9] = [
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_fsync,
];

/// Runs a program of one thread to its end, which must be status 0, and gives the calls of interest that it entered.
pub(crate) fn trace(command: &mut Command) -> Vec<Entry> {
    let trace_me = || {
        let none = ptr::null_mut::<u8>();
        // SAFETY: this request takes no address.
        match unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, none, none) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and execve only a system call is made.
    unsafe { command.pre_exec(trace_me) };
    #[expect(clippy::zombie_processes, reason = "waited for below, with all its stops")]
    let child = command.spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let mut entries = Vec::new();
    let (mut entering, mut signal) = (true, 0);
    let mut first = true;
    loop {
        let mut status = 0;
        // SAFETY: the status is ours to write.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        if libc::WIFEXITED(status) {
            assert_eq!(libc::WEXITSTATUS(status), 0, "{command:?}");
            return entries;
        }
        assert!(libc::WIFSTOPPED(status), "{command:?} ended with {status:#x}");
        let stop = libc::WSTOPSIG(status);
        if first {
            // Behind execve. From now on stops at calls are told from signals.
            request(libc::PTRACE_SETOPTIONS, pid, libc::PTRACE_O_TRACESYSGOOD as usize);
            first = false;
        } else if stop == libc::SIGTRAP | 0x80 {
            if entering {
                entries.extend(entry(pid));
            }
            entering = !entering;
        } else {
            signal = stop;
        }
        request(libc::PTRACE_SYSCALL, pid, usize::try_from(signal).unwrap());
        signal = 0;
    }
}

fn request(request: libc::c_uint, pid: i32, data: usize) {
    // SAFETY: these requests take a number, no address.
    let result =
        unsafe { libc::ptrace(request, pid, ptr::null_mut::<u8>(), ptr::without_provenance_mut::<u8>(data)) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

fn entry(pid: i32) -> Option<Entry> {
    // SAFETY: all-zero is a valid user_regs_struct.
    let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one user_regs_struct.
    let result =
        unsafe { libc::ptrace(libc::PTRACE_GETREGS, pid, ptr::null_mut::<u8>(), &raw mut registers) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    let number = registers.orig_rax.cast_signed();
    let link = format!("/proc/{pid}/fd/{}", registers.rdi);
    CALLS.contains(&number).then(|| Entry {
        number,
        path: std::fs::read_link(link).unwrap_or_default(),
        r8: registers.r8,
        r9: registers.r9,
    })
}
