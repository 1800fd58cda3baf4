//! The socket in the file system, and a thread for whoever connects to it.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::Controls;
use super::protocol::{MAX_LINE, answer, failure};

/// More clients than this at a time are turned away.
const MAX_CLIENTS: usize = 8;
/// A client that does not read its reply is left.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait when a client cannot be accepted, for lack of file descriptors perhaps.
const RETRY: Duration = Duration::from_millis(100);

/// The socket, for the user alone (mode 0600). It is removed when this is dropped; requests that are being carried out
/// are not waited for.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
    /// Device and inode, to tell whether the file is still the one that was made.
    identity: (u64, u64),
    ending: Arc<AtomicBool>,
}

impl ControlSocket {
    /// Listens at `path` on a thread of its own. A socket there that nobody listens to any more is replaced.
    ///
    /// # Errors
    /// Somebody listens there already (`AddrInUse`), something other than a socket is there (`AlreadyExists`), or the
    /// socket cannot be made.
    pub fn listen(path: &Path, controls: Arc<dyn Controls>) -> io::Result<Self> {
        make_room(path)?;
        let listener = bind(path)?;
        let metadata = fs::symlink_metadata(path)?;
        let ending = Arc::new(AtomicBool::new(false));
        let server = Server {
            controls,
            one_at_a_time: Arc::default(),
            clients: Arc::default(),
            ending: Arc::clone(&ending),
        };
        thread::Builder::new().name("control".into()).spawn(move || server.accept(&listener))?;
        Ok(Self { path: path.to_owned(), identity: (metadata.dev(), metadata.ino()), ending })
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Release);
        let Ok(metadata) = fs::symlink_metadata(&self.path) else { return };
        if (metadata.dev(), metadata.ino()) == self.identity {
            // The thread is woken by whoever connects. If it is not, it ends with the process.
            let _ = UnixStream::connect(&self.path);
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes a socket that a process left behind which was killed.
fn make_room(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another sky-vmm listens there")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}

/// A socket that only the user can connect to, from the first moment on.
fn bind(path: &Path) -> io::Result<UnixListener> {
    // SAFETY: umask has no preconditions. Files that another thread makes at this moment are more private than they
    // would be, and none does: this is before the machine is built.
    let before = unsafe { libc::umask(0o177) };
    let listener = UnixListener::bind(path);
    // SAFETY: as above.
    unsafe { libc::umask(before) };
    listener
}

struct Server {
    controls: Arc<dyn Controls>,
    one_at_a_time: Arc<Mutex<()>>,
    clients: Arc<AtomicUsize>,
    ending: Arc<AtomicBool>,
}

/// One of the clients; leaves when dropped.
struct Seat(Arc<AtomicUsize>);

impl Seat {
    fn take(clients: &Arc<AtomicUsize>) -> Option<Self> {
        let taken = clients.fetch_add(1, Ordering::AcqRel);
        let seat = Self(Arc::clone(clients));
        (taken < MAX_CLIENTS).then_some(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Server {
    fn accept(&self, listener: &UnixListener) {
        loop {
            let accepted = listener.accept();
            if self.ending.load(Ordering::Acquire) {
                return;
            }
            match accepted {
                Ok((stream, _)) => self.welcome(stream),
                Err(_) => thread::sleep(RETRY),
            }
        }
    }

    fn welcome(&self, mut stream: UnixStream) {
        let Some(seat) = Seat::take(&self.clients) else {
            // Whoever has gone does not need to know.
            let _ = writeln!(stream, "{}", failure("too many clients"));
            return;
        };
        let (controls, turn) = (Arc::clone(&self.controls), Arc::clone(&self.one_at_a_time));
        let served = thread::Builder::new().name("control-client".into()).spawn(move || {
            let _seat = seat;
            // A client that hangs up in between is no error.
            let _ = serve(&stream, &*controls, &turn);
        });
        if let Err(error) = served {
            tracing::warn!(%error, "no thread for a client of --control");
        }
    }
}

/// Answers a client until it hangs up.
pub(super) fn serve(stream: &UnixStream, controls: &dyn Controls, turn: &Mutex<()>) -> io::Result<()> {
    stream.set_write_timeout(Some(WRITE_PATIENCE))?;
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    let mut line = Vec::new();
    loop {
        line.clear();
        reader.by_ref().take(MAX_LINE as u64 + 1).read_until(b'\n', &mut line)?;
        let ended = line.last() == Some(&b'\n');
        if ended {
            line.pop();
        } else if line.is_empty() {
            return Ok(());
        } else if line.len() > MAX_LINE {
            // Where the next request begins cannot be told.
            return writeln!(writer, "{}", failure(&format!("a request has at most {MAX_LINE} bytes")));
        }
        if !line.trim_ascii().is_empty() {
            // Requests change nothing here that a panic could leave half done.
            let reply = {
                let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
                answer(controls, &line)
            };
            writer.write_all(format!("{reply}\n").as_bytes())?;
        }
    }
}
