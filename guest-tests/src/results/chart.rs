//! Figures that are looked at rather than read: what belongs together, and the table of it.

use std::fmt::Write as _;

use super::Figures;

/// Some panels side by side, which have everything in common but one condition.
pub struct Chart {
    /// Its name in keys and in the name of its file.
    pub name: &'static str,
    /// What it shows.
    pub title: &'static str,
    /// What is changed from one point to the next.
    pub x: &'static str,
    /// The steps of that, by their names in keys, which are shown too.
    pub ticks: &'static [&'static str],
    /// What is measured, with its unit.
    pub y: &'static str,
    /// How it is drawn.
    pub style: Style,
    /// The conditions.
    pub panels: &'static [Label],
    /// What is compared.
    pub series: &'static [Label],
}

/// How a chart is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A line for each series, from zero up.
    Lines,
    /// The same over several powers of ten.
    LogLines,
    /// A bar for each series, from zero to the right.
    Bars,
}

/// A name in keys, and in words.
pub struct Label {
    /// In keys.
    pub key: &'static str,
    /// In words.
    pub name: &'static str,
}

/// A measured value, and how far the rounds were apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// The median of the rounds.
    pub value: f64,
    /// The lowest of them.
    pub low: f64,
    /// The highest.
    pub high: f64,
}

impl Point {
    /// The median and the ends of what several rounds gave.
    pub fn of(rounds: &[f64]) -> Option<Self> {
        let mut sorted = rounds.to_vec();
        sorted.sort_by(f64::total_cmp);
        // Of an even number, between the middle two.
        let (below, above) = (sorted.get(sorted.len().checked_sub(1)? / 2)?, sorted.get(sorted.len() / 2)?);
        Some(Self { value: f64::midpoint(*below, *above), low: *sorted.first()?, high: *sorted.last()? })
    }

    /// Puts it among the figures, to six decimals.
    pub fn store(self, figures: &mut Figures, key: &str) {
        for (name, value) in [("", self.value), (".low", self.low), (".high", self.high)] {
            figures.insert(format!("{key}{name}"), (value * 1e6).round() / 1e6);
        }
    }

    fn load(figures: &Figures, key: &str) -> Option<Self> {
        let value = *figures.get(key)?;
        let end = |name: &str| figures.get(&format!("{key}.{name}")).copied().unwrap_or(value);
        Some(Self { value, low: end("low"), high: end("high") })
    }
}

impl Chart {
    /// What was measured for a series of a panel at a tick.
    pub fn point(&self, figures: &Figures, panel: &Label, series: &Label, tick: &str) -> Option<Point> {
        Point::load(figures, &format!("{}.{}.{}.{tick}", self.name, panel.key, series.key))
    }

    /// Its tables in Markdown, one for each panel: medians, and the largest distance of two rounds in a line, in
    /// hundredths of their median.
    pub fn tables(&self, figures: &Figures) -> String {
        let mut text = self.title.to_string();
        if let Some(rounds) = figures.get(&format!("{}.rounds", self.name)) {
            let _ = write!(text, " (rounds: {rounds})");
        }
        text.push('\n');
        for panel in self.panels {
            let mut head = vec![if panel.name.is_empty() { self.y.into() } else { panel.name.to_string() }];
            head.extend(self.ticks.iter().map(|tick| (*tick).to_string()));
            head.push("spread".into());
            let _ = writeln!(text, "\n| {} |\n|{}", head.join(" | "), "---|".repeat(head.len()));
            for series in self.series {
                let points: Vec<_> =
                    self.ticks.iter().map(|tick| self.point(figures, panel, series, tick)).collect();
                if points.iter().all(Option::is_none) {
                    continue;
                }
                let spread = points.iter().flatten().map(|point| (point.high - point.low) / point.value);
                let spread = spread.fold(0.0, f64::max);
                let cells: Vec<_> = points
                    .iter()
                    .map(|point| point.map_or(String::new(), |point| short(point.value)))
                    .collect();
                let spread = if spread > 0.0 { format!("{:.0}%", spread * 100.0) } else { String::new() };
                let _ = writeln!(text, "| {} | {} | {spread} |", series.name, cells.join(" | "));
            }
        }
        text
    }
}

/// Three digits.
pub(super) fn short(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) const SAMPLE: Chart = Chart {
        name: "sample",
        title: "Throughput <of> samples",
        x: "threads",
        ticks: &["1", "2"],
        y: "MB/s",
        style: Style::Lines,
        panels: &[Label { key: "4k", name: "4 KiB" }],
        series: &[Label { key: "ours", name: "ours" }, Label { key: "theirs", name: "theirs" }],
    };

    #[test]
    fn medians_and_their_spread_are_in_the_table_and_what_was_not_measured_is_not() {
        let mut figures = Figures::new();
        Point::of(&[30.0, 10.0, 20.0]).unwrap().store(&mut figures, "sample.4k.ours.1");
        Point::of(&[5.0]).unwrap().store(&mut figures, "sample.4k.ours.2");
        assert_eq!(
            SAMPLE.tables(&figures),
            "Throughput <of> samples\n\n| 4 KiB | 1 | 2 | spread |\n|---|---|---|---|\n| ours | 20.0 | 5.00 | 100% |\n"
        );
        assert_eq!(Point::of(&[]), None);
    }
}
