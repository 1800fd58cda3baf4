//! The table that people read: each figure beside what others have and what we want.

use super::{Benchmark, Figures, Goal, Metric};

const HEAD: [&str; 5] = ["metric", "ours", "peer or paper", "goal", "ratio"];
const NOTHING: &str = "-";

/// The figures of a benchmark, one line each. The ratio is ours to the other's; a goal that is missed says so.
pub fn table(benchmark: &Benchmark, figures: &Figures) -> String {
    let mut rows = vec![HEAD.map(str::to_string)];
    rows.extend(benchmark.metrics.iter().map(|metric| row(metric, figures.get(metric.key).copied())));
    let widths: [usize; 5] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

fn row(metric: &Metric, value: Option<f64>) -> [String; 5] {
    let with_unit = |value: f64| format!("{} {}", short(value), metric.unit).trim_end().to_string();
    let ratio = value.zip(metric.reference.as_ref()).filter(|(_, reference)| reference.value != 0.0);
    let goal = metric.goal.map(|goal| {
        let text = match goal {
            Goal::AtMost(limit) => format!("<= {}", short(limit)),
            Goal::AtLeast(limit) => format!(">= {}", short(limit)),
        };
        if value.is_some_and(|value| !goal.is_met(value)) { text + " (missed)" } else { text }
    });
    let reference =
        metric.reference.as_ref().map(|other| format!("{} ({})", with_unit(other.value), other.source));
    [
        metric.key.to_string(),
        value.map_or(NOTHING.into(), with_unit),
        reference.unwrap_or(NOTHING.into()),
        goal.unwrap_or(NOTHING.into()),
        ratio.map_or(NOTHING.into(), |(ours, other)| format!("{:.2}", ours / other.value)),
    ]
}

/// As many digits as are worth reading.
fn short(value: f64) -> String {
    if value.fract() == 0.0 || value.abs() >= 1000.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

#[cfg(test)]
mod tests {
    use super::super::Reference;
    use super::*;

    const SAMPLE: Benchmark = Benchmark {
        name: "sample",
        about: "",
        metrics: &[
            Metric {
                key: "exits",
                unit: "",
                reference: Some(Reference { source: "paper", value: 3.0 }),
                goal: Some(Goal::AtMost(2.0)),
            },
            Metric { key: "seconds", unit: "s", reference: None, goal: None },
        ],
        charts: &[],
        parts: &[],
    };

    #[test]
    fn a_missed_goal_and_a_missing_figure_are_seen() {
        let text = table(&SAMPLE, &Figures::from([("exits".into(), 2.5)]));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0].split("  ").next(), Some("metric"));
        assert_eq!(lines[1], "exits    2.50  3 (paper)      <= 2 (missed)  0.83");
        assert_eq!(lines[2], "seconds  -     -              -              -");
    }
}
