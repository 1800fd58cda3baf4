//! Guest program whose threads are made to call the kernel for somebody else: it must not notice.
//!
//! `insight-target DIR [CALLS [STORM]]` makes CALLS marked system calls, `getpriority`, and looks each time whether its
//! registers, and the memory below the red zone of its stack, are as they were. With STORM, an alarm goes off every so
//! many microseconds, and its handler makes calls, too. It says what it knows of itself, as the kernel tells it.

use std::arch::global_asm;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::sync::atomic::{AtomicU64, Ordering};

// checked_syscall(number, argument, &mut differences) -> result
//
// Fills 6 KiB below the red zone and every register that a system call must keep, and counts what differs behind it.
global_asm!(
    ".globl checked_syscall",
    "checked_syscall:",
    "push rbx; push rbp; push r12; push r13; push r14; push r15; push rdx",
    "mov rax, rdi",
    "mov rdi, rsi",
    "mov rcx, 768",
    "mov r9, 0x5a5a5a5a",
    "lea r8, [rsp - 128 - 6144]",
    "2: mov [r8 + rcx * 8 - 8], r9; dec rcx; jnz 2b",
    "mov rsi, 0x101; mov rdx, 0x102; mov r10, 0x103; mov r8, 0x104; mov r9, 0x105; mov rbx, 0x106",
    "mov rbp, 0x107; mov r12, 0x108; mov r13, 0x109; mov r14, 0x10a; mov r15, 0x10b",
    "push rdi",
    "syscall",
    "xor r11d, r11d",
    "pop rcx; cmp rcx, rdi; setne cl; movzx ecx, cl; add r11, rcx",
    "cmp rsi, 0x101; setne cl; movzx ecx, cl; add r11, rcx",
    "cmp rdx, 0x102; setne cl; movzx ecx, cl; add r11, rcx",
    "cmp r10, 0x103; setne cl; movzx ecx, cl; add r11, rcx",
    "cmp r8, 0x104; setne cl; movzx ecx, cl; add r11, rcx",
    "cmp r9, 0x105; setne cl; movzx ecx, cl; add r11, rcx",
    "cmp rbx, 0x106; setne cl; movzx ecx, cl; add r11, rcx",
    "cmp rbp, 0x107; setne cl; movzx ecx, cl; add r11, rcx",
    "cmp r12, 0x108; setne cl; movzx ecx, cl; add r11, rcx",
    "cmp r13, 0x109; setne cl; movzx ecx, cl; add r11, rcx",
    "cmp r14, 0x10a; setne cl; movzx ecx, cl; add r11, rcx",
    "cmp r15, 0x10b; setne cl; movzx ecx, cl; add r11, rcx",
    "mov rcx, 767",
    "lea r8, [rsp - 128 - 6144]",
    "mov r9, 0x5a5a5a5a",
    "3: xor r10d, r10d; cmp [r8 + rcx * 8 - 8], r9; setne r10b; add r11, r10; dec rcx; jnz 3b",
    "pop rdx",
    "mov [rdx], r11",
    "pop r15; pop r14; pop r13; pop r12; pop rbp; pop rbx",
    "ret",
);

unsafe extern "C" {
    fn checked_syscall(number: i64, argument: u64, differences: *mut u64) -> i64;
}

/// Which calls are marked: nothing else here makes them.
const MARKED: i64 = libc::SYS_getpriority;
static ALARMS: AtomicU64 = AtomicU64::new(0);

extern "C" fn on_alarm(_signal: libc::c_int) {
    ALARMS.fetch_add(1, Ordering::SeqCst);
    // SAFETY: getppid touches no memory and is allowed in handlers.
    unsafe { libc::syscall(libc::SYS_getppid) };
}

/// An alarm every `interval` microseconds.
fn storm(interval: i64) -> io::Result<()> {
    // SAFETY: all-zero is a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(libc::c_int) = on_alarm;
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_ONSTACK;
    let every = libc::timeval { tv_sec: 0, tv_usec: interval };
    let timer = libc::itimerval { it_interval: every, it_value: every };
    // SAFETY: the action is complete and lives for the call; an alternate stack keeps the frames away from the memory
    // that is compared.
    let installed = unsafe { libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()) };
    if installed != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the timer lives for the call.
    let started = unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) };
    if started == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Frames of handlers go elsewhere than below the stack, where memory is compared.
fn alternate_stack() -> io::Result<()> {
    let memory = Box::leak(vec![0u8; 64 << 10].into_boxed_slice());
    let stack = libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: memory.len() };
    // SAFETY: the memory is never given back.
    let set = unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn say(file: &File, offset: u64) -> io::Result<()> {
    let metadata = file.metadata()?;
    // SAFETY: gettid has no preconditions.
    let tid = unsafe { libc::gettid() };
    // SAFETY: the descriptor is open, and the command takes no argument.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    println!("PID={}\nTID={tid}\nFLAGS={flags}\nOFFSET={offset}", std::process::id());
    println!("CWD={}", std::env::current_dir()?.display());
    println!("EXE={}", std::fs::read_link("/proc/self/exe")?.display());
    println!("LINK={}", std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?.display());
    println!("STAT={} {} {} {}", metadata.dev(), metadata.ino(), metadata.mode(), metadata.size());
    Ok(())
}

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let usage = || io::Error::other("usage: insight-target DIR [CALLS [STORM]]");
    let number = |at: usize, default: i64| match args.get(at) {
        None => Ok(default),
        Some(text) => text.parse::<i64>().map_err(io::Error::other),
    };
    let (calls, interval) = (number(1, 1)?, number(2, 0)?);
    std::env::set_current_dir(args.first().ok_or_else(usage)?)?;
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(libc::O_NOATIME)
        .open("target.txt")?;
    file.write_all(b"what an insight-call may read\n")?;
    let offset = file.seek(SeekFrom::Start(5))?;
    say(&file, offset)?;
    if interval > 0 {
        alternate_stack()?;
        storm(interval)?;
    }
    let mut wrong = 0;
    for _ in 0..calls {
        let mut differences = 0;
        let fd = u64::try_from(file.as_raw_fd()).map_err(io::Error::other)?;
        // SAFETY: the function keeps to the C calling convention and to the stack below its own frame; what is marked
        // reads no memory. Its argument, a descriptor, means a process that is not there: an error is its answer.
        let result = unsafe { checked_syscall(MARKED, fd, &raw mut differences) };
        // which = fd is no kind of target at all.
        if differences > 0 || result != -i64::from(libc::EINVAL) {
            wrong += 1;
            println!("differences {differences}, result {result}");
        }
    }
    // SAFETY: no more alarms; the arguments are valid.
    unsafe { libc::alarm(0) };
    println!("INSIGHT_CALLS={calls}\nINSIGHT_WRONG={wrong}\nALARMS={}", ALARMS.load(Ordering::SeqCst));
    Ok(())
}
