//! What a load has cost.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use sky_devices::image::{Image, format_size};

use super::generator::{Load, Measured};

/// Counters of the file below.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Counts {
    /// System calls of this process that write, as the kernel counts them.
    pub(super) writes: u64,
    /// Bytes that they wrote.
    pub(super) bytes: u64,
}

impl Counts {
    /// The counters of this process. Nothing else in it writes while a load runs.
    pub(super) fn now(_image: &Image) -> Self {
        let text = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            line.and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        Self { writes: field("syscw"), bytes: field("wchar") }
    }

    pub(super) fn since(self, before: Self) -> Self {
        let Self { writes, bytes } = before;
        Self { writes: self.writes.saturating_sub(writes), bytes: self.bytes.saturating_sub(bytes) }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Report {
    requests: usize,
    request_bytes: u64,
    depth: u64,
    flushes: u64,
    seconds: f64,
    iops: f64,
    p50_microseconds: f64,
    p99_microseconds: f64,
    host_writes_per_request: f64,
    host_bytes_per_request: f64,
}

impl Report {
    pub(super) fn new(load: &Load, measured: &Measured, host: Counts) -> Self {
        let requests = measured.latencies.len();
        let seconds = measured.elapsed.as_secs_f64();
        let per_request = |count: u64| count as f64 / requests.max(1) as f64;
        Self {
            requests,
            request_bytes: load.size,
            depth: load.depth,
            flushes: measured.flushes,
            seconds,
            iops: if seconds > 0.0 { requests as f64 / seconds } else { 0.0 },
            p50_microseconds: percentile(&measured.latencies, 50),
            p99_microseconds: percentile(&measured.latencies, 99),
            host_writes_per_request: per_request(host.writes),
            host_bytes_per_request: per_request(host.bytes),
        }
    }
}

/// The latency that `percent` of a hundred requests stay within, in microseconds; `latencies` are in order.
fn percentile(latencies: &[Duration], percent: usize) -> f64 {
    let at = (latencies.len() * percent).div_ceil(100).saturating_sub(1);
    latencies.get(at).map_or(0.0, |latency| latency.as_secs_f64() * 1e6)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = format_size(self.request_bytes);
        writeln!(
            f,
            "requests       {} of {size}, {} in flight, {} flushes",
            self.requests, self.depth, self.flushes
        )?;
        writeln!(f, "time           {:.3} s, {:.0} requests per second", self.seconds, self.iops)?;
        writeln!(
            f,
            "latency        {:.1} µs (p50), {:.1} µs (p99)",
            self.p50_microseconds, self.p99_microseconds
        )?;
        write!(
            f,
            "host           {:.2} writes and {:.0} bytes for each request",
            self.host_writes_per_request, self.host_bytes_per_request
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_requests_that_were_made() {
        let latencies: Vec<_> = (1..=100).map(Duration::from_micros).collect();
        assert_eq!((percentile(&latencies, 50), percentile(&latencies, 99)), (50.0, 99.0));
        assert_eq!(percentile(&latencies[..1], 50), 1.0);
        assert_eq!(percentile(&[], 99), 0.0);
    }
}
