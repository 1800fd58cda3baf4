//! The program `sky-img`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod serve;

/// Makes, inspects and serves disk images
#[derive(Debug, Parser)]
#[command(name = "sky-img", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(Box<serve::Serve>),
}

fn main() -> ExitCode {
    let Command::Serve(serve) = Cli::parse().command;
    match serve.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sky-img: {error}");
            ExitCode::FAILURE
        }
    }
}
