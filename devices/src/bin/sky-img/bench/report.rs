//! What a load has cost.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use sky_devices::block::StorageCounts;
use sky_devices::image::format_size;

use super::generator::{Load, Measured};

/// What the file below was asked to do for the load alone.
pub(super) fn since(before: StorageCounts, after: StorageCounts) -> StorageCounts {
    StorageCounts {
        writes: after.writes.saturating_sub(before.writes),
        written_bytes: after.written_bytes.saturating_sub(before.written_bytes),
        reads: after.reads.saturating_sub(before.reads),
        read_bytes: after.read_bytes.saturating_sub(before.read_bytes),
        syncs: after.syncs.saturating_sub(before.syncs),
        flushes: after.flushes.saturating_sub(before.flushes),
        punches: after.punches.saturating_sub(before.punches),
        grows: after.grows.saturating_sub(before.grows),
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
    host_syncs_per_request: f64,
    /// Of the writes of a Selfie image, those that are zeros written ahead.
    #[serde(skip_serializing_if = "Option::is_none")]
    zeroed_bytes_per_request: Option<f64>,
}

impl Report {
    pub(super) fn new(load: &Load, measured: &Measured, host: StorageCounts, zeroed: Option<u64>) -> Self {
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
            host_bytes_per_request: per_request(host.written_bytes),
            host_syncs_per_request: per_request(host.flushes),
            zeroed_bytes_per_request: zeroed.map(per_request),
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
            "host           {:.2} writes, {:.0} bytes and {:.2} syncs for each request",
            self.host_writes_per_request, self.host_bytes_per_request, self.host_syncs_per_request
        )?;
        match self.zeroed_bytes_per_request {
            Some(bytes) => write!(f, "; {bytes:.0} of the bytes are zeros ahead of use"),
            None => Ok(()),
        }
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
