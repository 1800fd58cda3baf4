//! What a synchronous write costs on a Selfie image and on other people's, served over NBD to the same fio; and what it
//! costs the engine by itself, with each of the format's ideas taken away in turn.
//!
//! Times are of one host at one moment, so they are compared only with those of the same round: the images take turns,
//! and a ratio is the median of the rounds' ratios. Counts are exact.

mod counts;
mod device;
mod figures;
mod fio;
mod image;
mod load;
mod open;
mod ratios;
mod rounds;
mod sweep;

pub(super) use figures::FIGURES;
pub(super) use load::{Folder, failed};

use super::{Benchmark, Goal, Metric, Part, Reference, Setting};

const fn metric(key: &'static str, unit: &'static str, goal: Option<Goal>) -> Metric {
    Metric { key, unit, reference: None, goal }
}

const fn at_least(key: &'static str, limit: f64) -> Metric {
    metric(key, "", Some(Goal::AtLeast(limit)))
}

const fn at_most(key: &'static str, unit: &'static str, limit: f64) -> Metric {
    metric(key, unit, Some(Goal::AtMost(limit)))
}

const fn told(key: &'static str, unit: &'static str) -> Metric {
    metric(key, unit, None)
}

const fn beside(key: &'static str, unit: &'static str, source: &'static str, value: f64) -> Metric {
    Metric { reference: Some(Reference { source, value }), ..told(key, unit) }
}

/// The study of these patterns that preceded this code, on another disk.
const STUDY: &str = "C emulation";

const fn part(name: &'static str, measure: fn() -> crate::error::Result<super::Figures>) -> Part {
    Part { name, setting: Setting::Anywhere, prepare: || Ok(()), measure }
}

pub(super) const SELFIE: Benchmark = Benchmark {
    name: "selfie",
    about: "synchronous writes on Selfie and other images, over NBD",
    metrics: &[
        // One, and those of the zeros ahead: 64 of a MiB for the 1,024 clusters of a zone.
        at_most("writes_per_alloc_4k", "", 1.1),
        at_most("flushes_per_alloc_4k", "", 1.05),
        at_most("device_writes_per_alloc_4k", "", 2.3),
        at_most("device_flushes_per_alloc_4k", "", 1.05),
        at_most("device_kib_per_alloc_4k", "KiB", 90.0),
        told("qcow2.writes_per_alloc_4k", ""),
        told("qcow2.flushes_per_alloc_4k", ""),
        told("qcow2.device_writes_per_alloc_4k", ""),
        told("qcow2.device_flushes_per_alloc_4k", ""),
        told("qcow2.device_kib_per_alloc_4k", "KiB"),
        told("qcow2_lazy.writes_per_alloc_4k", ""),
        told("qcow2_lazy.flushes_per_alloc_4k", ""),
        told("qcow2_lazy.device_writes_per_alloc_4k", ""),
        told("qcow2_lazy.device_flushes_per_alloc_4k", ""),
        told("qcow2_lazy.device_kib_per_alloc_4k", "KiB"),
        told("qed.writes_per_alloc_4k", ""),
        told("qed.flushes_per_alloc_4k", ""),
        told("qed.device_writes_per_alloc_4k", ""),
        told("qed.device_flushes_per_alloc_4k", ""),
        told("qed.device_kib_per_alloc_4k", "KiB"),
        told("raw_written.writes_per_alloc_4k", ""),
        told("raw_written.flushes_per_alloc_4k", ""),
        told("raw_written.device_writes_per_alloc_4k", ""),
        told("raw_written.device_flushes_per_alloc_4k", ""),
        told("raw_written.device_kib_per_alloc_4k", "KiB"),
        at_least("vs_qcow2.4k_rand_t1", 2.0),
        at_least("vs_qcow2.4k_rand_t8", 4.0),
        at_least("vs_qcow2_lazy.4k_rand_t1", 1.0),
        at_least("vs_qcow2_lazy.4k_rand_t8", 1.0),
        at_least("vs_qed.4k_rand_t1", 1.0),
        at_least("vs_qed.4k_rand_t8", 1.0),
        at_least("vs_raw_written.4k_rand_t1", 0.9),
        at_least("vs_raw_written.4k_rand_t8", 0.9),
        told("vs_qcow2.4k_rand_t1_iops", ""),
        told("vs_qcow2.4k_rand_t8_iops", ""),
        told("vs_qcow2_lazy.4k_rand_t1_iops", ""),
        told("vs_qcow2_lazy.4k_rand_t8_iops", ""),
        told("vs_qed.4k_rand_t1_iops", ""),
        told("vs_qed.4k_rand_t8_iops", ""),
        told("vs_raw_written.4k_rand_t1_iops", ""),
        told("vs_raw_written.4k_rand_t8_iops", ""),
        told("selfie.4k_rand_t1_p50_us", "us"),
        told("selfie.4k_rand_t8_p50_us", "us"),
        told("selfie.4k_rand_t1_iops", ""),
        told("selfie.4k_rand_t8_iops", ""),
        at_least("incompressible_vs_qcow2", 1.3),
        at_least("read_vs_raw.seq", 0.95),
        at_least("read_vs_raw.rand", 0.95),
        at_least("read_vs_raw_sky.seq", 0.95),
        at_least("read_vs_raw_sky.rand", 0.95),
        // To the second decimal: a zone's summary takes a thousandth of each.
        at_most("engine.writes_per_alloc_4k", "", 1.005),
        at_most("engine.flushes_per_alloc_4k", "", 1.005),
        told("engine.upkeep_writes_per_alloc_4k", ""),
        told("engine.upkeep_flushes_per_alloc_4k", ""),
        at_most("engine.writes_per_alloc_64k", "", 1.005),
        at_most("engine.flushes_per_alloc_64k", "", 1.005),
        told("engine.writes_per_incompressible_4k", ""),
        told("engine.flushes_per_incompressible_4k", ""),
        at_least("engine.vs_raw_written.4k_rand_t1", 0.9),
        at_least("engine.vs_raw_written.4k_rand_t8", 0.9),
        at_least("engine.read_vs_raw.seq", 0.95),
        at_least("engine.read_vs_raw.rand", 0.95),
        beside("ablation.all.t1_us", "us", STUDY, 140.0),
        beside("ablation.all.t8_us", "us", STUDY, 316.0),
        beside("ablation.tables.t1_us", "us", STUDY, 204.0),
        beside("ablation.tables.t8_us", "us", STUDY, 956.0),
        beside("ablation.ordered_tables.t1_us", "us", STUDY, 280.0),
        beside("ablation.ordered_tables.t8_us", "us", STUDY, 1065.0),
        beside("ablation.allocated.t1_us", "us", STUDY, 292.0),
        beside("ablation.allocated.t8_us", "us", STUDY, 578.0),
        beside("ablation.sparse.t1_us", "us", STUDY, 275.0),
        beside("ablation.sparse.t8_us", "us", STUDY, 1124.0),
        Metric {
            reference: Some(Reference { source: "paper", value: 1.9 }),
            ..at_most("recovery_128g_seconds", "s", 0.5)
        },
        at_most("mib_per_mapped_tib", "MiB", 256.0),
    ],
    charts: &[],
    parts: &[
        part("counts", counts::measure),
        part("writes", ratios::writes),
        part("incompressible", ratios::incompressible),
        part("reads", ratios::reads),
        part("engine-counts", load::counts),
        part("engine-writes", rounds::against_raw),
        part("engine-reads", rounds::reads),
        part("ablation", rounds::ablation),
        part("recovery", open::recovery),
    ],
};
