//! Guest program: system calls of every kind at once, checked and counted; see [`guest_programs::torture`].
//!
//! `torture [--threads N] [--rounds N] [--seconds S] [--seed X] [--storm MICROSECONDS] [--dir DIR]` or
//! `torture trace [--dir DIR]`

use std::io;

use guest_programs::torture::{self, CHILD, Options};

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.split_first() {
        Some((first, rest)) if first == CHILD => torture::child(rest),
        Some((first, rest)) if first == "trace" => {
            println!("{}", torture::trace::run(&Options::parse(rest)?)?)
        }
        _ => println!("{}", torture::run(&Options::parse(&args)?)?),
    }
    Ok(())
}
