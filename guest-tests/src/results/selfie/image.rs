//! The images that are compared, each behind the NBD server that its users have.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use sky_devices::block::{FileOptions, FileStorage};
use sky_devices::selfie::{CreateOptions, create};
use tempfile::TempDir;

use super::load::failed;
use crate::error::{Error, Result};
use crate::packages::{Tool, ensure};
use crate::{command, paths, programs};

/// Bytes of a disk. fio chooses a few clusters twice: of 4,000 among 131,072, one in sixty-five.
const SIZE: u64 = 8 << 30;
/// Bytes of the raw disk. All of it has to be written, and nothing depends on its size.
pub(super) const RAW_SIZE: u64 = 1 << 30;
/// How long a server may take to listen.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A kind of image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Selfie,
    Qcow2,
    Qcow2Lazy,
    Qed,
    /// A raw file of which every byte has been written: the limit of what a format can reach.
    RawWritten,
    /// The same behind the server that Selfie has: what is left between them is the format's.
    RawSky,
    /// A raw file that is a hole at first: the file system allocates.
    RawSparse,
}

impl Kind {
    pub(super) const ALL: [Self; 5] =
        [Self::Selfie, Self::Qcow2, Self::Qcow2Lazy, Self::Qed, Self::RawWritten];

    /// Its name in keys.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Selfie => "selfie",
            Self::Qcow2 => "qcow2",
            Self::Qcow2Lazy => "qcow2_lazy",
            Self::Qed => "qed",
            Self::RawWritten => "raw_written",
            Self::RawSky => "raw_sky",
            Self::RawSparse => "raw_sparse",
        }
    }

    fn format(self) -> &'static str {
        match self {
            Self::Selfie => "selfie",
            Self::Qcow2 | Self::Qcow2Lazy => "qcow2",
            Self::Qed => "qed",
            Self::RawWritten | Self::RawSky | Self::RawSparse => "raw",
        }
    }

    /// Makes an image, in a block device if there is one at `path`.
    fn create(self, path: &Path, size: u64, device: bool) -> Result<()> {
        let mut qemu_img = ensure(Tool::QemuImg)?;
        qemu_img.args(["create", "-q", "-f", self.format()]);
        match self {
            Self::Selfie if device => {
                let storage = FileStorage::open(FileOptions::new(path)).map_err(failed)?;
                return create(&storage, &CreateOptions::new(size)).map_err(failed);
            }
            Self::Selfie => {
                let [sky_img, _] = programs::image_tools()?;
                let mut sky_img = Command::new(sky_img);
                sky_img.args(["create", "-f", "selfie"]).arg(path).arg(size.to_string());
                return command::run(&mut sky_img).map(drop);
            }
            Self::RawWritten | Self::RawSky if device => return Ok(()),
            Self::RawWritten | Self::RawSky => {
                return write_out(path, size).map_err(Error::file("write", path));
            }
            Self::Qcow2Lazy => _ = qemu_img.args(["-o", "lazy_refcounts=on"]),
            Self::Qcow2 | Self::Qed | Self::RawSparse => {}
        }
        command::run(qemu_img.arg(path).arg(size.to_string())).map(drop)
    }

    fn server(self, path: &Path, socket: &Path) -> Result<Command> {
        if matches!(self, Self::Selfie | Self::RawSky) {
            let [_, plugin] = programs::image_tools()?;
            let mut nbdkit = ensure(Tool::Nbdkit)?;
            // As many threads as `sky-img serve` has.
            let threads = thread::available_parallelism().map_or(4, |count| count.get() * 4).clamp(4, 16);
            nbdkit.args(["--foreground", "--exit-with-parent", &format!("--threads={threads}"), "--unix"]);
            nbdkit.arg(socket);
            nbdkit.arg(plugin).arg(path).arg(format!("format={}", self.format()));
            nbdkit.args(["direct=true", "grace=0"]);
            return Ok(nbdkit);
        }
        let mut qemu_nbd = ensure(Tool::QemuNbd)?;
        qemu_nbd.args(["--persistent", "--shared=16", "--cache=none", "--aio=threads", "--discard=unmap"]);
        qemu_nbd.args(["--format", self.format(), "--socket"]).arg(socket).arg(path);
        Ok(qemu_nbd)
    }
}

/// Writes every byte, and not zeros, which a file system might remember as such.
pub(super) fn write_out(path: &Path, size: u64) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    let piece = vec![0x5a; 1 << 20];
    for _ in 0..size >> 20 {
        file.write_all(&piece)?;
    }
    file.sync_all()
}

/// A new image and its server.
pub(super) struct Served {
    /// Bytes of the disk.
    pub(super) size: u64,
    path: PathBuf,
    folder: TempDir,
    child: Child,
}

impl Served {
    /// Makes and serves an image, in the target directory: its disk is the one that is measured.
    pub(super) fn new(kind: Kind) -> Result<Self> {
        let written = matches!(kind, Kind::RawWritten | Kind::RawSky);
        Self::with(kind, if written { RAW_SIZE } else { SIZE }, None)
    }

    /// Makes and serves an image of `size` bytes, in the target directory or in a block device.
    pub(super) fn with(kind: Kind, size: u64, device: Option<&Path>) -> Result<Self> {
        let target = paths::target();
        let folder = TempDir::new_in(&target).map_err(Error::file("create a folder in", &target))?;
        let socket = folder.path().join("socket");
        let path = device.map_or_else(|| folder.path().join("image"), Path::to_path_buf);
        kind.create(&path, size, device.is_some())?;
        let mut server = kind.server(&path, &socket)?;
        let program = server.get_program().to_string_lossy().into_owned();
        server.stdin(Stdio::null()).stdout(Stdio::null());
        let child = server.spawn().map_err(|source| Error::Spawn { program: program.clone(), source })?;
        let mut served = Self { size, path, folder, child };
        let deadline = Instant::now() + START_LIMIT;
        while !greets(&socket) {
            let ended = served.child.try_wait().ok().flatten();
            if ended.is_some() || Instant::now() > deadline {
                return Err(Error::Missing(format!("{program} does not serve {}", kind.name())));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(served)
    }

    pub(super) fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.folder.path().join("socket").display())
    }

    /// The file of the image.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The server's process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

/// Whether an NBD server is there. It is told goodbye as the protocol says (flags, NBD_OPT_ABORT), or it would complain.
fn greets(socket: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(socket) else { return false };
    let (mut greeting, mut answer) = ([0; 18], [0; 20]);
    let _ = stream
        .read_exact(&mut greeting)
        .and_then(|()| stream.write_all(b"\0\0\0\x01IHAVEOPT\0\0\0\x02\0\0\0\0"))
        .and_then(|()| stream.read_exact(&mut answer));
    true
}

impl Drop for Served {
    fn drop(&mut self) {
        // Nobody needs the image any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
