//! What writing to a Selfie image costs, and reading, and opening it after a crash.
//!
//! Everything happens in files below the target directory, on a real file system and disk. Counts are those of the
//! image's own file, and of the disk below where it says; times are medians of rounds that take turns.

mod disk;
mod load;
mod open;
mod rounds;

use super::{Benchmark, Goal, Metric, Part, Reference, Setting};

const DESIGN: &str = "C emulation";
const QCOW2: &str = "qcow2";
const PAPER: &str = "paper";

const fn metric(key: &'static str, unit: &'static str, goal: Option<Goal>) -> Metric {
    Metric { key, unit, reference: None, goal }
}

const fn beside(
    key: &'static str,
    unit: &'static str,
    source: &'static str,
    value: f64,
    goal: Option<Goal>,
) -> Metric {
    Metric { key, unit, reference: Some(Reference { source, value }), goal }
}

pub(super) const SELFIE: Benchmark = Benchmark {
    name: "selfie",
    about: "what a Selfie image costs: writes, flushes, reads, opening after a crash",
    metrics: &[
        beside("writes_per_alloc_4k", "", QCOW2, 3.0, Some(Goal::AtMost(1.0))),
        beside("flushes_per_alloc_4k", "", QCOW2, 2.0, Some(Goal::AtMost(1.0))),
        metric("zeroing_writes_per_alloc_4k", "", None),
        metric("zeroing_flushes_per_alloc_4k", "", None),
        beside("writes_per_alloc_64k", "", QCOW2, 3.0, Some(Goal::AtMost(1.0))),
        beside("flushes_per_alloc_64k", "", QCOW2, 2.0, Some(Goal::AtMost(1.0))),
        beside("writes_per_incompressible_4k", "", QCOW2, 3.0, None),
        beside("flushes_per_incompressible_4k", "", QCOW2, 2.0, None),
        beside("device_writes_per_alloc_4k", "", QCOW2, 6.0, Some(Goal::AtMost(2.3))),
        beside("device_flushes_per_alloc_4k", "", QCOW2, 3.0, Some(Goal::AtMost(1.05))),
        beside("device_kib_per_alloc_4k", "KiB", QCOW2, 156.0, Some(Goal::AtMost(90.0))),
        metric("vs_raw_written.4k_rand_t1", "", Some(Goal::AtLeast(0.9))),
        metric("vs_raw_written.4k_rand_t8", "", Some(Goal::AtLeast(0.9))),
        metric("read_vs_raw.seq", "", Some(Goal::AtLeast(0.95))),
        metric("read_vs_raw.rand", "", Some(Goal::AtLeast(0.95))),
        beside("ablation.all.t1_us", "µs", DESIGN, 140.0, None),
        beside("ablation.all.t8_us", "µs", DESIGN, 316.0, None),
        beside("ablation.tables.t1_us", "µs", DESIGN, 204.0, None),
        beside("ablation.tables.t8_us", "µs", DESIGN, 956.0, None),
        beside("ablation.ordered_tables.t1_us", "µs", DESIGN, 280.0, None),
        beside("ablation.ordered_tables.t8_us", "µs", DESIGN, 1065.0, None),
        beside("ablation.sparse.t1_us", "µs", DESIGN, 275.0, None),
        beside("ablation.sparse.t8_us", "µs", DESIGN, 1124.0, None),
        beside("recovery_128g_seconds", "s", PAPER, 1.9, Some(Goal::AtMost(0.5))),
        metric("mib_per_mapped_tib", "MiB", Some(Goal::AtMost(256.0))),
    ],
    parts: &[
        Part { name: "counts", setting: Setting::Anywhere, measure: load::counts },
        Part { name: "against-raw", setting: Setting::Anywhere, measure: rounds::against_raw },
        Part { name: "reads", setting: Setting::Anywhere, measure: rounds::reads },
        Part { name: "ablation", setting: Setting::Anywhere, measure: rounds::ablation },
        Part { name: "recovery", setting: Setting::Anywhere, measure: open::recovery },
    ],
};
