//! What the program does when it executes itself: it checks that it is who it should be, and goes on.

use std::ffi::CString;
use std::ptr;

use super::counts::Shared;
use super::sys::{self, Image};
use super::worker::Constants;
use super::{expect, fail};

/// The first argument of a program that executed itself.
pub const CHILD: &str = "@child";
/// The exit status of one in which everything was right.
pub(crate) const DONE: i32 = 43;
/// Links to the running program.
const SELF: &std::ffi::CStr = c"/proc/self/exe";

/// Arguments for the program to execute itself: made before a fork, used behind it.
#[derive(Debug)]
pub(crate) struct Again {
    _strings: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl Again {
    /// `fd` is the shared page, `parent` and `pid` who it will be (0 if that is not known yet), `more` how often it is
    /// to execute itself once more.
    pub(crate) fn new(fd: i32, parent: i64, pid: i64, more: u64) -> Again {
        let numbers = [fd.into(), parent, pid, more.cast_signed()].map(|number: i64| number.to_string());
        let words = ["torture", CHILD].into_iter().chain(numbers.iter().map(String::as_str));
        // Numbers hold no zero bytes, so none is left out.
        let strings: Vec<CString> = words.filter_map(|word| CString::new(word).ok()).collect();
        let pointers = strings.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect();
        Again { _strings: strings, pointers }
    }

    /// What to execute. Valid as long as this is.
    pub(crate) fn image(&self) -> Image {
        Image { path: SELF.as_ptr(), args: self.pointers.as_ptr() }
    }

    /// Executes it in place of this process.
    pub(crate) fn exec(&self) -> ! {
        // SAFETY: the strings end with zeros, the array with null, and both live in `self`.
        let error = unsafe { sys::exec(self.image()) };
        fail("execve", error)
    }

    /// Starts it by the C library.
    pub(crate) fn spawn(&self) -> i64 {
        let mut pid = 0;
        let none: [*mut libc::c_char; 1] = [ptr::null_mut()];
        let args = self.pointers.as_ptr().cast();
        // SAFETY: the strings end with zeros, the arrays with null, and no actions or attributes are given.
        let error = unsafe {
            libc::posix_spawn(&raw mut pid, SELF.as_ptr(), ptr::null(), ptr::null(), args, none.as_ptr())
        };
        if error == 0 { pid.into() } else { -i64::from(error) }
    }
}

/// The program with arguments `@child FD PARENT PID MORE`.
pub fn child(args: &[String]) -> ! {
    let numbers: Vec<i64> = args.iter().filter_map(|arg| arg.parse().ok()).collect();
    let [fd, parent, pid, more] = numbers[..] else { fail("arguments of a child", sys::length(args.len())) };
    let shared = match Shared::attach(sys::int(fd)) {
        Ok(shared) => shared,
        Err(error) => fail("mmap of the shared page", error),
    };
    let constants = Constants::ask(shared);
    expect("getppid behind execve", constants.parent(), parent);
    expect("gettid behind execve", sys::gettid(), constants.pid);
    if pid != 0 {
        expect("getpid behind execve", constants.pid, pid);
    }
    constants.check(shared);
    match u64::try_from(more) {
        Ok(0) => sys::exit_group(DONE),
        Ok(more) => Again::new(sys::int(fd), parent, constants.pid, more - 1).exec(),
        Err(_) => fail("arguments of a child", more),
    }
}
