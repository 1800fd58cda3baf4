//! The program `sky-vmm`: reads the command line, runs a machine or the self-test, and says how it went.

use std::fs::File;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use serde_json::json;
use sky_vmm::check;
use sky_vmm::cli::{Cli, Command, Run};
use sky_vmm::error::{Error, Result};
use sky_vmm::exit::STATUS_UNUSABLE;
use sky_vmm::machine::{Machine, Outcome};
use sky_vmm::monitor::Monitor;
use sky_vmm::vcpu::hook::{Extension, NoExtension};
use tracing::Level;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let level = match cli.verbose {
        0 => Level::WARN,
        1 => Level::INFO,
        _ => Level::DEBUG,
    };
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).init();
    ExitCode::from(match cli.command {
        Command::Check { json } => self_test(json),
        Command::Run(options) => match run(&options) {
            Ok(outcome) => ended(&outcome, options.json),
            Err(error) => failed(&error, options.json),
        },
    })
}

fn self_test(json: bool) -> u8 {
    let report = check::self_test();
    if json {
        println!("{}", json!(report));
    } else {
        println!("{report}");
    }
    if report.usable { 0 } else { STATUS_UNUSABLE }
}

fn run(options: &Run) -> Result<Outcome> {
    let config = options.options()?.complete()?;
    let report = if config.monitor.is_some() { check::self_test() } else { check::quick_test() };
    if !report.usable {
        return Err(Error::Unusable(Box::new(report)));
    }
    if config.monitor.is_some()
        && let Some(test) = report.obstacle_to_monitoring()
    {
        let message = format!("--monitor does not work on this /dev/kvm: {}: {}", test.name, test.detail);
        return Err(Error::Extension(message.into()));
    }
    // Before the run: after it, a mistake in the path would cost the counters.
    let stats = match &config.stats {
        Some(path) => {
            let failed = |source| Error::Io { operation: format!("writing {}", path.display()), source };
            Some((File::create(path).map_err(failed)?, failed))
        }
        None => None,
    };
    let outcome = match &config.monitor {
        None => Machine::new(&config, Arc::new(NoExtension))?.run()?,
        Some(path) => {
            let monitor = Arc::new(Monitor::load(path).map_err(|error| Error::Extension(error.into()))?);
            let outcome = Machine::new(&config, Arc::clone(&monitor) as Arc<dyn Extension>)?.run()?;
            if !options.json {
                eprint!("{}", monitor.report());
            }
            outcome
        }
    };
    if let Some((mut file, failed)) = stats {
        writeln!(file, "{:#}", json!(outcome.stats)).map_err(failed)?;
    }
    Ok(outcome)
}

fn ended(outcome: &Outcome, json: bool) -> u8 {
    let reason = &outcome.reason;
    if json {
        eprintln!(
            "{}",
            json!({ "exit": reason.name(), "status": reason.status(), "message": reason.to_string() })
        );
    } else if reason.status() != 0 {
        eprintln!("sky-vmm: {reason}");
    }
    reason.status()
}

fn failed(error: &Error, json: bool) -> u8 {
    if json {
        eprintln!("{}", json!({ "exit": "error", "status": error.status(), "message": error.to_string() }));
    } else {
        eprintln!("sky-vmm: {error}");
    }
    error.status()
}
