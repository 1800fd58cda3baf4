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
    /// Show what was measured last, measure nothing
    #[arg(long, requires = "name", conflicts_with = "part")]
    saved: bool,
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
    let figures = if args.saved { benchmark.saved()? } else { benchmark.run()? };
    if !benchmark.metrics.is_empty() {
        println!("{}", results::table(benchmark, &figures));
    }
    for chart in benchmark.charts {
        println!("{}", chart.tables(&figures));
    }
    if !args.saved {
        println!("written to {}", benchmark.save(&figures)?.display());
    }
    for path in benchmark.draw(&figures)? {
        println!("drawn in {}", path.display());
    }
    Ok(())
}
