//! A program that makes life hard for whoever watches system calls, and knows exactly how many it made.
//!
//! ```text
//!   worker 0 .. n    rounds of calls whose results are checked: files, pipes in a ring, futexes, CPUs   (worker)
//!     └─ a burst     fork, vfork, exec chains, killed and stopped processes, threads that end badly     (burst, threads)
//!   storm            a timer and signals sent to workers, whose handler makes calls too                 (storm)
//!   counts           what all of these made, over all processes
//! ```
//!
//! Whatever is wrong ends the program with a message and status 1. In the end it prints `TORTURE_COUNT_name=n` for
//! the calls that only it makes (see [`counts::Own`]), to be compared with what the watcher has counted. Of
//! `pause`, `TORTURE_UNRETURNED_PAUSE` calls never returned.

mod burst;
mod child;
pub mod counts;
mod registers;
mod storm;
pub mod sys;
mod threads;
pub mod trace;
mod worker;

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use counts::{Own, Shared};
use storm::Storm;
use worker::{Ring, Worker};

pub use child::{CHILD, child};

/// What is asked of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How many workers.
    pub threads: u32,
    /// How many rounds each makes at most.
    pub rounds: u64,
    /// How long to begin new rounds at most.
    pub limit: Option<Duration>,
    /// What lengths and contents follow from.
    pub seed: u64,
    /// Time between two signals to workers, in microseconds; 0 for no signals at all.
    pub storm: u64,
    /// Where to write files.
    pub dir: PathBuf,
}

/// How to call the program.
pub const USAGE: &str = "usage: torture [--threads N] [--rounds N] [--seconds S] [--seed X] [--storm MICROSECONDS] \
                         [--dir DIR] | torture trace [--dir DIR]";

impl Options {
    /// From the program's arguments. Without `--rounds` and `--seconds`, 20 rounds.
    pub fn parse(args: &[String]) -> io::Result<Options> {
        let mut options = Options {
            threads: 4,
            rounds: u64::MAX,
            limit: None,
            seed: 1,
            storm: 1000,
            dir: std::env::temp_dir(),
        };
        let wrong = |text: &str| io::Error::other(format!("{text}: {USAGE}"));
        let (pairs, rest) = args.as_chunks::<2>();
        if let Some(odd) = rest.first() {
            return Err(wrong(odd));
        }
        for [name, value] in pairs {
            let number = || value.parse::<u64>().map_err(|_| wrong(value));
            match name.as_str() {
                "--threads" => {
                    options.threads = value.parse().map_err(|_| wrong(value))?;
                }
                "--rounds" => options.rounds = number()?,
                "--seconds" => options.limit = Some(Duration::from_secs(number()?)),
                "--seed" => options.seed = number()?,
                "--storm" => options.storm = number()?,
                "--dir" => options.dir = value.into(),
                _ => return Err(wrong(name)),
            }
        }
        if !(1..=64).contains(&options.threads) {
            return Err(wrong("--threads is 1 to 64"));
        }
        if options.rounds == u64::MAX && options.limit.is_none() {
            options.rounds = 20;
        }
        Ok(options)
    }
}

/// Runs to the end, and gives the lines to print. Does not return if anything was wrong.
pub fn run(options: &Options) -> io::Result<String> {
    let kernel = |error: i64| io::Error::from_raw_os_error(sys::int(-error));
    let (fd, shared) = Shared::create().map_err(kernel)?;
    let ring = Ring::new(options).map_err(kernel)?;
    let storm = Storm::start(shared, options)?;
    let mut threads = Vec::new();
    for index in 0..options.threads {
        let mut worker = Worker::new(shared, fd, index, options)?;
        let (ring, targets) = (ring.clone(), storm.targets());
        let body = move || {
            targets.enter(index, &worker);
            worker.run(&ring);
            targets.leave(index);
        };
        threads.push(thread::Builder::new().spawn(body)?);
    }
    for thread in threads {
        thread.join().map_err(|_| io::Error::other("a worker panicked"))?;
    }
    storm.stop()?;
    Ok(report(shared))
}

fn report(shared: &Shared) -> String {
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::SeqCst);
    let mut text = String::new();
    for own in Own::ALL {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "TORTURE_COUNT_{}={}", own.name().to_uppercase(), shared.entered(own));
    }
    for (name, counter) in [
        ("UNRETURNED_PAUSE", &shared.unreturned),
        ("SIGNALS", &shared.signals),
        ("INTERRUPTED", &shared.interrupted),
        ("PROCESSES", &shared.processes),
        ("BYTES", &shared.bytes),
    ] {
        let _ = writeln!(text, "TORTURE_{name}={}", load(counter));
    }
    text + "TORTURE=ok"
}

/// Ends the program, or this process of it, because something was wrong.
pub(crate) fn fail(what: &str, got: i64) -> ! {
    let mut line = [0u8; 160];
    let mut at = 0;
    let mut digits = [0; 20];
    let number = threads::decimal(got, &mut digits);
    let sign: &[u8] = if got < 0 { b"-" } else { b"" };
    for part in [b"torture: ", what.as_bytes(), b": ", sign, number, b"\n"] {
        for byte in part {
            if let Some(place) = line.get_mut(at) {
                *place = *byte;
                at += 1;
            }
        }
    }
    // Nobody could be told that this failed.
    sys::write(2, &line[..at]);
    sys::exit_group(1)
}

/// Fails unless a call gave what it should.
pub(crate) fn expect(what: &str, got: i64, wanted: i64) {
    if got != wanted {
        fail(what, got);
    }
}

/// The result, unless it is an error.
pub(crate) fn succeed(what: &str, got: i64) -> i64 {
    if got < 0 { fail(what, got) } else { got }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> io::Result<Options> {
        Options::parse(&line.split_whitespace().map(str::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn arguments_have_defaults_and_are_checked() {
        let options = parse("").unwrap();
        assert_eq!((options.threads, options.rounds, options.seed), (4, 20, 1));
        let options = parse("--seconds 3 --threads 2 --dir /x").unwrap();
        assert_eq!((options.threads, options.rounds), (2, u64::MAX));
        assert_eq!(options.limit, Some(Duration::from_secs(3)));
        assert_eq!(options.dir, PathBuf::from("/x"));
        for line in ["--threads 0", "--threads 65", "--rounds", "--rounds x", "--nothing 1", "-1"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
