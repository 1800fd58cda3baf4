//! Guest program: many system calls of one kind, and how many ticks of the time-stamp counter they took.
//!
//! `getpid-loop CALLS [SECONDS]`: `getpid`; sleeps for so long in the end. `getpid-loop yield CALLS [PROGRAM...]`:
//! `sched_yield`, in turns with another program that does the same.
//! `getpid-loop out TIMES`: no call at all, but writes to an I/O port that no device has.

use std::io::{self, BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use guest_programs::workload::{getpid_loop, in_turns, out_loop, yield_loop};

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |text: &str| text.parse::<u64>().map_err(io::Error::other);
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let (calls, seconds) = match words[..] {
        ["yield", calls] => {
            in_turns()?;
            println!("YIELD_TICKS={}", yield_loop(number(calls)?));
            return Ok(());
        }
        ["yield", calls, other, ref arguments @ ..] => {
            in_turns()?;
            let mut other = Command::new(other).args(arguments).stdout(Stdio::piped()).spawn()?;
            // Its first line says that it is there.
            let said = other.stdout.take().ok_or_else(|| io::Error::other("no pipe"))?;
            BufReader::new(said).read_line(&mut String::new())?;
            println!("YIELD_TICKS={}", yield_loop(number(calls)?));
            other.kill()?;
            return other.wait().map(drop);
        }
        ["out", times] => {
            let times = number(times)?;
            println!("OUT_TICKS={}", out_loop(times)? / times.max(1));
            return Ok(());
        }
        [calls] => (number(calls)?, 0),
        [calls, seconds] => (number(calls)?, number(seconds)?),
        _ => {
            return Err(io::Error::other(
                "usage: getpid-loop CALLS [SECONDS] | yield CALLS [PROGRAM...] | out TIMES",
            ));
        }
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
