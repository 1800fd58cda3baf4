//! An observer that asks: sky-vmm with insight-calls at every `getpriority` of the monitored processes.
//!
//! Takes the options of `sky-vmm run`, with `--monitor`. At the entry and at the return of each call it lets the thread
//! make every kind of insight-call, with the call's first argument for a file descriptor, and prints the answers as one
//! line of JSON for each; the counters follow in the end.
//!
//! For measurements: `SKY_PROBE_CALL=N` chooses another call, and `SKY_PROBE_ASKS` what is asked at its entry: `pid`
//! or `nothing`.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use clap::Parser;
use serde_json::json;
use sky::Config;
use sky::call::{
    Fcntl, Fd, Fstat, Getcwd, Getpid, Gettid, Lseek, Newfstatat, Pread64, Readlinkat, Refused, Stat, Thread,
};
use sky::observer::{Call, CallSet, Inquiry, Observer};
use sky::syscall::Outcome;
use sky_vmm::cli::{Cli, Command};
use sky_vmm::machine::Machine;
use sky_vmm::monitor::Monitor;
use sky_vmm::vcpu::hook::Extension;

const GETPRIORITY: u64 = 140;

/// Different answers, and how often each was given.
type Answers = Arc<Mutex<BTreeMap<String, u64>>>;

struct Probe {
    call: u64,
    asks: Option<String>,
    answers: Answers,
}

impl Observer for Probe {
    fn wants(&self) -> CallSet {
        [self.call].into_iter().collect()
    }

    fn entered(&self, call: &Call<'_>) -> Option<Inquiry> {
        match self.asks.as_deref() {
            None => Some(self.ask("entered", call)),
            Some("pid") => {
                let thread = call.thread();
                Some(Box::pin(async move {
                    let _ = thread.call(Getpid).await;
                }))
            }
            Some(_) => None,
        }
    }

    fn returned(&self, call: &Call<'_>, _: Outcome) -> Option<Inquiry> {
        self.asks.is_none().then(|| self.ask("returned", call))
    }
}

impl Probe {
    fn ask(&self, when: &'static str, call: &Call<'_>) -> Inquiry {
        let (thread, answers) = (call.thread(), Arc::clone(&self.answers));
        let fd = i32::try_from(call.raw.args[0]).unwrap_or(-1);
        Box::pin(async move {
            let answer = match interview(&thread, fd).await {
                Ok(answer) => answer,
                Err(refused) => json!({ "refused": refused.to_string() }),
            };
            let line = json!({ "when": when, "answer": answer }).to_string();
            *answers.lock().unwrap_or_else(PoisonError::into_inner).entry(line).or_default() += 1;
        })
    }
}

async fn interview(thread: &Thread, fd: i32) -> Result<serde_json::Value, Refused> {
    let stat = |stat: Stat| format!("{} {} {} {}", stat.device, stat.inode, stat.mode, stat.size);
    let link = thread.call(Readlinkat { link: Fd::Number(fd) }).await?;
    Ok(json!({
        "PID": thread.call(Getpid).await?.to_string(),
        "TID": thread.call(Gettid).await?.to_string(),
        "CWD": thread.call(Getcwd).await?,
        "EXE": thread.call(Readlinkat { link: Fd::Executable }).await?,
        "OFFSET": thread.call(Lseek { fd }).await?.to_string(),
        "FLAGS": thread.call(Fcntl { fd }).await?.to_string(),
        "STAT": stat(thread.call(Fstat { fd }).await?),
        "stat_by_path": stat(thread.call(Newfstatat { directory: None, path: link.clone() }).await?),
        "LINK": link,
        "content": String::from_utf8_lossy(&thread.call(Pread64 { fd, count: 4096, offset: 8 }).await?),
        "bad": thread.call(Fstat { fd: 999 }).await.err().map(|refused| refused.to_string()),
    }))
}

fn run() -> Result<u8, Box<dyn std::error::Error>> {
    let Command::Run(options) = Cli::parse().command else { return Err("only run is possible".into()) };
    let config = options.options()?.complete()?;
    let path = config.monitor.clone().ok_or("--monitor is needed")?;
    let answers = Answers::default();
    let number = std::env::var("SKY_PROBE_CALL").ok();
    let probe = Arc::new(Probe {
        call: number.map_or(Ok(GETPRIORITY), |number| number.parse())?,
        asks: std::env::var("SKY_PROBE_ASKS").ok(),
        answers: Arc::clone(&answers),
    });
    let monitor = Arc::new(Monitor::new(Config::load(&path)?, vec![probe]));
    let outcome = Machine::new(&config, Arc::clone(&monitor) as Arc<dyn Extension>)?.run()?;
    if outcome.reason.status() != 0 {
        eprintln!("sky-vmm: {}", outcome.reason);
    }
    for (line, times) in answers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        eprintln!("{times} {line}");
    }
    eprintln!("{}", json!(monitor.report()));
    Ok(outcome.reason.status())
}

fn main() -> ExitCode {
    match run() {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
