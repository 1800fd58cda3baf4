//! The device without a VMM around it: a vhost-user backend, so that QEMU and others give their guests our disks.
//!
//! ```text
//!   frontend (QEMU) ──control messages──▶ vhost_user_backend ──kick──▶ Backend ─▶ rings::drain ─▶ BlockDevice
//!        │                                                              ▲
//!        └────────────── guest memory and rings, shared ────────────────┘
//! ```
//!
//! The same parser and executor serve the requests as behind our own transport. Each queue has a thread.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::{io, thread};

use thiserror::Error;
use vhost::vhost_user;
use vhost_user_backend::{ShutdownHandle, VhostUserDaemon};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::Blk;
use crate::virtio::Memory;

mod backend;

use backend::{Backend, MAX_QUEUES};

/// Why a disk can no longer be served to vhost-user frontends.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The device has more queues than a vhost-user backend takes.
    #[error("a vhost-user device may have at most {MAX_QUEUES} queues")]
    TooManyQueues,
    /// The host refused a descriptor or a thread, or the socket failed.
    #[error("vhost-user: {0}")]
    Io(#[from] io::Error),
    /// The connection to a frontend could not be set up.
    #[error("vhost-user: {0}")]
    Daemon(String),
}

/// Serves `device` to the frontends that connect to `listener`, one after the other, until `stop` is signalled.
///
/// `stop` must be non-blocking; it stays signalled. On return no thread touches a guest's memory any longer. Writes are
/// not flushed then: that is for whoever closes the device.
///
/// # Errors
/// Something is missing on this host. A frontend's mistakes end its connection only.
pub fn serve(device: &Blk, listener: UnixListener, stop: &EventFd) -> Result<(), ServeError> {
    if device.queue_sizes.len() > MAX_QUEUES {
        return Err(ServeError::TooManyQueues);
    }
    let pair = [listener.as_raw_fd(), stop.as_raw_fd()];
    let mut listener = vhost_user::Listener::from(listener);
    while wait_for(pair)? != stop.as_raw_fd() {
        serve_one(device, &mut listener, stop)?;
    }
    Ok(())
}

/// Serves the frontend that is knocking.
fn serve_one(device: &Blk, listener: &mut vhost_user::Listener, stop: &EventFd) -> Result<(), ServeError> {
    let memory = Memory::new(GuestMemoryMmap::new());
    let backend = Arc::new(Backend::new(device, memory.clone())?);
    let failed = |error: vhost_user_backend::Error| ServeError::Daemon(error.to_string());
    let mut daemon =
        VhostUserDaemon::new("vhost-user-blk".into(), Arc::clone(&backend), memory).map_err(failed)?;
    daemon.start(listener).map_err(failed)?;
    tracing::info!("a vhost-user frontend has connected");
    let ended = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
    let end = daemon.shutdown_handle();
    thread::scope(|scope| {
        scope.spawn(|| hang_up_on_stop(stop, &ended, end, &backend));
        // The library has no name for an ordinary end: the frontend just hangs up, perhaps in mid-message.
        match daemon.wait() {
            Ok(()) => tracing::info!("the vhost-user frontend has gone"),
            Err(error) => tracing::info!(%error, "the connection to a vhost-user frontend has ended"),
        }
        ended.write(1)
    })?;
    Ok(())
}

/// Waits until `stop` or `ended`, and cuts the connection when it is `stop`.
fn hang_up_on_stop(stop: &EventFd, ended: &EventFd, connection: Option<ShutdownHandle>, backend: &Backend) {
    match wait_for([stop.as_raw_fd(), ended.as_raw_fd()]) {
        Ok(ready) if ready == ended.as_raw_fd() => return,
        Ok(_) => {}
        Err(error) => tracing::error!(%error, "cannot wait for the end of a vhost-user connection"),
    }
    backend.stop();
    if let Some(connection) = connection {
        connection.shutdown();
    }
}

/// Waits until one of two descriptors is readable, and returns it; the second one if both are.
fn wait_for(descriptors: [i32; 2]) -> io::Result<i32> {
    let epoll = Epoll::new()?;
    for (index, descriptor) in (0..).zip(descriptors) {
        epoll.ctl(ControlOperation::Add, descriptor, EpollEvent::new(EventSet::IN, index))?;
    }
    let mut events = [EpollEvent::default(); 2];
    loop {
        match epoll.wait(-1, &mut events) {
            Ok(count) => {
                let second = events.iter().take(count).any(|event| event.data() == 1);
                return Ok(descriptors[usize::from(second)]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
