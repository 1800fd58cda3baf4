//! fio with its own NBD client, and what it found.

use serde_json::Value;

use super::image::Served;
use crate::command;
use crate::error::{Error, Result};
use crate::packages::{Tool, ensure};

/// A load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// fio's name of the pattern.
    pub(super) pattern: &'static str,
    /// Writers or readers, each with a connection and a part of the disk.
    pub(super) threads: u32,
    /// Bytes of a request.
    pub(super) block: u64,
    /// Bytes between the places of requests: a cluster, if each is to allocate one.
    pub(super) align: u64,
    /// Requests of each thread.
    pub(super) requests: u64,
    /// Requests of each thread that wait for an answer at once.
    pub(super) depth: u32,
    /// How much of a block compression takes away.
    pub(super) compressible_percent: u32,
    /// The first bytes of the disk that are used; all if nothing is said.
    pub(super) span: Option<u64>,
}

impl Load {
    /// Writes of 4 KiB at random, each to a cluster that was never written, each followed by a flush.
    pub(super) fn allocating(threads: u32, requests: u64) -> Self {
        Self {
            pattern: "randwrite",
            threads,
            block: 4096,
            align: 65536,
            requests,
            depth: 1,
            compressible_percent: 50,
            span: None,
        }
    }

    /// Runs it against a server.
    pub(super) fn run(self, served: &Served) -> Result<Found> {
        let mut fio = ensure(Tool::Fio)?;
        fio.args(["--name=load", "--ioengine=nbd", "--thread", "--group_reporting", "--output-format=json"]);
        fio.args(["--refill_buffers", "--buffer_compress_chunk=4k"]);
        let part = self.span.unwrap_or_else(|| served.kind.size()) / u64::from(self.threads);
        for (option, value) in [
            ("uri", served.uri()),
            ("rw", self.pattern.into()),
            ("bs", self.block.to_string()),
            ("blockalign", self.align.to_string()),
            ("numjobs", self.threads.to_string()),
            ("iodepth", self.depth.to_string()),
            ("size", part.to_string()),
            ("offset_increment", part.to_string()),
            ("number_ios", self.requests.to_string()),
            // A warm-up, which is shorter, is to go to other places.
            ("randseed", self.requests.to_string()),
            ("buffer_compress_percentage", self.compressible_percent.to_string()),
        ] {
            fio.arg(format!("--{option}={value}"));
        }
        if self.pattern.ends_with("write") && self.depth == 1 {
            fio.arg("--fsync=1");
        }
        let output = command::run(&mut fio)?;
        let text = String::from_utf8_lossy(&output);
        // Notes may stand before the JSON.
        let json = text.find('{').and_then(|start| serde_json::from_str(text.get(start..)?).ok());
        json.as_ref().and_then(Found::read).ok_or_else(|| {
            Error::Missing(format!("fio printed no figures: {}", text.chars().take(500).collect::<String>()))
        })
    }
}

/// What fio measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Found {
    /// Requests.
    pub(super) count: f64,
    /// Requests per second, flushes not counted.
    pub(super) iops: f64,
    /// Half of the requests take no longer, with their flush; in microseconds.
    pub(super) p50: f64,
}

impl Found {
    fn read(json: &Value) -> Option<Self> {
        let job = json.get("jobs")?.get(0)?;
        let side = |name: &str| job.get(name).filter(|side| side["total_ios"].as_u64() > Some(0));
        let io = side("write").or_else(|| side("read"))?;
        let p50 = |of: &Value| of["percentile"]["50.000000"].as_f64().map(|nanoseconds| nanoseconds / 1000.0);
        let flush = p50(&job["sync"]["lat_ns"]).unwrap_or(0.0);
        Some(Self {
            count: io["total_ios"].as_f64()?,
            iops: io["iops"].as_f64()?,
            p50: p50(&io["clat_ns"])? + flush,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn figures_are_found_where_fio_puts_them() {
        let percentile = |ns: u32| json!({ "percentile": { "50.000000": ns } });
        let output = json!({ "jobs": [{
            "read": { "total_ios": 0 },
            "write": { "total_ios": 100, "iops": 2500.5, "clat_ns": percentile(90_000) },
            "sync": { "lat_ns": percentile(60_000) },
        }] });
        assert_eq!(Found::read(&output), Some(Found { count: 100.0, iops: 2500.5, p50: 150.0 }));
        assert_eq!(Found::read(&json!({ "jobs": [] })), None);
    }
}
