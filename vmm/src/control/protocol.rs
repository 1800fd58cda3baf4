//! What is said on the socket: one line of JSON for a request, one for its reply.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sky::Removal;
use sky::process::ProcessRule;

use super::{CacheAction, Controls};

/// The longest request, in bytes, without the end of its line.
pub const MAX_LINE: usize = 64 << 10;

/// A request.
///
/// ```text
/// {"command":"add","rule":{"executable":"writer","children":true}}   {"ok":{"rule":1}}
/// {"command":"remove","rule":1}        or "pid":42, or "all":true     {"ok":{"processes":1}}
/// {"command":"list"}                   rules, processes, calls        {"ok":{"rules":[..],"processes":[..],..}}
/// {"command":"report"}                 with "text":true for people    {"ok":{..}}
/// {"command":"metrics"}                counters for Prometheus        {"ok":"# HELP .."}
/// {"command":"detach"}                 all traps out of the guest     {"ok":{}}
/// {"command":"arm"}                    and in again                   {"ok":{}}
/// {"command":"disks"}                  what their layers have done    {"ok":{"disks":[{"path":..,"cache":{..}}]}}
/// {"command":"cache","disk":0,"action":"flush"}      or "clear"       {"ok":{}}
///                             "action":"list"   offset, class, dirty  {"ok":{"blocks":[[4096,5,false],..]}}
///                             "action":{"resize":1073741824}  bytes   {"ok":{"size":1073741824}}
///                             "action":{"classes":"IO class id,.."}   {"ok":{}}
/// ```
///
/// What cannot be done is answered by `{"error":"why"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// Also monitor what a rule names.
    Add {
        /// The rule, with the keys of a `[[process]]` table of `--monitor`.
        rule: ProcessRule,
    },
    /// Leave processes alone; exactly one of the three says which.
    Remove {
        /// Those of the rule of this number.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<u64>,
        /// The one of this process id.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pid: Option<u32>,
        /// All of them.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        all: bool,
    },
    /// Rules and processes.
    List {},
    /// What was seen so far.
    Report {
        /// As a text with tables.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        text: bool,
    },
    /// What was seen so far, in the text format of Prometheus.
    Metrics {},
    /// Take every trap out of the guest, and forget the rules.
    Detach {},
    /// Set the traps again, with the rules of the `--monitor` file.
    Arm {},
    /// What the layers of the disks have done.
    Disks {},
    /// Do something with the cache of a disk.
    Cache {
        /// The disk, from 0.
        disk: usize,
        /// What.
        action: CacheAction,
    },
}

/// Carries out the request that `line` holds. Gives the reply, without the end of its line.
#[must_use]
pub fn answer(controls: &dyn Controls, line: &[u8]) -> String {
    let result = serde_json::from_slice(line)
        .map_err(|error| format!("this is no request: {error}"))
        .and_then(|request| carry_out(controls, &request));
    match result {
        Ok(value) => json!({ "ok": value }).to_string(),
        Err(error) => failure(&error),
    }
}

/// The reply to what cannot be done.
pub(super) fn failure(error: &str) -> String {
    json!({ "error": error }).to_string()
}

fn carry_out(controls: &dyn Controls, request: &Request) -> Result<Value, String> {
    let value = match request {
        Request::Add { rule } => controls.add(rule).map(|rule| json!({ "rule": rule })),
        Request::Remove { rule, pid, all } => {
            let what = match (rule, pid, all) {
                (Some(rule), None, false) => Removal::Rule(*rule),
                (None, Some(pid), false) => Removal::Process(*pid),
                (None, None, true) => Removal::All,
                _ => return Err("remove takes one of rule, pid and all".to_owned()),
            };
            controls.remove(what).map(|processes| json!({ "processes": processes }))
        }
        Request::List {} => controls.list().map(|listing| json!(listing)),
        Request::Report { text: false } => Ok(json!(controls.report())),
        Request::Report { text: true } => Ok(json!(controls.report().to_string())),
        Request::Metrics {} => Ok(json!(controls.report().prometheus())),
        Request::Disks {} => Ok(json!({ "disks": controls.disks() })),
        Request::Cache { disk, action } => return controls.cache(*disk, action),
        Request::Detach {} => controls.detach().map(|()| json!({})),
        Request::Arm {} => match controls.arm() {
            Err(sky::Error::NotArmed) => {
                let problem = controls.report().problem;
                return Err(problem.unwrap_or_else(|| sky::Error::NotArmed.to_string()));
            }
            result => result.map(|()| json!({})),
        },
    };
    value.map_err(|error| error.to_string())
}
