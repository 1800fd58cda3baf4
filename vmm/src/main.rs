//! The program `sky-vmm`: reads the command line, runs a machine or the self-test, and says how it went.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use serde_json::json;
use sky::Summary;
use sky::config::MechanismChoice;
use sky::observer::Observer;
use sky_vmm::block_log::BlockLog;
use sky_vmm::check;
use sky_vmm::cli::{Cli, Command, Run};
use sky_vmm::config::VmConfig;
use sky_vmm::control::{self, ControlSocket, Running};
use sky_vmm::error::{Error, Result};
use sky_vmm::exit::STATUS_UNUSABLE;
use sky_vmm::machine::{Machine, OpenDisks, Outcome};
use sky_vmm::monitor::{Monitor, open_trace};
use sky_vmm::periodic::Periodic;
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
        Command::Monitor(options) => control::run(&options.control, &options.request(), options.json),
        Command::Disk(options) => match options.request() {
            Ok(request) => control::run(&options.control, &request, options.json),
            Err(source) => failed(&Error::Io { operation: "taking classes".into(), source }, options.json),
        },
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
    // Mistakes of the user come before what may be wrong with the host.
    let monitored = match (&config.monitor, &config.control) {
        (Some(path), _) => Some(sky::Config::load(path).map_err(|error| Error::Extension(error.into()))?),
        // Nobody is monitored yet.
        (None, Some(_)) => Some(sky::Config::default()),
        (None, None) => None,
    };
    let report = if monitored.is_some() { check::self_test() } else { check::quick_test() };
    if !report.usable {
        return Err(Error::Unusable(Box::new(report)));
    }
    // Before the run: after it, a mistake in the path would cost the counters.
    let stats = match &config.stats {
        Some(path) => {
            let failed = |source| Error::Io { operation: format!("writing {}", path.display()), source };
            Some((File::create(path).map_err(failed)?, failed))
        }
        None => None,
    };
    let outcome = match monitored {
        None => Machine::new(&config, Arc::new(NoExtension))?.run()?,
        Some(mut monitored) => {
            monitored.trap.mechanism = mechanism(&report, monitored.trap.mechanism)?;
            run_monitored(&config, monitored, options.json)?
        }
    };
    if let Some((mut file, failed)) = stats {
        writeln!(file, "{:#}", json!(outcome.stats)).map_err(failed)?;
    }
    Ok(outcome)
}

/// What stops the guest, of that which works here.
fn mechanism(report: &check::Report, choice: MechanismChoice) -> Result<MechanismChoice> {
    let refused = |what: &str, test: &check::TestResult| {
        let message = format!("{what} does not work on this /dev/kvm: {}: {}", test.name, test.detail);
        Error::Extension(message.into())
    };
    if let Some(test) = report.obstacle_to_monitoring() {
        return Err(refused("--monitor", test));
    }
    report.mechanism(choice).map_err(|test| refused("the mechanism that [trap] asks for", test))
}

fn run_monitored(config: &VmConfig, monitored: sky::Config, json: bool) -> Result<Outcome> {
    let io = |operation: &str, path: &Path| {
        let operation = format!("{operation} {}", path.display());
        move |source| Error::Io { operation, source }
    };
    let trace = match &config.trace {
        Some(spec) => Some(Arc::new(open_trace(spec).map_err(io("writing", &spec.path))?)),
        None => None,
    };
    let observers = trace.iter().map(|trace| Arc::clone(trace) as Arc<dyn Observer>).collect();
    let mut monitor = Monitor::new(monitored, observers);
    let log = match &config.block_log {
        Some(path) => Some((path, Arc::new(BlockLog::create(path).map_err(io("writing", path))?))),
        None => None,
    };
    if let Some((_, log)) = &log {
        monitor = monitor.with_log(Arc::clone(log));
    }
    let monitor = Arc::new(monitor);
    let disks = OpenDisks::default();
    let control = match &config.control {
        Some(path) => {
            let running = Running { sky: Arc::clone(monitor.sky()), disks: disks.clone() };
            Some(ControlSocket::listen(path, Arc::new(running)).map_err(io("listening at", path))?)
        }
        None => None,
    };
    let periodic = config.report_every.map(|interval| {
        let sky = Arc::clone(monitor.sky());
        Periodic::start(interval, move |seconds| {
            let summary = Summary::from(&sky.report());
            if json {
                eprintln!("{}", json!({ "seconds": seconds, "seen": summary }));
            } else {
                eprintln!("sky: {seconds} s: {summary}");
            }
        })
    });
    let mut ran = Machine::new(config, Arc::clone(&monitor) as Arc<dyn Extension>).and_then(|mut machine| {
        machine.lend_disks(&disks);
        machine.run()
    });
    drop(control);
    drop(periodic);
    if let Some(trace) = trace {
        // It was told when it happened, unless it happened just now; the run itself went well.
        let _ = trace.finish();
    }
    if let Some((path, log)) = log {
        monitor.sky().known_blocks(&mut |disk, offset, tag| log.known(disk, offset, tag));
        ran = ran.and_then(|outcome| log.finish().map_err(io("writing", path)).map(|()| outcome));
    }
    if ran.is_ok() && !json {
        eprint!("{}", monitor.report());
    }
    ran
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
