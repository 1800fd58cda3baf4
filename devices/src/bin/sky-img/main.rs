//! The program `sky-img`: makes, shows, checks, converts and changes disk images.

mod arguments;
mod bench;
mod cache;
mod check;
mod commit;
mod compare;
mod convert;
mod create;
mod dedup;
mod dump;
mod failure;
mod info;
mod map;
mod output;
mod progress;
mod rebase;
mod resize;
mod serve;
mod snapshot;
mod stop;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::failure::{Failure, Outcome};
use crate::output::Output;

const ABOUT: &str = "\
A format is always given and never guessed from what is in the file: whoever can write a raw disk could make it look \
like an image of another format, and have a file of this host read as its backing image. For the same reason the \
backing image that an image names is opened only with --with-backing.

Sizes are bytes, or have K, M, G or T behind the number.";

const STATUS: &str = "\
Exit status:
  0    done; for check: clean; for compare: equal
  1    it failed; for compare: the disks differ
  2    a mistake on the command line; for check: corrupt; for compare: it failed
  3    check: nothing is wrong, but some space is not used by anything
  63   check: images of this format cannot be checked
  130  stopped by Ctrl-C";

/// Make, show, check, convert and change disk images
#[derive(Debug, Parser)]
#[command(name = "sky-img", version, long_about = None, before_long_help = ABOUT, after_help = STATUS)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print the result as JSON, and an error as a JSON object on standard error
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(create::Create),
    Info(info::Info),
    Check(check::Check),
    Convert(convert::Convert),
    Map(map::Map),
    Resize(resize::Resize),
    Snapshot(snapshot::Snapshot),
    Rebase(rebase::Rebase),
    Commit(commit::Commit),
    Compare(compare::Compare),
    Bench(bench::Bench),
    Dump(dump::Dump),
    Dedup(dedup::Dedup),
    Cache(cache::Cache),
    Serve(Box<serve::Serve>),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(cli.json);
    let stop = match stop::on_signals() {
        Ok(stop) => stop,
        Err(error) => return output.failed(&Failure::System("watch for signals".into(), error), 1),
    };
    let result = match &cli.command {
        Command::Create(command) => command.run(output),
        Command::Info(command) => command.run(output),
        Command::Check(command) => command.run(output, &stop),
        Command::Convert(command) => command.run(output, &stop),
        Command::Map(command) => command.run(output, &stop),
        Command::Resize(command) => command.run(output),
        Command::Snapshot(command) => command.run(output),
        Command::Rebase(command) => command.run(output, &stop),
        Command::Commit(command) => command.run(output, &stop),
        Command::Compare(command) => command.run(output, &stop),
        Command::Dump(command) => command.run(output),
        Command::Bench(command) => command.run(output, &stop),
        Command::Dedup(command) => command.run(output, &stop),
        Command::Cache(command) => command.run(output),
        Command::Serve(command) => command.run(output),
    };
    // "It failed" and "they differ" must not look the same to a script.
    let failed = if matches!(cli.command, Command::Compare(_)) { 2 } else { 1 };
    match result {
        Ok(Outcome(status)) => ExitCode::from(status),
        Err(failure) => output.failed(&failure, failed),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        super::Cli::command().debug_assert();
    }
}
