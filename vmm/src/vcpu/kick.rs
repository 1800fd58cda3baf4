//! Getting a vCPU thread out of `KVM_RUN`, without a race and without a pointer that can dangle.
//!
//! Two things together do it: the `immediate_exit` byte of the vCPU's `kvm_run` page, for a thread that is just about
//! to enter `KVM_RUN`, and a signal, for one that is inside. The page is mapped a second time here, so that whoever
//! kicks never touches memory that the vCPU's owner may unmap.

use std::io;
use std::mem::offset_of;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

const PAGE: usize = 4096;

/// The handler has nothing to do: that the signal arrives is what ends `KVM_RUN`.
extern "C" fn arrived(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// Prepares the process for kicks. Without it the signal would end the process.
///
/// # Errors
/// The signal handler could not be installed.
pub fn install() -> io::Result<()> {
    register_signal_handler(SIGRTMIN(), arrived).map_err(|error| io::Error::from_raw_os_error(error.errno()))
}

/// A second mapping of the first page of a vCPU's `kvm_run`.
#[derive(Debug)]
struct RunPage(NonNull<libc::c_void>);

// SAFETY: the mapping belongs to the process, not to a thread, and is only accessed through an atomic.
unsafe impl Send for RunPage {}
// SAFETY: as above.
unsafe impl Sync for RunPage {}

impl RunPage {
    fn new(vcpu: &VcpuFd) -> io::Result<Self> {
        // SAFETY: a fresh mapping at an address of the kernel's choice; the file is a vCPU, whose first page is kvm_run.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                vcpu.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(address).map(Self).ok_or_else(|| io::Error::other("the vCPU was mapped at address 0"))
    }

    fn immediate_exit(&self) -> &AtomicU8 {
        // SAFETY: the field lies inside the page.
        let field = unsafe { self.0.cast::<u8>().add(offset_of!(kvm_run, immediate_exit)) };
        // SAFETY: the mapping lives as long as `self`, and a byte is always aligned.
        unsafe { AtomicU8::from_ptr(field.as_ptr()) }
    }
}

impl Drop for RunPage {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` and nobody can hold a reference into it any more.
        unsafe { libc::munmap(self.0.as_ptr(), PAGE) };
    }
}

/// Gets one vCPU thread out of `KVM_RUN`. May be kept longer than the vCPU and its thread.
#[derive(Debug)]
pub struct Kicker {
    page: RunPage,
    thread: AtomicI32,
}

impl Kicker {
    /// A kicker for `vcpu`, whose thread has yet to [`enter`](Self::enter).
    ///
    /// # Errors
    /// The vCPU could not be mapped.
    pub fn new(vcpu: &VcpuFd) -> io::Result<Self> {
        Ok(Self { page: RunPage::new(vcpu)?, thread: AtomicI32::new(0) })
    }

    /// Says that the calling thread is the one that runs the vCPU.
    pub fn enter(&self) {
        // SAFETY: gettid has no preconditions.
        let thread = unsafe { libc::gettid() };
        self.thread.store(thread, Ordering::Release);
    }

    /// Makes the current `KVM_RUN`, or the next one, return with `EINTR`.
    ///
    /// Set whatever flag the vCPU thread shall see *before* this; the thread must call
    /// [`acknowledge`](Self::acknowledge) before it looks at flags.
    pub fn kick(&self) {
        self.page.immediate_exit().store(1, Ordering::Release);
        let thread = self.thread.load(Ordering::Acquire);
        if thread != 0 {
            let process = std::process::id();
            // SAFETY: a signal to a thread of this process that has a handler; a thread that is gone is only an error.
            unsafe { libc::syscall(libc::SYS_tgkill, process, thread, SIGRTMIN()) };
        }
    }

    /// Allows `KVM_RUN` again after it returned with `EINTR`.
    pub fn acknowledge(&self) {
        self.page.immediate_exit().store(0, Ordering::Release);
    }
}
