//! A mail server, a web server and the unpacking of an archive: the simulated time of all that they ask of the disk.

use super::find::{disks, size_in_bytes};
use super::policies::Classless;
use super::replay::{NoCache, Ours, System, Theirs};
use super::trace::Trace;
use super::workloads::Workload;
use crate::error::Result;
use crate::progress;
use crate::results::Figures;

/// Sizes of the cache, in MiB.
pub(super) const SIZES: [&str; 5] = ["16", "32", "64", "128", "256"];
/// Phases of traces.
const LOADS: [(Workload, &str); 3] =
    [(Workload::Mail, "mail"), (Workload::Sources, "web"), (Workload::Untar, "untar")];

/// Simulated seconds of a phase.
fn run(system: &mut dyn System, trace: &Trace, phase: &str) -> Result<f64> {
    trace.phase(phase)?.requests.iter().try_for_each(|&request| system.request(request))?;
    Ok(system.seconds())
}

/// Every cache at every size.
pub(super) fn measure() -> Result<Figures> {
    let mut figures = Figures::new();
    for (workload, load) in LOADS {
        let trace = workload.trace()?;
        let alone = run(&mut NoCache::new(&trace, disks()), &trace, load)?;
        let requests = &trace.phase(load)?.requests;
        let reads = requests.iter().filter(|request| !request.write).count();
        figures.insert(format!("{load}.reads"), reads as f64);
        figures.insert(format!("{load}.writes"), (requests.len() - reads) as f64);
        let mut worst = f64::INFINITY;
        for size in SIZES {
            progress::note(&format!("{load} with a cache of {size} MiB"));
            let mut store = |name: &str, seconds: f64| {
                figures.insert(format!("icache-loads.{load}.{name}.{size}"), seconds);
            };
            let mut cache = Ours::new(size_in_bytes(size)?, &trace, disks())?;
            let capacity = cache.capacity();
            let ours = run(&mut cache, &trace, load)?;
            store("ours", ours);
            store("none", alone);
            let mut best = f64::INFINITY;
            for policy in Classless::ALL {
                let theirs = run(&mut Theirs::new(policy, capacity, &trace, disks()), &trace, load)?;
                store(policy.key(), theirs);
                best = best.min(theirs);
            }
            worst = worst.min(best / ours);
        }
        figures.insert(format!("{load}.over_best_classless"), worst);
    }
    Ok(figures)
}
