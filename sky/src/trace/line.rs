//! Lines of a trace, in both formats.

use std::io::{self, Write};

use serde::Serialize;

use super::{Caller, TraceFormat};
use crate::observer::ProcessEvent;
use crate::syscall::{Decoded, Value};

/// A call; without an outcome it has not returned.
#[derive(Debug)]
pub(super) struct Entry {
    /// When it was entered, in nanoseconds since the log began.
    pub(super) time: u64,
    pub(super) caller: Caller,
    /// How long it took, in nanoseconds, if both ends were seen.
    pub(super) took: Option<u64>,
    pub(super) decoded: Decoded,
}

/// Something that happened to a process.
#[derive(Debug)]
pub(super) struct Event<'a> {
    /// In nanoseconds since the log began.
    pub(super) time: u64,
    pub(super) event: &'a ProcessEvent,
}

#[derive(Serialize)]
struct CallRecord<'a> {
    time_ns: u64,
    pid: u32,
    tid: u32,
    vcpu: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    took_ns: Option<u64>,
    call: &'a Decoded,
}

#[derive(Serialize)]
struct EventRecord<'a> {
    time_ns: u64,
    pid: u32,
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    executable: Option<&'a str>,
}

fn json(out: &mut impl Write, record: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, record)?;
    out.write_all(b"\n")
}

impl Entry {
    pub(super) fn write(&self, out: &mut impl Write, format: TraceFormat) -> io::Result<()> {
        let Self { time, caller, took, decoded } = self;
        let Caller { pid, tid, vcpu } = *caller;
        if format == TraceFormat::Json {
            return json(out, &CallRecord { time_ns: *time, pid, tid, vcpu, took_ns: *took, call: decoded });
        }
        if decoded.outcome.is_some() || !decoded.call.returns() {
            return writeln!(out, "{tid} {}", decoded.line());
        }
        // Who reads lines knows an unfinished call by the parenthesis that is not there.
        let text = decoded.to_string();
        let text = text.strip_suffix(')').unwrap_or(&text);
        writeln!(out, "{tid} {text} <unfinished ...>")
    }
}

impl Event<'_> {
    pub(super) fn write(&self, out: &mut impl Write, format: TraceFormat) -> io::Result<()> {
        let (pid, event, executable) = match self.event {
            ProcessEvent::Begins { pid, executable } => (*pid, "begins", Some(executable.as_str())),
            ProcessEvent::Ends { pid } => (*pid, "ends", None),
        };
        match (format, executable) {
            (TraceFormat::Json, _) => json(out, &EventRecord { time_ns: self.time, pid, event, executable }),
            // A name can hold anything but a slash and a NUL.
            (TraceFormat::Strace, Some(name)) => {
                writeln!(out, "{pid} +++ {event} {} +++", Value::bytes(name))
            }
            (TraceFormat::Strace, None) => writeln!(out, "{pid} +++ {event} +++"),
        }
    }
}
