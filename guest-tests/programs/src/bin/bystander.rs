//! Guest program that nobody monitors: it does what monitored ones do, and must neither be seen nor slowed down.
//!
//! `bystander files DIR [SEED [FILES [BLOCKS]]]` or `bystander getpid CALLS` or `bystander spin TICKS` or
//! `bystander yield`, which goes on until it is killed

use std::io;
use std::path::Path;

use guest_programs::workload::{Files, getpid_loop, in_turns, spin, yield_loop};

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["files", dir, ..] => {
            let files = Files::parse("b", &args[2..])?;
            files.write(Path::new(dir))?;
            println!("BYSTANDER_FILES={}\nBYSTANDER_CHECKSUM={}", files.files, files.checksum());
        }
        ["getpid", calls] => {
            let calls: u64 = calls.parse().map_err(io::Error::other)?;
            let timing = getpid_loop(calls);
            timing.pid.ok_or_else(|| io::Error::other("getpid gave different answers"))?;
            println!("BYSTANDER_CALLS={calls}\nBYSTANDER_TICKS={}", timing.ticks);
        }
        ["spin", ticks] => spin(ticks.parse().map_err(io::Error::other)?),
        ["yield"] => {
            in_turns()?;
            println!("ready");
            yield_loop(u64::MAX);
        }
        _ => {
            return Err(io::Error::other(
                "usage: bystander files DIR [SEED [FILES [BLOCKS]]] | getpid CALLS | spin TICKS | yield",
            ));
        }
    }
    Ok(())
}
