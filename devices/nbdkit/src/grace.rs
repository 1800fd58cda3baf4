//! The end, for those who do not want to wait for it: nbdkit itself ends when its last client has gone, however long
//! that takes.

use std::thread;
use std::time::Duration;

use nbdkit::Result;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::disk;

/// Gives clients `time` to leave after a signal that ends nbdkit. Then the image is closed, as if they had left, and
/// the process ends.
///
/// nbdkit's own handlers are called, too, so it accepts nobody meanwhile.
///
/// # Errors
/// No threads or descriptors are left.
pub(crate) fn after_signals(time: Duration) -> Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM])?;
    thread::Builder::new().name("sky-grace".into()).spawn(move || {
        if signals.forever().next().is_some() {
            thread::sleep(time);
            // Requests that are being served are finished first; those that come later fail.
            disk::close();
            std::process::exit(0);
        }
    })?;
    Ok(())
}
