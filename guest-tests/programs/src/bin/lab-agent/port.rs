//! One virtio serial port: frames out, bytes in, and whether the host is still there.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::thread;
use std::time::Duration;

use guest_programs::protocol::{Decoder, Frame};

use crate::sys;

/// The kernel learns of the ports one by one after the driver is loaded.
const APPEARS_WITHIN: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(crate) struct Port(File);

impl Port {
    /// Opens the port that the host gave this name.
    pub(crate) fn open(name: &str) -> io::Result<Port> {
        let tries = APPEARS_WITHIN.as_millis() / LOOK_AGAIN.as_millis();
        for _ in 0..tries {
            if let Some(device) = device(name) {
                let file = File::options().read(true).write(true).open(device)?;
                sys::set_nonblocking(file.as_raw_fd())?;
                return Ok(Port(file));
            }
            thread::sleep(LOOK_AGAIN);
        }
        Err(io::Error::other(format!("there is no port named {name}")))
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Sends all of a frame, as fast as the host reads. Fails when the host has gone.
    pub(crate) fn send(&self, frame: &Frame) -> io::Result<()> {
        let bytes = frame.encode();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match (&self.0).write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait_until_writable()?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn wait_until_writable(&self) -> io::Result<()> {
        let mut fds = [sys::interest(Some(self.fd()), libc::POLLOUT)];
        sys::poll(&mut fds, Duration::from_secs(1))?;
        if fds[0].revents & libc::POLLHUP == 0 { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    }

    /// Reads what has arrived. False when the host has gone.
    pub(crate) fn receive(&self, decoder: &mut Decoder) -> io::Result<bool> {
        let mut bytes = [0; 4096];
        match (&self.0).read(&mut bytes) {
            Ok(0) => Ok(false),
            Ok(count) => {
                decoder.push(&bytes[..count]);
                Ok(true)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }
}

fn device(name: &str) -> Option<std::path::PathBuf> {
    fs::read_dir("/sys/class/virtio-ports").ok()?.find_map(|entry| {
        let entry = entry.ok()?;
        let found = fs::read_to_string(entry.path().join("name")).ok()?;
        let device = Path::new("/dev").join(entry.file_name());
        (found.trim() == name && device.exists()).then_some(device)
    })
}
