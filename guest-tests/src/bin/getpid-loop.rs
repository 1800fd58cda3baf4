//! Guest program: many `getpid` calls, and how many ticks of the time-stamp counter each took.
//!
//! `getpid-loop CALLS [SECONDS]`; sleeps for so long in the end.

use std::io;
use std::time::Duration;

use guest_tests::workload::getpid_loop;

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |text: &String| text.parse::<u64>().map_err(io::Error::other);
    let (calls, seconds) = match args.as_slice() {
        [calls] => (number(calls)?, 0),
        [calls, seconds] => (number(calls)?, number(seconds)?),
        _ => return Err(io::Error::other("usage: getpid-loop CALLS [SECONDS]")),
    };
    let timing = getpid_loop(calls);
    let pid = timing.pid.ok_or_else(|| io::Error::other("getpid gave different answers"))?;
    if pid != u64::from(std::process::id()) {
        return Err(io::Error::other(format!("getpid gave {pid}, but this is {}", std::process::id())));
    }
    println!("GETPID_CALLS={calls}\nGETPID_TICKS_PER_CALL={}", timing.ticks / calls.max(1));
    std::thread::sleep(Duration::from_secs(seconds));
    Ok(())
}
