//! The command line of `sky-vmm monitor`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use sky::process::{Parent, ProcessRule};

use crate::control::Request;

/// Change what is monitored while the guest runs.
///
/// Speaks to a `sky-vmm run --control PATH`. What runs already is monitored from the moment at which a rule names it.
#[derive(Debug, Args)]
pub struct Monitor {
    /// The socket of the running sky-vmm
    #[arg(long, value_name = "PATH")]
    pub control: PathBuf,
    /// Print the reply as one line of JSON, an error as one on standard error
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// What to do with a running guest.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Also monitor the processes that a new rule names, and print the rule's number
    ///
    /// All conditions of a rule must hold. Patterns are those of a shell: `*`, `?`, `[a-z]`.
    Add(Add),
    /// Leave processes alone
    Remove(Remove),
    /// Show the rules and the processes that are monitored
    List,
    /// Show what was seen so far
    Report,
    /// Print the counters in the text format of Prometheus
    Metrics,
    /// Take all traps out of the guest, and forget the rules; the guest runs on
    Detach,
    /// Set the traps again after `detach`, with the rules of the --monitor file
    Arm,
}

/// A rule.
#[derive(Debug, Args)]
pub struct Add {
    #[command(flatten)]
    conditions: Conditions,
    /// Also all processes that these start, whatever those execute
    #[arg(long)]
    children: bool,
}

/// At least one of them is needed.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Conditions {
    /// File name of the executable; with a slash in the pattern, its path
    #[arg(long, value_name = "PATTERN")]
    executable: Option<String>,
    /// Command line, arguments separated by blanks
    #[arg(long, value_name = "PATTERN")]
    command: Option<String>,
    /// Executable of the parent, or its process id
    #[arg(long, value_name = "PATTERN|PID")]
    parent: Option<String>,
    /// Process id, as the guest's process 1 sees it
    #[arg(long, value_name = "N")]
    pid: Option<u32>,
}

/// What to leave alone.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Remove {
    /// The rule of this number, and the processes that it has chosen
    rule: Option<u64>,
    /// One process; its rule stays
    #[arg(long, value_name = "N")]
    pid: Option<u32>,
    /// All rules and all processes
    #[arg(long)]
    all: bool,
}

impl Monitor {
    /// The request to make.
    #[must_use]
    pub fn request(&self) -> Request {
        match &self.action {
            Action::Add(Add { conditions, children }) => {
                let Conditions { executable, command, parent, pid } = conditions;
                let parent = parent.as_ref().map(|text| match text.parse() {
                    Ok(pid) => Parent::Pid(pid),
                    Err(_) => Parent::Executable(text.clone()),
                });
                let (executable, command) = (executable.clone(), command.clone());
                Request::Add {
                    rule: ProcessRule { executable, command, parent, pid: *pid, children: *children },
                }
            }
            Action::Remove(Remove { rule, pid, all }) => {
                Request::Remove { rule: *rule, pid: *pid, all: *all }
            }
            Action::List => Request::List {},
            Action::Report => Request::Report { text: !self.json },
            Action::Metrics => Request::Metrics {},
            Action::Detach => Request::Detach {},
            Action::Arm => Request::Arm {},
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn request(arguments: &str) -> Result<Request, clap::Error> {
        let words = "sky-vmm monitor --control s ".split(' ').filter(|word| !word.is_empty());
        let cli = Cli::try_parse_from(words.chain(arguments.split(' ')))?;
        let Command::Monitor(monitor) = cli.command else { panic!("not monitor") };
        Ok(monitor.request())
    }

    #[test]
    fn requests_are_what_was_asked_for() {
        let all = request("add --executable a* --command x --parent sh --pid 7 --children").unwrap();
        let rule = ProcessRule {
            executable: Some("a*".into()),
            command: Some("x".into()),
            parent: Some(Parent::Executable("sh".into())),
            pid: Some(7),
            children: true,
        };
        assert_eq!(all, Request::Add { rule });
        let rule = ProcessRule { parent: Some(Parent::Pid(1)), ..ProcessRule::default() };
        assert_eq!(request("add --parent 1").unwrap(), Request::Add { rule });
        assert_eq!(request("remove 3").unwrap(), Request::Remove { rule: Some(3), pid: None, all: false });
        assert_eq!(request("remove --all").unwrap(), Request::Remove { rule: None, pid: None, all: true });
        assert_eq!(request("report").unwrap(), Request::Report { text: true });
        assert_eq!(request("report --json").unwrap(), Request::Report { text: false });
        assert_eq!(request("list").unwrap(), Request::List {});
        assert_eq!(request("metrics").unwrap(), Request::Metrics {});
    }

    #[test]
    fn mistakes_are_usage_errors() {
        for arguments in [
            "add",
            "add --children",
            "add --pid x",
            "remove",
            "remove 1 --all",
            "remove --pid 1 --all",
            "fly",
        ] {
            assert_eq!(request(arguments).unwrap_err().exit_code(), 2, "{arguments}");
        }
    }
}
