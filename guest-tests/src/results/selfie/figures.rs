//! The paper's figures 5 to 8 and 10 as charts of ours.

use super::super::chart::{Chart, Label, Style};
use super::super::{Benchmark, Part};
use super::{open, part, sweep};

const fn label(key: &'static str, name: &'static str) -> Label {
    Label { key, name }
}

const SELFIE: Label = label("selfie", "Selfie");
const QCOW2: Label = label("qcow2", "qcow2");
const LAZY: Label = label("qcow2_lazy", "qcow2, lazy refcounts");
const QED: Label = label("qed", "QED");
const WRITTEN: Label = label("raw_written", "raw, written before");
const SPARSE: Label = label("raw_sparse", "raw, sparse");

const SYSTEMS: &[Label] = &[SELFIE, QCOW2, LAZY, QED, WRITTEN, SPARSE];
const SIZES: &[Label] = &[label("64k", "64 KiB"), label("512k", "512 KiB"), label("4m", "4 MiB")];

/// Throughput of writes that are each flushed, over threads.
const THROUGHPUT: Chart = Chart {
    name: "",
    title: "",
    x: "threads",
    ticks: &sweep::THREADS,
    y: "MB/s",
    style: Style::Lines,
    panels: SIZES,
    series: SYSTEMS,
};

const FIGURE_5: Chart = Chart {
    name: "selfie-fig5",
    title: "Figure 5: sequential writes, each flushed; images on a block device",
    series: &[SELFIE, QCOW2, LAZY, WRITTEN],
    ..THROUGHPUT
};

const FIGURE_6: Chart = Chart {
    name: "selfie-fig6",
    title: "Figure 6: random writes, each flushed; images on a block device",
    panels: &[label("4k", "4 KiB"), label("512k", "512 KiB"), label("4m", "4 MiB")],
    series: &[SELFIE, QCOW2, LAZY, WRITTEN],
    ..THROUGHPUT
};

const FIGURE_7: Chart = Chart {
    name: "selfie-fig7",
    title: "Figure 7: sequential writes, each flushed; images are files on ext4",
    ..THROUGHPUT
};

const FIGURE_7_RANDOM: Chart = Chart {
    name: "selfie-fig7-random",
    title: "As figure 7, random writes",
    panels: &[label("4k", "4 KiB"), label("64k", "64 KiB")],
    ..THROUGHPUT
};

const FIGURE_8: Chart = Chart {
    name: "selfie-fig8",
    title: "Figure 8: 256 MiB read, then written back with one flush at the end",
    x: "",
    ticks: &["seconds"],
    y: "seconds",
    style: Style::Bars,
    panels: &[label("read", "read"), label("write", "write")],
    series: &[
        label("selfie_100", "Selfie, all compresses"),
        label("selfie_50", "Selfie, half compresses"),
        label("selfie_0", "Selfie, nothing compresses"),
        QCOW2,
        LAZY,
        QED,
        WRITTEN,
        SPARSE,
    ],
};

const FIGURE_10: Chart = Chart {
    name: "selfie-fig10",
    title: "Figure 10: opening an image after a crash",
    x: "size of the image, GiB, all allocated",
    ticks: &open::SIZES,
    y: "seconds",
    style: Style::LogLines,
    panels: &[label("open", "")],
    series: &[
        label("shared", "Selfie, four zones per summary cluster"),
        label("own", "one zone"),
        label("none", "no summaries"),
        label("paper_shared", "paper, eight zones"),
        label("paper_own", "paper, one zone"),
        label("paper_none", "paper, none"),
    ],
};

pub(in super::super) const FIGURES: Benchmark = Benchmark {
    name: "selfie-figures",
    about: "figures 5 to 8 and 10 of the Selfie paper, as tables and pictures",
    metrics: &[],
    charts: &[&FIGURE_5, &FIGURE_6, &FIGURE_7, &FIGURE_7_RANDOM, &FIGURE_8, &FIGURE_10],
    parts: &PARTS,
};

const PARTS: [Part; 6] = [
    part("figure-5", sweep::sequential_on_device),
    part("figure-6", sweep::random_on_device),
    part("figure-7", sweep::sequential_in_file),
    part("figure-7-random", sweep::random_in_file),
    part("figure-8", sweep::copy),
    part("figure-10", open::sizes),
];
