//! `sky-img serve`: the disk in an image, for other people's programs.
//!
//! NBD is spoken by nbdkit, which loads our plugin; vhost-user by this process itself.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use clap::Args;
use sky_devices::layers::StackSpec;
use sky_devices::virtio::blk::SpecError;
use sky_devices::virtio::blk::vhost_user::ServeError;
use thiserror::Error;

use crate::arguments::{LayerArgs, Source};
use crate::failure::{Failure, Outcome, Result};
use crate::output::Output;

mod address;
mod nbd;
mod plugin;
mod socket;
mod vhost_user;

use address::NbdAddress;

/// Serve the disk in an image to NBD or vhost-user clients, until SIGINT or SIGTERM
///
/// NBD clients are qemu-img, QEMU, nbdcopy, fio, the kernel's nbd-client and many more. Any number may be connected at
/// once. nbdkit does the talking, so its filters, TLS and access control are there too: what follows `--` is passed on.
///
/// vhost-user gives the disk to a QEMU guest as a virtio disk, without a copy in between. One guest at a time may be
/// connected, and the guest's memory must be shared (QEMU: -object memory-backend-memfd,share=on).
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Serve {
    /// The image
    image: PathBuf,
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    layers: LayerArgs,
    #[command(flatten)]
    to: To,
    /// Refuse changes, and share the image with other readers
    #[arg(short, long)]
    read_only: bool,
    /// Name of the NBD export; clients that ask for another one are refused
    #[arg(long, value_name = "NAME", conflicts_with = "vhost_user")]
    export: Option<String>,
    /// The plugin for nbdkit, if it is neither beside sky-img nor in $SKY_NBDKIT_PLUGIN
    #[arg(long, value_name = "PATH", conflicts_with = "vhost_user")]
    plugin: Option<PathBuf>,
    /// Seconds that NBD clients may stay after a signal to end; the image is closed then
    #[arg(long, value_name = "SECONDS", default_value_t = 5, conflicts_with = "vhost_user")]
    grace: u32,
    /// Queues of the vhost-user device, 1 to 64: one per virtual CPU is a good choice
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "nbd")]
    queues: u16,
    /// Serial number of the vhost-user device, up to 20 characters
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true, conflicts_with = "nbd")]
    serial: String,
    /// Options, filters and parameters for nbdkit
    #[arg(last = true, value_name = "NBDKIT ARGUMENT", conflicts_with = "vhost_user")]
    nbdkit: Vec<OsString>,
}

/// Where clients find the disk.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct To {
    /// Serve NBD there: 127.0.0.1:10809, [::1]:10809, localhost:10809, or unix:PATH
    #[arg(long, value_name = "ADDRESS")]
    nbd: Option<NbdAddress>,
    /// Serve a vhost-user-blk device at this socket
    #[arg(long, value_name = "PATH")]
    vhost_user: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  sky-img serve -f selfie a.selfie --nbd unix:/tmp/a.sock
  qemu-img convert -n -f raw -O raw disk.raw 'nbd+unix:///?socket=/tmp/a.sock'

  sky-img serve -f selfie a.selfie --layers cache --cache /nvme/a.icache --cache-size 4G --nbd unix:/tmp/a.sock

  sky-img serve -f selfie a.selfie --nbd 0.0.0.0:10809 -- --tls=require --tls-certificates=/etc/pki
  sky-img serve -f raw a.img --nbd 0.0.0.0:10809 -- --filter=ip allow=10.0.0.0/8 deny=all";

/// Why a disk cannot be served, or not any longer.
#[derive(Debug, Error)]
pub(crate) enum Error {
    #[error("nbdkit is not installed; on Debian and Ubuntu: apt-get install nbdkit")]
    NoNbdkit,
    #[error(
        "the plugin {} is not in any of {searched}; name it with --plugin or in ${}",
        plugin::FILE_NAME,
        plugin::VARIABLE
    )]
    NoPlugin { searched: String },
    #[error("nbdkit ended with {0}")]
    Ended(std::process::ExitStatus),
    #[error("{operation}: {source}")]
    Io { operation: String, source: io::Error },
    #[error("{0} is in use: somebody answers there")]
    InUse(PathBuf),
    #[error("{0} exists and is no socket")]
    NotASocket(PathBuf),
    #[error(transparent)]
    Image(#[from] sky_devices::block::Error),
    #[error(transparent)]
    Device(#[from] SpecError),
    #[error(transparent)]
    VhostUser(#[from] ServeError),
}

impl Error {
    fn io(operation: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let operation = operation.into();
        move |source| Self::Io { operation, source }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Image(error) => Self::Image(error),
            error => Self::Refused(error.to_string()),
        }
    }
}

impl Serve {
    /// Serves until a signal ends it.
    pub(crate) fn run(&self, output: Output) -> Result<Outcome> {
        let mut spec = self.source.spec(&self.image)?;
        spec.read_only = self.read_only;
        let keys = self.layers.keys()?;
        match (&self.to.nbd, &self.to.vhost_user) {
            (Some(address), _) => nbd::run(self, &spec, &keys, address, output)?,
            (None, Some(socket)) => {
                let disk = StackSpec { image: spec, layers: keys.build()? };
                vhost_user::run(self, &disk, socket, output)?;
            }
            // The command line was refused before.
            (None, None) => {}
        }
        Ok(Outcome::DONE)
    }
}
