//! Guest program: many `getpid` calls, and how many ticks of the time-stamp counter each took.
//!
//! `getpid-loop CALLS`

use std::io;

use guest_tests::workload::getpid_loop;

fn main() -> io::Result<()> {
    let calls: u64 = match std::env::args().nth(1) {
        Some(text) => text.parse().map_err(io::Error::other)?,
        None => return Err(io::Error::other("usage: getpid-loop CALLS")),
    };
    let timing = getpid_loop(calls);
    let pid = timing.pid.ok_or_else(|| io::Error::other("getpid gave different answers"))?;
    if pid != u64::from(std::process::id()) {
        return Err(io::Error::other(format!("getpid gave {pid}, but this is {}", std::process::id())));
    }
    println!("GETPID_CALLS={calls}\nGETPID_TICKS_PER_CALL={}", timing.ticks / calls.max(1));
    Ok(())
}
