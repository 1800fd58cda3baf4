//! Guest program: executes an undefined instruction, many times, and expects the signal that Linux sends for it.
//!
//! A VMM that watches for undefined instructions must give these back to the guest unharmed.

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

const TIMES: u64 = 100;
const UD2_LENGTH: i64 = 2;
/// `ILL_ILLOPN`: what Linux reports for an undefined instruction.
const ILL_ILLOPN: i32 = 2;

static SIGNALS: AtomicU64 = AtomicU64::new(0);
static CODE: AtomicI32 = AtomicI32::new(0);
static ADDRESS: AtomicU64 = AtomicU64::new(0);

/// Notes what came and steps over the instruction.
extern "C" fn on_signal(_signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    SIGNALS.fetch_add(1, Ordering::SeqCst);
    // SAFETY: the kernel passes a valid siginfo_t to a handler installed with SA_SIGINFO.
    let info = unsafe { &*info };
    CODE.store(info.si_code, Ordering::SeqCst);
    // SAFETY: SIGILL is one of the signals whose siginfo_t holds an address.
    let address = unsafe { info.si_addr() };
    ADDRESS.store(address as u64, Ordering::SeqCst);
    // SAFETY: the kernel passes a valid ucontext_t, and nothing else refers to it.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    context.uc_mcontext.gregs[libc::REG_RIP as usize] += UD2_LENGTH;
}

/// Executes the instruction and returns its address.
fn undefined() -> u64 {
    let address: u64;
    // SAFETY: the handler steps over the instruction and leaves all registers as they are.
    unsafe { std::arch::asm!("lea {0}, [rip + 2f]", "2: ud2", out(reg) address) };
    address
}

fn main() -> io::Result<()> {
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_signal;
    // SAFETY: all-zero is a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_flags = libc::SA_SIGINFO;
    action.sa_sigaction = handler as libc::sighandler_t;
    // SAFETY: the action is complete and lives for the call; the handler has the signature that SA_SIGINFO asks for.
    if unsafe { libc::sigaction(libc::SIGILL, &raw const action, ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    for time in 1..=TIMES {
        let address = undefined();
        let got =
            (SIGNALS.load(Ordering::SeqCst), CODE.load(Ordering::SeqCst), ADDRESS.load(Ordering::SeqCst));
        if got != (time, ILL_ILLOPN, address) {
            return Err(io::Error::other(format!("expected {:?}, got {got:?}", (time, ILL_ILLOPN, address))));
        }
    }
    println!("UD2=ok");
    Ok(())
}
