//! `cargo lab -- COMMAND`: runs a command on a machine with a working `/dev/kvm`, whatever this machine has.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use guest_tests::lab::{Exit, Lab, LabCommand, Stream};
use guest_tests::{Result, programs};

/// Run a command in the lab: an emulated AMD machine with KVM, where paths mean what they mean here.
///
/// The host's files can be read there, the target directory also written; /tmp and /run are the lab's own. The lab
/// starts by itself, is shared by everybody, and switches off after two idle minutes. The first start downloads
/// Debian's kernel and, for root, installs QEMU.
#[derive(Parser)]
#[command(name = "cargo lab --", bin_name = "cargo lab --")]
struct Args {
    /// Use a private lab with one CPU whose clock counts instructions
    #[arg(long)]
    icount: bool,
    /// Say whether the lab runs
    #[arg(long, conflicts_with_all = ["icount", "stop", "command"])]
    status: bool,
    /// Switch the lab off
    #[arg(long, conflicts_with_all = ["icount", "command"])]
    stop: bool,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required_unless_present_any = ["status", "stop"])]
    command: Vec<OsString>,
}

/// What shells return for a command that could not be run.
const CANNOT_RUN: u8 = 127;

fn main() -> ExitCode {
    // `cargo lab` ends with `--` already, and people write another.
    let args =
        std::env::args_os().enumerate().filter(|(at, arg)| *at != 1 || arg != "--").map(|(_, arg)| arg);
    match run(Args::parse_from(args)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(CANNOT_RUN)
        }
    }
}

fn run(args: Args) -> Result<ExitCode> {
    if args.status {
        match Lab::status()? {
            Some(commands) => println!("running, {commands} commands"),
            None => println!("not running"),
        }
        return Ok(ExitCode::SUCCESS);
    }
    if args.stop {
        println!("{}", if Lab::stop()? { "stopped" } else { "not running" });
        return Ok(ExitCode::SUCCESS);
    }
    programs::sky_vmm()?;
    let lab = if args.icount { Lab::start_icount()? } else { Lab::connect_or_start()? };
    let mut words = args.command.into_iter();
    let command = LabCommand::new(words.next().unwrap_or_default()).args(words).stdin(io::stdin());
    let exit = command.stream(&lab, show)?;
    Ok(match exit {
        Exit::Code(code) => ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)),
        // As shells say it.
        Exit::Signal(signal) => ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX)),
    })
}

/// Passes output on at once. Whoever has closed our output does not want it.
fn show(stream: Stream, bytes: &[u8]) {
    let _ = match stream {
        Stream::Stdout => io::stdout().write_all(bytes).and_then(|()| io::stdout().flush()),
        Stream::Stderr => io::stderr().write_all(bytes),
    };
}
