//! `cargo results [NAME]`: runs a benchmark where it can run, shows its table and keeps its figures.

use std::process::ExitCode;

use clap::Parser;
use guest_tests::Result;
use guest_tests::results::{self, Figures};

/// Measure and compare. Without a name, the benchmarks are listed.
#[derive(Parser)]
#[command(name = "cargo results", bin_name = "cargo results")]
struct Args {
    /// Which benchmark
    name: Option<String>,
    /// Measure only these parts, print their figures, and keep nothing
    #[arg(long, value_name = "PART", value_delimiter = ',', requires = "name", conflicts_with_all = ["part", "saved"])]
    only: Vec<String>,
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

/// As lines that another process reads.
fn print(figures: &Figures) {
    for (key, value) in figures {
        println!("{key}={value}");
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
        print(&benchmark.run_part(part)?);
        return Ok(());
    }
    if !args.only.is_empty() {
        print(&benchmark.run(&args.only)?);
        return Ok(());
    }
    let figures = if args.saved { benchmark.saved()? } else { benchmark.run(&[])? };
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
