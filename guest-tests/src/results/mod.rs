//! Benchmarks: what is measured, where, against what, and how the result is shown.
//!
//! ```text
//!   Benchmark ─┬─ metrics: what each figure means and what it is compared with
//!              ├─ charts: figures that belong together, for tables and pictures
//!              └─ parts: how figures are measured, each in the setting that it needs
//! ```
//!
//! A part that needs KVM or a clock that counts instructions runs in another process, perhaps in the lab, and prints
//! its figures as `KEY=VALUE` lines. To add a benchmark, write one file like `boot` and name it in [`ALL`].

mod accuracy;
mod boot;
mod chart;
mod guests;
mod icache;
mod idedup;
mod selfie;
mod setting;
mod svg;
mod table;
mod traps;

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::{paths, progress};

pub use chart::Chart;
pub use setting::Setting;
pub use table::table;

/// Every benchmark there is.
pub const ALL: [&Benchmark; 7] = [
    &boot::BOOT,
    &traps::TRAPS,
    &accuracy::ACCURACY,
    &selfie::SELFIE,
    &selfie::FIGURES,
    &icache::ICACHE,
    &idedup::IDEDUP,
];

/// Measured values by their keys.
pub type Figures = BTreeMap<String, f64>;

/// A set of figures that are measured together.
pub struct Benchmark {
    /// What the user calls it; also the name of its file of results.
    pub name: &'static str,
    /// One line about it.
    pub about: &'static str,
    /// The figures, in the order of the table.
    pub metrics: &'static [Metric],
    /// Figures that are shown as pictures.
    pub charts: &'static [&'static Chart],
    /// The measurements.
    pub parts: &'static [Part],
}

/// One figure and what it is compared with.
pub struct Metric {
    /// Its key in the file of results.
    pub key: &'static str,
    /// What it is counted in.
    pub unit: &'static str,
    /// What somebody else has.
    pub reference: Option<Reference>,
    /// What we want.
    pub goal: Option<Goal>,
}

/// A figure from a paper or of another program.
pub struct Reference {
    /// Whose it is.
    pub source: &'static str,
    /// The figure.
    pub value: f64,
}

/// What a figure should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
}

impl Goal {
    /// Whether a figure reaches it.
    pub fn is_met(self, value: f64) -> bool {
        match self {
            Goal::AtMost(limit) => value <= limit,
            Goal::AtLeast(limit) => value >= limit,
        }
    }
}

/// One measurement.
pub struct Part {
    /// Its name within the benchmark.
    pub name: &'static str,
    /// What it needs.
    pub setting: Setting,
    /// Gets what it needs that only the host can get. Runs here.
    pub prepare: fn() -> Result<()>,
    /// Does it. Runs in the setting.
    pub measure: fn() -> Result<Figures>,
}

/// The benchmark of that name.
pub fn find(name: &str) -> Result<&'static Benchmark> {
    ALL.into_iter().find(|benchmark| benchmark.name == name).ok_or_else(|| {
        let names: Vec<_> = ALL.iter().map(|benchmark| benchmark.name).collect();
        Error::Missing(format!("there is no benchmark {name}; there are: {}", names.join(", ")))
    })
}

impl Benchmark {
    /// Measures everything, or only the parts of these names, each where it can be measured.
    pub fn run(&self, only: &[String]) -> Result<Figures> {
        let named: Vec<&Part> = only.iter().map(|name| self.part(name)).collect::<Result<_>>()?;
        let parts = if named.is_empty() { self.parts.iter().collect() } else { named };
        let mut figures = Figures::new();
        for (at, part) in parts.iter().enumerate() {
            progress::note(&format!("measuring {} ({} of {})", part.name, at + 1, parts.len()));
            figures.extend(setting::measure(self.name, part)?);
        }
        Ok(figures)
    }

    /// Measures one part here, in this process.
    pub fn run_part(&self, name: &str) -> Result<Figures> {
        (self.part(name)?.measure)()
    }

    fn part(&self, name: &str) -> Result<&Part> {
        self.parts.iter().find(|part| part.name == name).ok_or_else(|| {
            let names: Vec<_> = self.parts.iter().map(|part| part.name).collect();
            Error::Missing(format!("{} has no part {name}; there are: {}", self.name, names.join(", ")))
        })
    }

    /// Writes the figures to their file and gives its path.
    pub fn save(&self, figures: &Figures) -> Result<PathBuf> {
        let path = self.path();
        let dir = path.parent().unwrap_or(&path);
        std::fs::create_dir_all(dir).map_err(Error::file("create", dir))?;
        let json = serde_json::to_string_pretty(figures)
            .map_err(|error| Error::Format { path: path.clone(), problem: error.to_string() })?;
        std::fs::write(&path, json + "\n").map_err(Error::file("write", &path))?;
        Ok(path)
    }

    /// The figures that were [saved](Self::save) last.
    pub fn saved(&self) -> Result<Figures> {
        let path = self.path();
        let json = std::fs::read_to_string(&path).map_err(Error::file("read", &path))?;
        serde_json::from_str(&json).map_err(|error| Error::Format { path, problem: error.to_string() })
    }

    fn path(&self) -> PathBuf {
        paths::target().join("results").join(format!("{}.json", self.name))
    }

    /// Draws the charts, as files of the documentation, and gives their paths.
    pub fn draw(&self, figures: &Figures) -> Result<Vec<PathBuf>> {
        let dir = paths::workspace().join("docs/plots");
        std::fs::create_dir_all(&dir).map_err(Error::file("create", &dir))?;
        let draw = |chart: &&Chart| {
            let path = dir.join(format!("{}.svg", chart.name));
            std::fs::write(&path, svg::draw(chart, figures)).map_err(Error::file("write", &path))?;
            Ok(path)
        };
        self.charts.iter().map(draw).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_keys_are_unique() {
        let mut seen = std::collections::HashSet::new();
        for benchmark in ALL {
            assert!(seen.insert(benchmark.name.to_string()));
            for metric in benchmark.metrics {
                assert!(seen.insert(format!("{}/{}", benchmark.name, metric.key)));
            }
            for chart in benchmark.charts {
                assert!(seen.insert(format!("{}.svg", chart.name)));
            }
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let error = find("boat").err().unwrap().to_string();
        assert!(error.contains("no benchmark boat") && error.contains("boot"), "{error}");
        let error = accuracy::ACCURACY.run(&["ext5".to_owned()]).err().unwrap().to_string();
        assert!(error.contains("no part ext5") && error.contains("ext4-complete"), "{error}");
    }

    #[test]
    fn goals_have_a_direction() {
        assert!(Goal::AtMost(3.0).is_met(3.0) && !Goal::AtMost(3.0).is_met(3.1));
        assert!(Goal::AtLeast(3.0).is_met(3.0) && !Goal::AtLeast(3.0).is_met(2.9));
    }
}
