//! Starting processes and threads by the bare instruction.

use std::arch::asm;
use std::ptr;
use std::sync::atomic::AtomicU32;

use super::{EINTR, address, call, map, word};

/// `fork(2)`: as by the C library, but without its preparations, so the child must keep to this module.
pub fn fork() -> i64 {
    // SAFETY: no address is given; the child runs on its own copy of this stack.
    unsafe { call(libc::SYS_fork, [0; 6]) }
}

/// A process by `clone3(2)` that shares nothing, like [`fork`].
pub fn clone3() -> i64 {
    // SAFETY: all-zero is a valid clone_args: nothing is shared, and no address is given.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.exit_signal = word(libc::SIGCHLD);
    let length = size_of::<libc::clone_args>() as u64;
    // SAFETY: the kernel reads the arguments; the child runs on its own copy of this stack.
    unsafe { call(libc::SYS_clone3, [address(&raw const args), length, 0, 0, 0, 0]) }
}

/// What `execve(2)` is given. The arrays end with null.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    /// The path, ending with a zero.
    pub path: *const libc::c_char,
    /// The arguments.
    pub args: *const *const libc::c_char,
}

/// `execve(2)` with an empty environment; returns only if it failed.
///
/// # Safety
/// The pointers must be valid.
pub unsafe fn exec(image: Image) -> i64 {
    let none: [*const libc::c_char; 1] = [ptr::null()];
    let args = [address(image.path), address(image.args), address(none.as_ptr()), 0, 0, 0];
    // SAFETY: the caller vouches for the strings, and the kernel only reads them.
    unsafe { call(libc::SYS_execve, args) }
}

/// `vfork(2)`, and in the child one `getppid` and `execve`, all in one piece: the child borrows the stack that the
/// parent goes on with, so it must not leave this block of instructions. If `execve` fails the child exits with 127.
///
/// # Safety
/// As for [`exec`].
pub unsafe fn vfork_exec(image: Image) -> i64 {
    let none: [*const libc::c_char; 1] = [ptr::null()];
    let child;
    // SAFETY: the caller vouches for the strings. The child changes registers only, which are its own.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "mov eax, {getppid}",
            "syscall",
            "mov eax, {execve}",
            "syscall",
            "mov edi, 127",
            "mov eax, {exit}",
            "syscall",
            "ud2",
            "2:",
            getppid = const libc::SYS_getppid,
            execve = const libc::SYS_execve,
            exit = const libc::SYS_exit_group,
            inlateout("rax") libc::SYS_vfork => child,
            in("rdi") image.path,
            in("rsi") image.args,
            in("rdx") none.as_ptr(),
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    child
}

/// A thread that the C library knows nothing of. `ended` is made 0 by the kernel when it has gone, and woken.
///
/// # Safety
/// `entry` must keep to this module, and what `arg` points at must live as long as the thread. So must `ended`.
pub unsafe fn thread(entry: extern "C" fn(u64) -> !, arg: u64, ended: &AtomicU32) -> i64 {
    const STACK: usize = 64 << 10;
    let flags = libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM
        | libc::CLONE_CHILD_CLEARTID;
    let Ok(stack) = map(STACK, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1) else { return EINTR };
    // SAFETY: the two words lie within the mapping, at its end.
    let top = unsafe { stack.add(STACK - 16) }.cast::<[u64; 2]>();
    // SAFETY: the mapping is new, ours and aligned.
    unsafe { top.write([arg, address(entry as *const ())]) };
    let thread;
    // SAFETY: the new thread runs on a stack of its own and leaves this block only into `entry`, which never returns.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "pop rdi",
            "pop rax",
            "call rax",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone => thread,
            in("rdi") word(flags),
            in("rsi") top,
            in("rdx") 0,
            in("r10") ended.as_ptr(),
            in("r8") 0,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    thread
}
