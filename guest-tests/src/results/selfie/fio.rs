//! fio with its own NBD client, and what it found.

use std::time::Duration;

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
    /// Requests of each thread that wait for an answer at once. If there is more than one, writes are flushed at the
    /// end only.
    pub(super) depth: u32,
    /// How much of each piece compression takes away.
    pub(super) compressible_percent: u32,
    /// Bytes of such a piece.
    pub(super) piece: u64,
    /// Where on the disk, and how many bytes from there on; all of it if nothing is said.
    pub(super) span: Option<(u64, u64)>,
    /// Loads of different seeds go to different places.
    pub(super) seed: u64,
    /// It ends then, whether all requests were made or not.
    pub(super) limit: Duration,
}

/// No load takes as long.
const NO_LIMIT: Duration = Duration::from_secs(300);

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
            piece: 4096,
            span: None,
            // A warm-up, which is shorter, is to go to other places.
            seed: requests,
            limit: NO_LIMIT,
        }
    }

    /// Runs it against a server.
    pub(super) fn run(self, served: &Served) -> Result<Found> {
        Self::run_all(&[self], served)?.pop().ok_or_else(|| Error::Missing("fio's figures".into()))
    }

    /// Runs one after the other, with one start of fio.
    pub(super) fn run_all(loads: &[Self], served: &Served) -> Result<Vec<Found>> {
        let mut fio = ensure(Tool::Fio)?;
        fio.args(["--ioengine=nbd", "--thread", "--group_reporting", "--output-format=json"]);
        for load in loads {
            fio.args(["--name=load", "--stonewall"]).args(load.options(served));
        }
        let output = command::run(&mut fio)?;
        let text = String::from_utf8_lossy(&output);
        // Notes may stand before the JSON.
        let json = text.find('{').and_then(|start| serde_json::from_str(text.get(start..)?).ok());
        let found = json.as_ref().and_then(Found::read).filter(|found| found.len() == loads.len());
        found.ok_or_else(|| {
            Error::Missing(format!("fio printed no figures: {}", text.chars().take(500).collect::<String>()))
        })
    }

    fn options(self, served: &Served) -> Vec<String> {
        let (start, length) = self.span.unwrap_or((0, served.size));
        let part = length / u64::from(self.threads) / self.align * self.align;
        let mut options: Vec<String> = [
            ("uri", served.uri()),
            ("rw", self.pattern.into()),
            ("bs", self.block.to_string()),
            ("blockalign", self.align.to_string()),
            ("numjobs", self.threads.to_string()),
            ("iodepth", self.depth.to_string()),
            ("offset", start.to_string()),
            ("size", part.to_string()),
            ("offset_increment", part.to_string()),
            ("number_ios", self.requests.to_string()),
            ("runtime", format!("{}ms", self.limit.as_millis())),
            ("randseed", self.seed.to_string()),
        ]
        .into_iter()
        .map(|(option, value)| format!("--{option}={value}"))
        .collect();
        options.extend(["--refill_buffers".into(), "--norandommap".into()]);
        if self.compressible_percent > 0 {
            options.push(format!("--buffer_compress_percentage={}", self.compressible_percent));
            options.push(format!("--buffer_compress_chunk={}", self.piece));
            // Zeros would compress better than anything that is stored. Given earlier, it would be all there is.
            options.push("--buffer_pattern=\"a text. \"".into());
        }
        if self.pattern.ends_with("write") {
            // Each is flushed, or all at the end.
            options.push(if self.depth == 1 { "--fsync=1" } else { "--end_fsync=1" }.into());
        }
        options
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
    /// From the first request to the end of the last, with its flush.
    pub(super) seconds: f64,
}

impl Found {
    /// That of every load.
    fn read(json: &Value) -> Option<Vec<Self>> {
        json.get("jobs")?.as_array()?.iter().map(Self::job).collect()
    }

    fn job(job: &Value) -> Option<Self> {
        let side = |name: &str| job.get(name).filter(|side| side["total_ios"].as_u64() > Some(0));
        let io = side("write").or_else(|| side("read"))?;
        let p50 = |of: &Value| of["percentile"]["50.000000"].as_f64().map(|nanoseconds| nanoseconds / 1000.0);
        let flush = p50(&job["sync"]["lat_ns"]).unwrap_or(0.0);
        Some(Self {
            count: io["total_ios"].as_f64()?,
            iops: io["iops"].as_f64()?,
            p50: p50(&io["clat_ns"])? + flush,
            seconds: io["runtime"].as_f64()? / 1000.0,
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
            "write": { "total_ios": 100, "iops": 2500.5, "runtime": 40, "clat_ns": percentile(90_000) },
            "sync": { "lat_ns": percentile(60_000) },
        }] });
        assert_eq!(
            Found::read(&output),
            Some(vec![Found { count: 100.0, iops: 2500.5, p50: 150.0, seconds: 0.04 }])
        );
        assert_eq!(Found::read(&json!({ "jobs": [{}] })), None);
    }
}
