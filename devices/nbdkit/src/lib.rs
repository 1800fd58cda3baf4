//! A plugin for nbdkit that serves a disk of `sky-devices`, an image and its layers, to any NBD client.
//!
//! ```text
//!   client ──NBD──▶ nbdkit (TLS, filters, access control) ──▶ Connection ──▶ the one open disk
//! ```
//!
//! The disk is opened once, when nbdkit is ready to serve, and closed when it ends. All connections share it, so a
//! flush on one covers the writes of all (what NBD calls multi-conn), and requests run in as many threads as nbdkit
//! likes. The parameters are described by `nbdkit libnbdkit_sky_plugin.so --help`.
//!
//! An NBD client may send requests of any size, a disk takes whole blocks only. nbdkit's filter `blocksize-policy`
//! tells clients so; without it a request for part of a block is answered with an error.

use nbdkit::{ExtentHandle, Flags, FuaFlags, Result, Server};
use sky_devices::block::BlockDevice;

mod disk;
mod errors;
mod grace;
mod settings;

use errors::to_nbd;

/// What one client talks to.
struct Connection {
    /// nbdkit was told with `-r` to refuse changes.
    read_only: bool,
}

impl Server for Connection {
    fn name() -> &'static str {
        "sky"
    }

    fn longname() -> Option<&'static str> {
        Some("Sky disk images")
    }

    fn version() -> Option<&'static str> {
        Some(env!("CARGO_PKG_VERSION"))
    }

    fn description() -> Option<&'static str> {
        Some("Serves a disk image that Sky can open: raw or selfie.")
    }

    fn config_help() -> Option<&'static str> {
        Some(settings::HELP)
    }

    fn magic_config_key() -> Option<&'static str> {
        Some("file")
    }

    fn config(key: &str, value: &str) -> Result<()> {
        settings::set(key, value)
    }

    fn config_complete() -> Result<()> {
        settings::check()
    }

    /// Opens the image. Not earlier: nbdkit may fork before, and a disk with threads of its own would lose them.
    fn after_fork() -> Result<()> {
        disk::open(&settings::get()?)?;
        settings::grace().map_or(Ok(()), grace::after_signals)
    }

    fn unload() {
        disk::close();
    }

    fn open(read_only: bool) -> Result<Box<dyn Server>> {
        Ok(Box::new(Self { read_only }))
    }

    fn get_size(&self) -> Result<i64> {
        let size = disk::with(|disk| Ok(disk.size()))?;
        i64::try_from(size).map_err(|_| nbdkit::Error::new(libc::EFBIG, "the disk is too large for NBD"))
    }

    fn can_write(&self) -> Result<bool> {
        disk::with(|disk| Ok(!self.read_only && !disk.geometry().read_only))
    }

    fn can_flush(&self) -> Result<bool> {
        Ok(true)
    }

    /// nbdkit calls [`flush`](Self::flush) after each write that must be durable: a disk here has no cheaper way.
    fn can_fua(&self) -> Result<FuaFlags> {
        Ok(FuaFlags::Emulate)
    }

    fn can_multi_conn(&self) -> Result<bool> {
        Ok(true)
    }

    fn can_trim(&self) -> Result<bool> {
        self.can_write()
    }

    fn can_zero(&self) -> Result<bool> {
        self.can_write()
    }

    fn can_extents(&self) -> Result<bool> {
        Ok(true)
    }

    fn is_rotational(&self) -> Result<bool> {
        Ok(false)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        disk::with(|disk| disk.read(offset, buffer, &[]).map_err(to_nbd))
    }

    fn write_at(&self, data: &[u8], offset: u64, _flags: Flags) -> Result<()> {
        disk::with(|disk| disk.write(offset, data, &[]).map_err(to_nbd))
    }

    fn flush(&self) -> Result<()> {
        disk::with(|disk| disk.flush().map_err(to_nbd))
    }

    fn trim(&self, count: u32, offset: u64, _flags: Flags) -> Result<()> {
        disk::with(|disk| disk.discard(offset, count.into()).map_err(to_nbd))
    }

    fn zero(&self, count: u32, offset: u64, flags: Flags) -> Result<()> {
        let unmap = flags.contains(Flags::MAY_TRIM);
        disk::with(|disk| disk.write_zeroes(offset, count.into(), unmap).map_err(to_nbd))
    }

    fn extents(&self, count: u32, offset: u64, flags: Flags, extents: &mut ExtentHandle) -> Result<()> {
        let one = flags.contains(Flags::REQ_ONE);
        let mut report = |offset, length, kind| extents.add(offset, length, kind);
        disk::with(|disk| disk::extents(disk, (offset, count.into()), one, &mut report))
    }
}

/// nbdkit's way in: the function `plugin_init`, which the macro writes.
mod entry {
    #![allow(missing_docs, reason = "the macro puts no documentation on its function")]

    nbdkit::plugin!(super::Connection {
        after_fork,
        can_extents,
        can_flush,
        can_fua,
        can_multi_conn,
        can_trim,
        can_write,
        can_zero,
        config,
        config_complete,
        extents,
        flush,
        is_rotational,
        trim,
        unload,
        write_at,
        zero
    });
}
