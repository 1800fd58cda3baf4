//! `cargo lab -- COMMAND`: runs a command on a machine with a working `/dev/kvm`, whatever this machine has.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, ValueEnum};
use guest_tests::lab::{Exit, Lab, LabCommand, Stream};
use guest_tests::{Result, bochs, programs};

/// Run a command in the lab: an emulated AMD machine with KVM, where paths mean what they mean here.
///
/// The host's files can be read there, the target directory also written; /tmp and /run are the lab's own. The lab
/// starts by itself, is shared by everybody, and switches off after two idle minutes. The first start downloads
/// Debian's kernel and QEMU.
///
/// With --emulator bochs it is an Intel machine instead, started for this command alone, which takes a minute or more.
/// There are none of the host's files and no standard input: the command is sky-vmm (the default: sky-vmm check), a
/// guest program of this repository, anything of busybox, or the path of a statically linked executable.
#[derive(Debug, Parser)]
#[command(name = "cargo lab --", bin_name = "cargo lab --")]
struct Args {
    /// Which machine
    #[arg(long, value_enum, default_value_t = Emulator::Qemu)]
    emulator: Emulator,
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
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// What emulates the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Emulator {
    /// AMD SVM by QEMU: fast, with the host's files
    Qemu,
    /// Intel VMX by Bochs: slow, one command
    Bochs,
}

impl Args {
    /// What depends on the emulator, which clap cannot express.
    fn parse_and_check(words: impl Iterator<Item = OsString>) -> std::result::Result<Args, clap::Error> {
        let args = Args::try_parse_from(words)?;
        let refuse = |kind, what: &str| Err(Args::command().error(kind, what));
        match args.emulator {
            Emulator::Qemu if args.command.is_empty() && !args.status && !args.stop => {
                refuse(ErrorKind::MissingRequiredArgument, "a command is missing")
            }
            Emulator::Bochs if args.icount || args.status || args.stop => {
                refuse(ErrorKind::ArgumentConflict, "--icount, --status and --stop are for QEMU")
            }
            _ => Ok(args),
        }
    }
}

/// What shells return for a command that could not be run.
const CANNOT_RUN: u8 = 127;

fn main() -> ExitCode {
    // `cargo lab` ends with `--` already, and people write another.
    let args =
        std::env::args_os().enumerate().filter(|(at, arg)| *at != 1 || arg != "--").map(|(_, arg)| arg);
    match run(Args::parse_and_check(args).unwrap_or_else(|error| error.exit())) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(CANNOT_RUN)
        }
    }
}

fn run(args: Args) -> Result<ExitCode> {
    if args.emulator == Emulator::Bochs {
        return bochs::run(&args.command, show).map(ExitCode::from);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> std::result::Result<Args, ErrorKind> {
        let words = ["lab"].into_iter().chain(line.split_whitespace()).map(OsString::from);
        Args::parse_and_check(words).map_err(|error| error.kind())
    }

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_command_keeps_its_options() {
        for line in ["sky-vmm check --json", "-- sky-vmm check --json"] {
            let args = parse(line).unwrap();
            assert_eq!((args.emulator, args.command.len()), (Emulator::Qemu, 3));
        }
        let args = parse("--emulator bochs -- sky-vmm check --icount --").unwrap();
        assert_eq!(args.emulator, Emulator::Bochs);
        assert_eq!(args.command, ["sky-vmm", "check", "--icount", "--"]);
        assert!(!args.icount);
    }

    #[test]
    fn only_bochs_knows_what_to_do_by_itself() {
        assert!(parse("--emulator bochs").unwrap().command.is_empty());
        assert_eq!(parse("").unwrap_err(), ErrorKind::MissingRequiredArgument);
        assert!(parse("--status").is_ok());
        assert_eq!(parse("--stop true").unwrap_err(), ErrorKind::ArgumentConflict);
    }

    #[test]
    fn what_is_for_qemu_is_refused_for_bochs() {
        for option in ["--icount true", "--status", "--stop"] {
            assert_eq!(
                parse(&format!("--emulator bochs {option}")).unwrap_err(),
                ErrorKind::ArgumentConflict
            );
        }
        assert_eq!(parse("--emulator simics").unwrap_err(), ErrorKind::InvalidValue);
    }
}
