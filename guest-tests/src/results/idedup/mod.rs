//! What hints save iDedup, in simulated time; and what its index, its processor time and its ratio are, in real ones.

mod btree;
mod cpu;
mod index;
mod memory;
mod ratio;
mod streams;

use super::chart::{Chart, Label, Style};
use super::{Benchmark, Goal, Metric, Part, Reference, Setting};

const fn told(key: &'static str, unit: &'static str) -> Metric {
    Metric { key, unit, reference: None, goal: None }
}

/// Of the paper, which calls its disk no name.
const fn times(key: &'static str, paper: f64) -> Metric {
    Metric {
        reference: Some(Reference { source: "paper", value: paper }),
        goal: Some(Goal::AtLeast(paper)),
        ..told(key, "")
    }
}

const fn at_least(key: &'static str, unit: &'static str, limit: f64) -> Metric {
    Metric { goal: Some(Goal::AtLeast(limit)), ..told(key, unit) }
}

const fn at_most(key: &'static str, unit: &'static str, limit: f64) -> Metric {
    Metric { goal: Some(Goal::AtMost(limit)), ..told(key, unit) }
}

/// The study that preceded this code, of the index alone: a million fingerprints, 8 MiB of memory.
const fn beside_study(metric: Metric, value: f64) -> Metric {
    Metric { reference: Some(Reference { source: "study", value }), ..metric }
}

const fn label(key: &'static str, name: &'static str) -> Label {
    Label { key, name }
}

const fn part(name: &'static str, measure: fn() -> crate::error::Result<super::Figures>) -> Part {
    Part { name, setting: Setting::Anywhere, prepare: || Ok(()), measure }
}

const COPY: Chart = Chart {
    name: "idedup-copy",
    title: "Copy of a file of 500 MiB, simulated time",
    x: "memory, of what all fingerprints take",
    ticks: &streams::MEMORY,
    y: "seconds",
    style: Style::LogLines,
    panels: &[
        label("hdd_5400", "5,400 rpm"),
        label("hdd_7200", "7,200 rpm"),
        label("paper_ssd", "SSD of the paper's time"),
        label("ssd", "SSD of today"),
    ],
    series: &[label("hinted", "iDedup"), label("plain", "iDedup, hints ignored"), label("btree", "B-tree")],
};

const ENCRYPT: Chart =
    Chart { name: "idedup-encrypt", title: "Encryption of a file of 500 MiB, simulated time", ..COPY };

pub(super) const IDEDUP: Benchmark = Benchmark {
    name: "idedup",
    about: "what hints save a deduplicating disk, its index, and its processor time",
    metrics: &[
        times("copy.speedup_1pct", 4.5),
        times("copy.speedup_10pct", 4.5),
        told("copy.speedup_over_plain_1pct", ""),
        told("copy.speedup_over_plain_10pct", ""),
        times("encrypt.speedup_1pct", 18.7),
        times("encrypt.speedup_10pct", 18.7),
        told("encrypt.speedup_over_plain_1pct", ""),
        told("encrypt.speedup_over_plain_10pct", ""),
        beside_study(at_least("index.inserts_per_second", "", 258_000.0), 258_000.0),
        beside_study(at_most("index.hit_us", "us", 59.0), 59.0),
        at_most("index.hit_kib", "KiB", 4.0),
        at_most("index.miss_us", "us", 1.0),
        told("index.miss_kib", "KiB"),
        told("index.10pct.inserts_per_second", ""),
        told("index.10pct.hit_us", "us"),
        told("index.10pct.hit_kib", "KiB"),
        told("index.10pct.miss_us", "us"),
        told("index.10pct.miss_kib", "KiB"),
        beside_study(told("index.study.inserts_per_second", ""), 258_000.0),
        beside_study(told("index.study.hit_us", "us"), 59.0),
        told("index.study.hit_kib", "KiB"),
        beside_study(told("index.study.miss_us", "us"), 0.9),
        told("index.study.miss_kib", "KiB"),
        told("cpu_us.blake3", "us"),
        told("cpu_us.short_name", "us"),
        told("cpu_us.medium", "us"),
        at_most("cpu_us.duplicate", "us", 4.0),
        at_most("cpu_us.new", "us", 4.0),
        at_most("cpu_us.unique", "us", 0.5),
        at_most("cpu_us.copy", "us", 0.5),
        told("cpu_us.duplicate_all", "us"),
        told("cpu_us.new_all", "us"),
        told("cpu_us.unique_all", "us"),
        told("cpu_us.copy_all", "us"),
        told("cpu_us.read", "us"),
        told("cpu_us.read_plain", "us"),
        told("ratio.images", ""),
        told("ratio.mib", "MiB"),
        told("ratio.ours", ""),
        told("ratio.naive", ""),
        at_most("ratio.blocks_stored_twice", "", 0.0),
    ],
    charts: &[&COPY, &ENCRYPT],
    parts: &[
        part("streams", streams::measure),
        part("index", index::measure),
        part("cpu", cpu::measure),
        part("ratio", ratio::measure),
    ],
};
