//! What a cache that knows classes is worth against those that do not, and what it costs.
//!
//! ```text
//!   programs on a loop device ──▶ trace ──▶ ours, on simulated disks  ──▶ simulated seconds
//!     record, ext4: classes                 four policies, the same
//!   memory on both sides ─────────────────▶ ours, and plain copies    ──▶ microseconds
//! ```
//!
//! Seconds of disks are simulated: nobody waits, and the figures repeat. Ours is the engine as it is, told what Sky would
//! tell it; the others are their policies alone, with as many blocks as ours has room for, and write no journal.

mod cost;
mod ext4;
mod find;
mod loads;
mod memory;
mod policies;
mod record;
mod replay;
#[cfg(test)]
mod tests;
mod tpch;
mod trace;
mod workloads;

use super::chart::{Chart, Label, Style};
use super::{Benchmark, Goal, Metric, Part, Reference, Setting};

const fn metric(key: &'static str, unit: &'static str, goal: Option<Goal>) -> Metric {
    Metric { key, unit, reference: None, goal }
}

const fn told(key: &'static str, unit: &'static str) -> Metric {
    metric(key, unit, None)
}

const fn label(key: &'static str, name: &'static str) -> Label {
    Label { key, name }
}

const CACHES: &[Label] = &[
    label("ours", "iCache"),
    label("lru", "LRU"),
    label("s3fifo", "S3-FIFO"),
    label("lirs", "LIRS"),
    label("wtinylfu", "W-TinyLFU"),
    label("none", "no cache"),
];

const FIND: Chart = Chart {
    name: "icache-find",
    title: "find of a missing name in kernel sources, between scans of all of them",
    x: "cache, MiB",
    ticks: &find::SIZES,
    y: "simulated seconds",
    style: Style::Lines,
    panels: &[label("seconds", "one find, SSD before a disk of 5,400 rpm")],
    series: CACHES,
};

const FIND_HITS: Chart = Chart {
    name: "icache-find-hits",
    title: "The same: blocks that find has found in the cache",
    y: "% of what it reads",
    panels: &[label("hits", "")],
    ..FIND
};

const LOADS: Chart = Chart {
    name: "icache-loads",
    title: "All requests of a mail server, a web server, and the unpacking of kernel sources",
    ticks: &loads::SIZES,
    panels: &[label("mail", "postmark"), label("web", "small files"), label("untar", "untar")],
    ..FIND
};

const TPCH: Chart = Chart {
    name: "icache-tpch",
    title: "A join of TPC-H through a secondary index, with the clustered one hinted",
    ticks: &tpch::SIZES,
    panels: &[label("seconds", "one join, SSD before a disk of 5,400 rpm")],
    series: &[
        label("ours", "iCache"),
        label("unhinted", "iCache, no hints"),
        label("lru", "LRU"),
        label("s3fifo", "S3-FIFO"),
        label("lirs", "LIRS"),
        label("wtinylfu", "W-TinyLFU"),
        label("none", "no cache"),
    ],
    ..FIND
};

pub(super) const ICACHE: Benchmark = Benchmark {
    name: "icache",
    about: "a cache that knows classes against four that do not, on simulated disks; what a hit and a miss cost",
    metrics: &[
        Metric {
            key: "find.best_over_lru",
            unit: "",
            reference: Some(Reference { source: "paper, over bcache", value: 8.8 }),
            goal: Some(Goal::AtLeast(8.8)),
        },
        metric("find.worst_over_best_classless", "", Some(Goal::AtLeast(1.0))),
        told("find.over_lru_48.hdd_7200", ""),
        told("find.over_lru_48.full_stroke", ""),
        told("find.requests", ""),
        told("find.mib", "MiB"),
        told("find.metadata_percent", "%"),
        Metric {
            key: "tpch.speedup",
            unit: "",
            reference: Some(Reference { source: "paper, over bcache", value: 2.3 }),
            goal: Some(Goal::AtLeast(2.3)),
        },
        told("tpch.over_unhinted", ""),
        told("tpch.over_best_classless", ""),
        told("tpch.hinted_mib", "MiB"),
        told("tpch.hinted_reads", ""),
        told("tpch.unhinted_mib", "MiB"),
        told("tpch.unhinted_reads", ""),
        metric("mail.over_best_classless", "", Some(Goal::AtLeast(1.0))),
        told("mail.reads", ""),
        told("mail.writes", ""),
        metric("web.over_best_classless", "", Some(Goal::AtLeast(1.0))),
        told("web.reads", ""),
        metric("untar.over_best_classless", "", Some(Goal::AtLeast(1.0))),
        told("untar.reads", ""),
        told("untar.writes", ""),
        metric("hit_us", "us", Some(Goal::AtMost(2.0))),
        told("hit_memcpy_us", "us"),
        told("hit_us_t2", "us"),
        told("hit_memcpy_us_t2", "us"),
        told("hit_per_second_t1", ""),
        told("hit_per_second_t2", ""),
        metric("miss_us", "us", Some(Goal::AtMost(2.0))),
        told("miss_memcpy_us", "us"),
        told("miss_us_t2", "us"),
        told("miss_memcpy_us_t2", "us"),
        told("miss_per_second_t1", ""),
        told("miss_per_second_t2", ""),
        metric("bytes_per_block", "B", Some(Goal::AtMost(24.0))),
    ],
    charts: &[&FIND, &FIND_HITS, &TPCH, &LOADS],
    parts: &[
        part("find", find::measure),
        part("tpch", tpch::measure),
        part("loads", loads::measure),
        part("cost", cost::measure),
    ],
};

const fn part(name: &'static str, measure: fn() -> crate::error::Result<super::Figures>) -> Part {
    Part { name, setting: Setting::Anywhere, prepare: || Ok(()), measure }
}
