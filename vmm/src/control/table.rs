//! Replies as people want to read them.

use serde::Deserialize;
use serde_json::Value;
use sky::process::ProcessRule;

use super::client::ClientError;
use super::protocol::Request;

#[derive(Deserialize)]
struct Rule {
    rule: u64,
}

#[derive(Deserialize)]
struct Removed {
    processes: u64,
}

/// [`sky::Listing`] from the other side.
#[derive(Deserialize)]
struct Listing {
    rules: Vec<(u64, ProcessRule)>,
    processes: Vec<Process>,
    outstanding: u64,
}

#[derive(Deserialize)]
struct Process {
    pid: u32,
    executable: String,
    rule: u64,
}

/// The text for the reply to `request`.
pub(super) fn show(request: &Request, reply: Value) -> Result<String, ClientError> {
    let text = match request {
        Request::Add { rule } => format!("rule {}: {rule}", parse::<Rule>(reply)?.rule),
        Request::Remove { .. } => match parse::<Removed>(reply)?.processes {
            1 => "1 process is left alone".to_owned(),
            count => format!("{count} processes are left alone"),
        },
        Request::List {} => listing(&parse(reply)?),
        Request::Report { .. } | Request::Metrics {} => parse(reply)?,
        Request::Detach {} => "all traps are out of the guest".to_owned(),
        Request::Arm {} => "the traps are set".to_owned(),
    };
    Ok(harmless(&text))
}

fn parse<T: for<'a> Deserialize<'a>>(reply: Value) -> Result<T, ClientError> {
    serde_json::from_value(reply).map_err(|error| ClientError::Malformed(error.to_string()))
}

fn listing(listing: &Listing) -> String {
    let mut lines = vec![];
    if listing.rules.is_empty() {
        lines.push("no rules".to_owned());
    } else {
        lines.push("rule  what".to_owned());
        lines.extend(listing.rules.iter().map(|(number, rule)| format!("{number:>4}  {rule}")));
    }
    lines.push(String::new());
    if listing.processes.is_empty() {
        lines.push("no process is monitored".to_owned());
    } else {
        lines.push("    pid  rule  executable".to_owned());
        let process =
            |process: &Process| format!("{:>7}  {:>4}  {}", process.pid, process.rule, process.executable);
        lines.extend(listing.processes.iter().map(process));
    }
    lines.push(String::new());
    lines.push(format!("system calls on their way: {}", listing.outstanding));
    lines.join("\n")
}

/// Names come from the guest: they shall not talk to the terminal.
fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}
