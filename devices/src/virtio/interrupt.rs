//! The device's way to the driver: why it interrupts (section 4.2.2, InterruptStatus) and the line it pulls.
//!
//! Shared between the transport, whose registers show and acknowledge the reasons, and the workers, which add them.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use vmm_sys_util::eventfd::EventFd;

/// Bit 0 of InterruptStatus: a buffer was used in some queue.
const USED_BUFFER: u32 = 1;
/// Bit 1 of InterruptStatus: the configuration, or the device status, has changed.
const CONFIGURATION: u32 = 2;

/// Interrupt status and line of one device.
#[derive(Debug)]
pub struct Interrupt {
    status: AtomicU32,
    needs_reset: AtomicBool,
    line: EventFd,
}

impl Interrupt {
    /// An idle interrupt that signals `line`.
    #[must_use]
    pub fn new(line: EventFd) -> Self {
        Self { status: AtomicU32::new(0), needs_reset: AtomicBool::new(false), line }
    }

    /// Tells the driver that buffers were used.
    ///
    /// # Errors
    /// The line could not be signalled.
    pub fn used_buffer(&self) -> io::Result<()> {
        self.raise(USED_BUFFER)
    }

    /// Tells the driver that the device is broken until it is reset (section 2.1.2).
    pub fn needs_reset(&self) {
        self.needs_reset.store(true, Ordering::Release);
        if let Err(error) = self.raise(CONFIGURATION) {
            tracing::error!(%error, "the driver cannot be told that its device needs a reset");
        }
    }

    /// Whether [`needs_reset`](Self::needs_reset) was called since the last reset.
    pub(super) fn is_reset_needed(&self) -> bool {
        self.needs_reset.load(Ordering::Acquire)
    }

    /// The reasons that the driver has not acknowledged.
    pub(super) fn status(&self) -> u32 {
        self.status.load(Ordering::Acquire)
    }

    /// The driver has seen `reasons`.
    pub(super) fn acknowledge(&self, reasons: u32) {
        self.status.fetch_and(!reasons, Ordering::AcqRel);
    }

    /// Forgets everything; the workers must have stopped.
    pub(super) fn reset(&self) {
        self.status.store(0, Ordering::Release);
        self.needs_reset.store(false, Ordering::Release);
    }

    fn raise(&self, reason: u32) -> io::Result<()> {
        // The reason comes first: the driver reads the status as soon as the line is up.
        self.status.fetch_or(reason, Ordering::AcqRel);
        match self.line.write(1) {
            // The counter is full, so the line is up already.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            result => result,
        }
    }
}
