//! Serving a vhost-user-blk device, in this process.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;
use sky_devices::block::BlockDevice;
use sky_devices::layers::{Stack, StackSpec};
use sky_devices::virtio::blk::vhost_user;
use sky_devices::virtio::blk::{Blk, BlkSpec, NoClassifier};
use tracing::Level;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::socket::SocketName;
use super::{Error, Serve};
use crate::output::Output;

/// Entries of each queue at most: QEMU's default, which keeps requests within what every frontend sets up.
const QUEUE_SIZE: u16 = 128;

/// Serves one frontend after the other until a signal ends it, and closes the disk.
///
/// # Errors
/// The disk or the socket cannot be used, or the host refuses something.
pub(super) fn run(serve: &Serve, spec: &StackSpec, path: &Path, output: Output) -> Result<(), Error> {
    // The library's threads have no other way to tell what they met. Somebody may be listening already.
    let _ = tracing_subscriber::fmt().with_max_level(Level::WARN).with_writer(std::io::stderr).try_init();
    let stop = stop_on_signals()?;
    let disk = Arc::new(Stack::open(spec)?);
    let device = BlkSpec { serial: serve.serial.clone(), num_queues: serve.queues, queue_size: QUEUE_SIZE };
    let device = Blk::new(device, Arc::clone(&disk) as Arc<dyn BlockDevice>, Arc::new(NoClassifier))?;
    let socket = SocketName::claim(path)?;
    let listener = UnixListener::bind(socket.path()).map_err(Error::io(path.display().to_string()))?;
    let text = || socket.path().display().to_string();
    output.print(&json!({ "socket": text() }), text);
    let served = vhost_user::serve(&device, listener, &stop);
    drop(device);
    // Whatever ended it, what was written is brought to the medium.
    match Arc::into_inner(disk) {
        Some(disk) => disk.close()?,
        None => tracing::error!("the disk is still in use and stays as it is"),
    }
    Ok(served?)
}

/// An event that the signals signal which end a server.
fn stop_on_signals() -> Result<EventFd, Error> {
    let stop = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(Error::io("eventfd"))?;
    let told = stop.try_clone().map_err(Error::io("eventfd"))?;
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM]).map_err(Error::io("signals"))?;
    thread::spawn(move || {
        for _ in signals.forever() {
            if let Err(error) = told.write(1) {
                eprintln!("sky-img: a signal is lost: {error}");
            }
        }
    });
    Ok(stop)
}
