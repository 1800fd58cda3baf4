//! The first process of the lab's machine: makes it look like the host, then runs the commands it is sent.
//!
//! Process 1 only collects orphans; the work is done by a second process, so that the two kinds of waiting for
//! children never meet. Built statically, since it starts before there is any file system.

mod port;
mod run;
mod setup;
mod slot;
mod sys;

use std::io;
use std::process::Command;

fn main() {
    let serving = std::env::args().nth(1).is_some_and(|arg| arg == "serve");
    let result = if serving { slot::serve_all() } else { init() };
    if let Err(error) = result {
        eprintln!("lab-agent: {error}");
    }
    // Whoever waits on the host sees the machine end and reads the reason on the console.
    if !serving {
        sys::power_off();
    }
}

fn init() -> io::Result<()> {
    setup::machine()?;
    let server = Command::new("/proc/self/exe").arg("serve").spawn()?;
    while sys::wait_for_any_child()? != server.id() {}
    Err(io::Error::other("the server ended"))
}
