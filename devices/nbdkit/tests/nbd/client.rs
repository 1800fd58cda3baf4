//! A client of the NBD protocol's plainest form: one request at a time, each with the flags that a test wants.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const WRITE_ZEROES: u16 = 6;

/// The change is durable when the answer comes.
pub(crate) const FUA: u16 = 1;
/// Zeros keep their space.
pub(crate) const NO_HOLE: u16 = 2;

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    stream: UnixStream,
    /// Bytes of the disk.
    pub(crate) size: u64,
    /// What the server can do.
    pub(crate) flags: u16,
}

impl Client {
    pub(crate) fn connect(socket: &Path) -> Self {
        Self::try_connect(socket).unwrap()
    }

    pub(crate) fn try_connect(socket: &Path) -> io::Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting)?;
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        // Fixed newstyle without padding; then the option NBD_OPT_EXPORT_NAME with the empty name.
        stream.write_all(b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\0")?;
        let (mut size, mut flags) = ([0; 8], [0; 2]);
        stream.read_exact(&mut size)?;
        stream.read_exact(&mut flags)?;
        Ok(Self { stream, size: u64::from_be_bytes(size), flags: u16::from_be_bytes(flags) })
    }

    /// Sends a request and waits for its end: the server's error number, or an error if the server has gone.
    fn request(
        &mut self,
        (kind, flags): (u16, u16),
        (offset, length): (u64, u32),
        data: &[u8],
        answer: &mut [u8],
    ) -> io::Result<u32> {
        let cookie = offset ^ 0x5a5a;
        let mut request = Vec::with_capacity(28 + data.len());
        request.extend(0x2560_9513_u32.to_be_bytes());
        request.extend(flags.to_be_bytes());
        request.extend(kind.to_be_bytes());
        request.extend(cookie.to_be_bytes());
        request.extend(offset.to_be_bytes());
        request.extend(length.to_be_bytes());
        request.extend(data);
        self.stream.write_all(&request)?;
        let mut reply = [0; 16];
        self.stream.read_exact(&mut reply)?;
        assert_eq!(reply[..4], 0x6744_6698_u32.to_be_bytes());
        assert_eq!(reply[8..], cookie.to_be_bytes());
        let error = u32::from_be_bytes(reply[4..8].try_into().unwrap());
        if error == 0 {
            self.stream.read_exact(answer)?;
        }
        Ok(error)
    }

    pub(crate) fn try_read(&mut self, offset: u64, length: usize) -> io::Result<(u32, Vec<u8>)> {
        let mut bytes = vec![0; length];
        let error = self.request((READ, 0), (offset, length as u32), &[], &mut bytes)?;
        Ok((error, bytes))
    }

    pub(crate) fn try_write(&mut self, offset: u64, data: &[u8], flags: u16) -> io::Result<u32> {
        self.request((WRITE, flags), (offset, data.len() as u32), data, &mut [])
    }

    pub(crate) fn try_flush(&mut self) -> io::Result<u32> {
        self.request((FLUSH, 0), (0, 0), &[], &mut [])
    }

    pub(crate) fn read(&mut self, offset: u64, length: usize) -> Vec<u8> {
        let (error, bytes) = self.try_read(offset, length).unwrap();
        assert_eq!(error, 0, "reading {length} bytes at {offset}");
        bytes
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8], flags: u16) {
        assert_eq!(self.try_write(offset, data, flags).unwrap(), 0, "writing at {offset}");
    }

    pub(crate) fn flush(&mut self) {
        assert_eq!(self.try_flush().unwrap(), 0, "flushing");
    }

    pub(crate) fn trim(&mut self, offset: u64, length: u32, flags: u16) {
        assert_eq!(self.request((TRIM, flags), (offset, length), &[], &mut []).unwrap(), 0, "trimming");
    }

    pub(crate) fn zero(&mut self, offset: u64, length: u32, flags: u16) {
        let error = self.request((WRITE_ZEROES, flags), (offset, length), &[], &mut []).unwrap();
        assert_eq!(error, 0, "zeroing {length} bytes at {offset}");
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // The server waits for that, and has no answer to it. It may have gone.
        let mut request = [0; 28];
        request[..4].copy_from_slice(&0x2560_9513_u32.to_be_bytes());
        request[6..8].copy_from_slice(&DISCONNECT.to_be_bytes());
        let _ = self.stream.write_all(&request);
    }
}
