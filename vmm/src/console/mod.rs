//! The guest's serial console on the VMM's standard input and output.
//!
//! ```text
//!   vCPU ──ports──▶ Console (16550) ──▶ standard output
//!                      ▲   │ room
//!                      │   ▼
//!   standard input ─▶ input::Input (main thread)
//! ```

use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use vm_superio::serial::SerialEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

mod escape;
mod input;
mod terminal;

pub use input::Input;
pub use terminal::{RawMode, is_background};

const INTERRUPT_ENABLE: u8 = 1;
const RECEIVE_INTERRUPT: u8 = 1;

/// A 16550 with an event for its interrupt and one for room in its input buffer.
pub struct Console {
    serial: Mutex<Serial<Line, Room, Box<dyn Write + Send>>>,
    interrupt: EventFd,
    room: EventFd,
}

impl Console {
    /// A console that writes to `output`. Output that cannot be written is lost: a guest must not stop because nobody
    /// listens.
    ///
    /// # Errors
    /// No more eventfds.
    pub fn new(output: Box<dyn Write + Send>) -> io::Result<Self> {
        let interrupt = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let room = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let serial = Serial::with_events(Line(interrupt.try_clone()?), Room(room.try_clone()?), output);
        Ok(Self { serial: Mutex::new(serial), interrupt, room })
    }

    /// Signalled when the console wants an interrupt.
    #[must_use]
    pub fn interrupt(&self) -> &EventFd {
        &self.interrupt
    }

    /// Signalled when there may be [`capacity`](Self::capacity) again.
    #[must_use]
    pub fn room(&self) -> &EventFd {
        &self.room
    }

    /// The guest reads a register.
    pub fn read(&self, register: u8) -> u8 {
        self.serial().read(register)
    }

    /// The guest writes a register.
    pub fn write(&self, register: u8, value: u8) {
        if let Err(error) = self.serial().write(register, value) {
            tracing::debug!("console: {error:?}");
        }
        if register == INTERRUPT_ENABLE && value & RECEIVE_INTERRUPT != 0 {
            Room::signal(&self.room);
        }
    }

    /// Bytes of input that the guest can take now. None before its driver listens: what arrived earlier would be
    /// thrown away when the driver clears the buffer.
    #[must_use]
    pub fn capacity(&self) -> usize {
        let serial = self.serial();
        if serial.state().interrupt_enable & RECEIVE_INTERRUPT == 0 { 0 } else { serial.fifo_capacity() }
    }

    /// Gives the guest input, not more than [`capacity`](Self::capacity).
    pub fn push(&self, input: &[u8]) {
        if let Err(error) = self.serial().enqueue_raw_bytes(input) {
            tracing::debug!("console: {error:?}");
        }
    }

    fn serial(&self) -> MutexGuard<'_, Serial<Line, Room, Box<dyn Write + Send>>> {
        self.serial.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console").finish_non_exhaustive()
    }
}

/// The interrupt line.
struct Line(EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Tells whoever feeds the console that its buffer has emptied.
struct Room(EventFd);

impl Room {
    fn signal(event: &EventFd) {
        // It only fails when the event is signalled already, many times over.
        let _ = event.write(1);
    }
}

impl SerialEvents for Room {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {
        Self::signal(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_waits_for_a_listener_and_for_room() {
        let console = Console::new(Box::new(io::sink())).unwrap();
        assert_eq!(console.capacity(), 0);
        console.write(INTERRUPT_ENABLE, RECEIVE_INTERRUPT);
        assert!(console.room().read().is_ok());
        let capacity = console.capacity();
        assert!(capacity > 0);
        console.push(&vec![b'x'; capacity]);
        assert_eq!(console.capacity(), 0);
        assert!(console.room().read().is_err(), "no room yet");
        for _ in 0..capacity {
            assert_eq!(console.read(0), b'x');
        }
        assert!(console.room().read().is_ok());
        assert_eq!(console.capacity(), capacity);
    }
}
