//! `cargo results [NAME]`: runs a benchmark where it can run, shows its table and keeps its figures.

use std::process::ExitCode;

use clap::Parser;
use guest_tests::{Result, results};

/// Measure and compare. Without a name, the benchmarks are listed.
#[derive(Parser)]
#[command(name = "cargo results", bin_name = "cargo results")]
struct Args {
    /// Which benchmark
    name: Option<String>,
    /// Measure one part here and print its figures; this is how the program calls itself in the lab
    #[arg(long, hide = true, requires = "name")]
    part: Option<String>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let Some(name) = &args.name else {
        println!("Benchmarks (cargo results NAME):");
        for benchmark in results::ALL {
            println!("  {:<10} {}", benchmark.name, benchmark.about);
        }
        return Ok(());
    };
    let benchmark = results::find(name)?;
    if let Some(part) = &args.part {
        for (key, value) in benchmark.run_part(part)? {
            println!("{key}={value}");
        }
        return Ok(());
    }
    let figures = benchmark.run()?;
    print!("{}", results::table(benchmark, &figures));
    println!("\nwritten to {}", benchmark.save(&figures)?.display());
    Ok(())
}
