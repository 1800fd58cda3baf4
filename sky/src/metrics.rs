//! The report in the text format of Prometheus
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
//!
//! Files are not in it: their names are the guest's, and there may be as many as it likes.

use std::fmt::Write;

use crate::Report;

/// A metric's samples: labels and their values, and the count.
type Samples = Vec<(Vec<(&'static str, String)>, u64)>;

/// Counts that one label tells apart.
fn by(label: &'static str, counts: &[(&str, u64)]) -> Samples {
    counts.iter().map(|&(value, count)| (vec![(label, value.to_owned())], count)).collect()
}

fn one(count: u64) -> Samples {
    vec![(Vec::new(), count)]
}

/// A label's value: backslash, quotation mark and line feed have a backslash in front.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn write_sample(text: &mut String, name: &str, labels: &[(&'static str, String)], count: u64) {
    let labels: Vec<String> =
        labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
    let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{name}{labels} {count}");
}

impl Report {
    /// The counters as a scrape of Prometheus wants them.
    #[must_use]
    pub fn prometheus(&self) -> String {
        let mut text = String::new();
        for (name, kind, help, samples) in
            self.block_metrics().into_iter().chain(self.trap_metrics()).chain(self.class_metrics())
        {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            samples.iter().for_each(|(labels, count)| write_sample(&mut text, name, labels, *count));
        }
        self.write_lifetimes(&mut text);
        text
    }

    fn block_metrics(&self) -> Vec<(&'static str, &'static str, &'static str, Samples)> {
        let (blocks, unique, lost) = (self.blocks, self.blocks.unique, self.untracked);
        let classes = [("data", blocks.data), ("metadata", blocks.metadata), ("unknown", blocks.unknown)];
        let signals =
            [("program", unique.program), ("extension", unique.extension), ("entropy", unique.entropy)];
        let unseen = [("superseded", blocks.superseded), ("forgotten", blocks.forgotten)];
        let forgotten = [("address", blocks.forgotten_known), ("origin", blocks.forgotten_origins)];
        let lost = [
            ("not_a_file", lost.not_a_file),
            ("excluded", lost.excluded),
            ("unreadable", lost.unreadable),
            ("partial_blocks", lost.partial_blocks),
            ("absent_blocks", lost.absent_blocks),
            ("unclear_submissions", lost.unclear_submissions),
            ("polled_rings", lost.polled_rings),
            ("unwalked_mappings", lost.unwalked_mappings),
        ];
        vec![
            (
                "sky_written_blocks_total",
                "counter",
                "Blocks of 4 KiB that the guest wrote to its disks, by what they are known for.",
                by("class", &classes),
            ),
            (
                "sky_copied_blocks_total",
                "counter",
                "Written blocks that are copies of others.",
                one(blocks.copied),
            ),
            (
                "sky_unique_blocks_total",
                "counter",
                "Written blocks with signals that they are like no other.",
                by("signal", &signals),
            ),
            (
                "sky_named_blocks_total",
                "counter",
                "Read blocks that were named by their page, or by the processes that read them.",
                one(blocks.named),
            ),
            (
                "sky_known_blocks",
                "gauge",
                "Blocks of disks of which it is known what they hold.",
                one(blocks.known),
            ),
            (
                "sky_forgotten_total",
                "counter",
                "What was forgotten of blocks of disks, because too much was known.",
                by("what", &forgotten),
            ),
            (
                "sky_pending_blocks",
                "gauge",
                "Blocks that processes wrote and that are not at a disk so far.",
                one(blocks.pending),
            ),
            (
                "sky_unseen_blocks_total",
                "counter",
                "Blocks that processes wrote and that are no longer waited for.",
                by("why", &unseen),
            ),
            ("sky_untracked_total", "counter", "What could not be followed.", by("what", &lost)),
        ]
    }

    fn trap_metrics(&self) -> Vec<(&'static str, &'static str, &'static str, Samples)> {
        let (stops, insight) = (self.stops, self.insight);
        let stops = [
            ("call", stops.calls),
            ("return", stops.returns),
            ("switch", stops.switches),
            ("invalid_opcode", stops.invalid_opcodes),
            ("compat_call", stops.compat),
            ("debug_exception", stops.debug_exceptions),
        ];
        let insight = [
            ("made", insight.made),
            ("retried", insight.retried),
            ("refused", insight.refused),
            ("given_up", insight.given_up),
        ];
        let calls = self.calls.iter().flat_map(|(name, count)| {
            [("entered", count.entered), ("returned", count.returned)]
                .map(|(event, count)| (vec![("call", name.clone()), ("event", event.to_owned())], count))
        });
        vec![
            ("sky_armed", "gauge", "1 if traps were set.", one(self.armed.into())),
            ("sky_processes_total", "counter", "Monitored processes.", one(self.processes.len() as u64)),
            (
                "sky_outstanding_calls",
                "gauge",
                "System calls that have not returned so far.",
                one(self.outstanding),
            ),
            ("sky_calls_total", "counter", "System calls of monitored processes.", calls.collect()),
            ("sky_stops_total", "counter", "Stops of the guest.", by("why", &stops)),
            ("sky_insight_calls_total", "counter", "Insight-calls.", by("how", &insight)),
        ]
    }

    fn class_metrics(&self) -> Vec<(&'static str, &'static str, &'static str, Samples)> {
        let blocks = self
            .classes
            .iter()
            .map(|class| (vec![("class", class.id.to_string()), ("rule", class.name.clone())], class.blocks));
        let ends = self.lifetimes.iter().flat_map(|class| {
            [
                ("overwritten", class.overwritten),
                ("truncated", class.truncated),
                ("deleted", class.deleted),
                ("discarded", class.discarded),
            ]
            .map(|(cause, count)| {
                (vec![("class", class.class.to_string()), ("cause", cause.to_owned())], count)
            })
        });
        vec![
            (
                "sky_class_blocks_total",
                "counter",
                "Written blocks by their class of the policy.",
                blocks.collect(),
            ),
            (
                "sky_ended_blocks_total",
                "counter",
                "Blocks that came to an end on a disk, by what ended them.",
                ends.collect(),
            ),
        ]
    }

    /// A histogram for each class. Its sum is not known, and is left out.
    fn write_lifetimes(&self, text: &mut String) {
        const NAME: &str = "sky_block_lifetime_seconds";
        let _ = writeln!(text, "# HELP {NAME} How long blocks lived on a disk.\n# TYPE {NAME} histogram");
        for class in &self.lifetimes {
            let label = |le: String| [("class", class.class.to_string()), ("le", le)];
            let mut so_far = 0;
            for (place, count) in (1u32..).zip(&class.seconds) {
                so_far += count;
                let bound = 1u64.checked_shl(place).unwrap_or(u64::MAX);
                write_sample(text, &format!("{NAME}_bucket"), &label(bound.to_string()), so_far);
            }
            write_sample(text, &format!("{NAME}_bucket"), &label("+Inf".to_owned()), so_far);
            write_sample(text, &format!("{NAME}_count"), &[("class", class.class.to_string())], so_far);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::insight::{BlockCounts, ClassCount, ClassLifetimes};
    use crate::report::CallCount;

    fn report() -> Report {
        let class = |id, name: &str| ClassCount { id, name: name.to_owned(), blocks: 3 };
        let lifetimes = ClassLifetimes { class: 1, deleted: 3, seconds: vec![1, 0, 2], ..Default::default() };
        Report {
            armed: true,
            calls: [("write".to_owned(), CallCount { entered: 5, returned: 4 })].into(),
            blocks: BlockCounts { data: 7, ..BlockCounts::default() },
            classes: vec![class(0, "unclassified"), class(1, "directory:/a\"\\b\n&direct")],
            lifetimes: vec![lifetimes],
            ..Report::default()
        }
    }

    #[test]
    fn counters_have_their_lines() {
        let text = report().prometheus();
        for line in [
            "sky_armed 1",
            "sky_written_blocks_total{class=\"data\"} 7",
            "sky_calls_total{call=\"write\",event=\"returned\"} 4",
            "sky_class_blocks_total{class=\"1\",rule=\"directory:/a\\\"\\\\b\\n&direct\"} 3",
            "sky_ended_blocks_total{class=\"1\",cause=\"deleted\"} 3",
            "sky_block_lifetime_seconds_bucket{class=\"1\",le=\"2\"} 1",
            "sky_block_lifetime_seconds_bucket{class=\"1\",le=\"4\"} 1",
            "sky_block_lifetime_seconds_bucket{class=\"1\",le=\"8\"} 3",
            "sky_block_lifetime_seconds_bucket{class=\"1\",le=\"+Inf\"} 3",
            "sky_block_lifetime_seconds_count{class=\"1\"} 3",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}\n{text}");
        }
    }

    /// As the format's description has it: a metric has its help and its type once, before its samples, and no two samples
    /// have the same name and labels.
    #[test]
    fn the_text_is_well_formed() {
        let text = report().prometheus();
        assert!(text.ends_with('\n'));
        let (mut names, mut samples) = (BTreeSet::new(), BTreeSet::new());
        let mut current = "";
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                current = rest.split_once(' ').unwrap().0;
                assert!(names.insert(current), "{line}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert_eq!(name, current);
                assert!(["counter", "gauge", "histogram"].contains(&kind));
                assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
            } else {
                let (sample, value) = line.rsplit_once(' ').unwrap();
                let name = sample.split('{').next().unwrap();
                assert!(name == current || name.strip_prefix(current).is_some(), "{line}");
                assert!(value.parse::<u64>().is_ok() && samples.insert(sample), "{line}");
            }
        }
        assert!(names.len() > 10);
    }
}
