//! Putting the user's terminal into raw mode, and back, whatever happens in between.

use std::io;
use std::mem::MaybeUninit;
use std::panic;
use std::sync::{Mutex, Once, PoisonError};

/// How the terminal was before, while it is raw. Static, because a panic hook must find it.
static BEFORE: Mutex<Option<libc::termios>> = Mutex::new(None);

/// Whether standard input is a terminal that belongs to other processes now.
#[must_use]
pub fn is_background() -> bool {
    // SAFETY: tcgetpgrp only looks at a descriptor; it fails if that is no terminal of this session.
    let owner = unsafe { libc::tcgetpgrp(libc::STDIN_FILENO) };
    // SAFETY: getpgrp has no preconditions.
    owner > 0 && owner != unsafe { libc::getpgrp() }
}

/// The terminal on standard input is raw while this lives.
#[derive(Debug)]
pub struct RawMode(());

impl RawMode {
    /// Makes the terminal raw: every key goes to the guest, Ctrl-C too. `None` if standard input is no terminal, or
    /// one that belongs to other processes now.
    ///
    /// # Errors
    /// The terminal refuses.
    pub fn enter() -> io::Result<Option<Self>> {
        static HOOK: Once = Once::new();
        if is_background() {
            return Ok(None);
        }
        let mut before = MaybeUninit::<libc::termios>::uninit();
        // SAFETY: tcgetattr fills the struct that it is given.
        if unsafe { libc::tcgetattr(libc::STDIN_FILENO, before.as_mut_ptr()) } != 0 {
            return Ok(None);
        }
        // SAFETY: the call succeeded.
        let before = unsafe { before.assume_init() };
        let mut raw = before;
        // SAFETY: the struct was filled by tcgetattr.
        unsafe { libc::cfmakeraw(&raw mut raw) };
        // Lines of the VMM's own messages still end with a carriage return.
        raw.c_oflag = before.c_oflag;
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        HOOK.call_once(|| {
            let next = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                restore();
                next(info);
            }));
        });
        // SAFETY: the struct is valid, and the descriptor is checked by the call.
        if unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &raw const raw) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Some(Self(())))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    if let Some(before) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // SAFETY: the struct was filled by tcgetattr.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &raw const before) };
    }
}
