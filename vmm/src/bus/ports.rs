//! The ports of a PC that are left: a serial console, the keyboard controller's reset, ACPI's power register.

use std::sync::Arc;

use crate::console::Console;
use crate::exit::ExitReason;
use crate::machine::layout::{
    COM1, COM1_END, KEYBOARD, KEYBOARD_DATA, RESET, RESET_VALUE, SLEEP_CONTROL, SLEEP_STATUS, SLEEP_TYPE_OFF,
};

/// Command of the keyboard controller that pulls the reset line of the CPU.
const KEYBOARD_RESET: u8 = 0xfe;
/// "Data for you, and ready for a command". A driver that probes finds data without end and gives up at once; one
/// that waits to give a command, as Linux does before a reset, need not wait. Other answers cost it 10,000 reads.
const KEYBOARD_STATUS: u8 = 0x01;
/// Bit of the sleep control register that starts the transition.
const SLEEP_ENABLE: u8 = 1 << 5;

/// All ports of a machine.
#[derive(Debug)]
pub struct Ports {
    console: Arc<Console>,
}

impl Ports {
    /// The ports with `console` behind COM1.
    #[must_use]
    pub fn new(console: Arc<Console>) -> Self {
        Self { console }
    }

    /// The guest reads a port. A port that nobody answers reads as ones.
    pub fn read(&self, port: u16, data: &mut [u8]) {
        let value = match port {
            COM1..=COM1_END => self.console.read(offset(port)),
            KEYBOARD => KEYBOARD_STATUS,
            KEYBOARD_DATA | SLEEP_CONTROL | SLEEP_STATUS => 0,
            _ => 0xff,
        };
        data.fill(value);
    }

    /// The guest writes to a port, which may end the run.
    pub fn write(&self, port: u16, data: &[u8]) -> Option<ExitReason> {
        match (port, data) {
            (COM1..=COM1_END, _) => data.iter().for_each(|value| self.console.write(offset(port), *value)),
            (KEYBOARD, &[KEYBOARD_RESET]) | (RESET, &[RESET_VALUE]) => return Some(ExitReason::Reset),
            (SLEEP_CONTROL, &[value]) if value & SLEEP_ENABLE != 0 && (value >> 2) & 7 == SLEEP_TYPE_OFF => {
                return Some(ExitReason::PowerOff);
            }
            _ => {}
        }
        None
    }
}

/// Register of the serial console at a port of its range.
fn offset(port: u16) -> u8 {
    (port - COM1).to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports() -> Ports {
        Ports::new(Arc::new(Console::new(Box::new(std::io::sink())).unwrap()))
    }

    #[test]
    fn power_off_and_reset() {
        let ports = ports();
        assert_eq!(
            ports.write(SLEEP_CONTROL, &[SLEEP_ENABLE | SLEEP_TYPE_OFF << 2]),
            Some(ExitReason::PowerOff)
        );
        assert_eq!(ports.write(KEYBOARD, &[0xfe]), Some(ExitReason::Reset));
        assert_eq!(ports.write(RESET, &[RESET_VALUE]), Some(ExitReason::Reset));
    }

    #[test]
    fn no_other_write_ends_the_run() {
        let ports = ports();
        for port in (0..=u16::MAX).filter(|port| !(COM1..=COM1_END).contains(port)) {
            for value in [0, 1, 0x20, 0x34, 0xfe, 0xff] {
                let ends = matches!((port, value), (KEYBOARD, 0xfe) | (RESET, 1) | (SLEEP_CONTROL, 0x34));
                assert_eq!(ports.write(port, &[value]).is_some(), ends, "port {port:#x}, value {value:#x}");
            }
            assert_eq!(ports.write(port, &[0xfe, 0xfe]), None);
        }
    }

    #[test]
    fn the_keyboard_controller_never_makes_a_driver_wait() {
        let mut status = [0];
        ports().read(KEYBOARD, &mut status);
        assert_eq!(status[0] & 2, 0, "the input buffer must be empty");
        assert_eq!(status[0] & 1, 1, "the output buffer must be full");
    }

    #[test]
    fn an_empty_port_reads_as_ones() {
        let mut data = [0; 4];
        ports().read(0xcfc, &mut data);
        assert_eq!(data, [0xff; 4]);
    }
}
