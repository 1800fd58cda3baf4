//! Replies as people want to read them.

use serde::Deserialize;
use serde_json::Value;
use sky::process::ProcessRule;
use sky_devices::image::format_size;

use super::CacheAction;
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

#[derive(Deserialize)]
struct Disks {
    disks: Vec<Disk>,
}

#[derive(Deserialize)]
struct Disk {
    path: String,
    dedup: Option<Dedup>,
    cache: Option<Cache>,
}

#[derive(Deserialize)]
struct Dedup {
    saved_bytes: u64,
    mapped_blocks: u64,
    used_blocks: u64,
}

#[derive(Deserialize)]
struct Cache {
    classes: Vec<Class>,
    capacity_blocks: u64,
    dirty_blocks: u64,
    failed: bool,
}

#[derive(Deserialize)]
struct Class {
    id: u8,
    name: String,
    hits: u64,
    misses: u64,
    read_bytes: u64,
    written_bytes: u64,
    lines: u64,
}

#[derive(Deserialize)]
struct Size {
    size: u64,
}

#[derive(Deserialize)]
struct Blocks {
    blocks: Vec<(u64, u8, bool)>,
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
        Request::Disks {} => parse::<Disks>(reply)?.disks.iter().enumerate().map(disk).collect(),
        Request::Cache { action, .. } => match action {
            CacheAction::List => blocks(&parse(reply)?),
            CacheAction::Flush => "everything is written back".to_owned(),
            CacheAction::Clear => "the cache is empty".to_owned(),
            CacheAction::Resize(_) => format!("the cache has {}", format_size(parse::<Size>(reply)?.size)),
            CacheAction::Classes(_) => "the classes are taken".to_owned(),
        },
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

fn disk((number, disk): (usize, &Disk)) -> String {
    let size = |blocks: u64| format_size(blocks.saturating_mul(4096));
    let mut text = format!("disk {number}: {}\n", disk.path);
    if let Some(Dedup { saved_bytes, mapped_blocks, used_blocks }) = disk.dedup {
        let (mapped, used) = (size(mapped_blocks), size(used_blocks));
        text += &format!("  dedup: {mapped} of data in {used}, {} saved\n", format_size(saved_bytes));
    }
    if let Some(cache) = &disk.cache {
        let state = if cache.failed { ", and its fast tier has failed" } else { "" };
        let (capacity, dirty) = (size(cache.capacity_blocks), size(cache.dirty_blocks));
        text += &format!("  cache of {capacity}, {dirty} not written back{state}\n");
        text += "  class  name                          hits    misses        read     written        held\n";
        for class in &cache.classes {
            let Class { id, name, hits, misses, .. } = class;
            let [read, written] = [class.read_bytes, class.written_bytes].map(format_size);
            let held = size(class.lines);
            text +=
                &format!("  {id:>5}  {name:<24} {hits:>9} {misses:>9} {read:>11} {written:>11} {held:>11}\n");
        }
    }
    text
}

/// Blocks side by side with the same class and state are shown together.
fn blocks(blocks: &Blocks) -> String {
    let mut lines = vec!["         offset        length  class".to_owned()];
    let same = |a: &(u64, u8, bool), b: &(u64, u8, bool)| {
        a.0.checked_add(4096) == Some(b.0) && (a.1, a.2) == (b.1, b.2)
    };
    for run in blocks.blocks.chunk_by(same) {
        let Some((offset, class, dirty)) = run.first() else { continue };
        let state = if *dirty { "  not written back" } else { "" };
        lines.push(format!("{offset:>15}  {:>12}  {class:>5}{state}", run.len().saturating_mul(4096)));
    }
    lines.join("\n")
}

/// Names come from the guest: they shall not talk to the terminal.
fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}
